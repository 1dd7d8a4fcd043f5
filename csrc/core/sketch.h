#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "core/macros.h"

// A moment sketch files every value under the upper bits of its own float format: sign, exponent and the
// first bits of the mantissa. So bins are the same for all tensors, the rest of the mantissa is an integer,
// and counts, sums and squares of any collection are exact integers: neither the order nor the parts in
// which values arrive can change a sketch.

namespace ribs {

/// The bits of a float.
RIBS_HD uint32_t float_bits(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof(bits));
    return bits;
}

/// The bits of a double.
RIBS_HD uint64_t double_bits(double x) {
    uint64_t bits;
    memcpy(&bits, &x, sizeof(bits));
    return bits;
}

/// The float with these bits.
RIBS_HD float float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof(x));
    return x;
}

/// The double with these bits.
RIBS_HD double double_of(uint64_t bits) {
    double x;
    memcpy(&x, &bits, sizeof(x));
    return x;
}

constexpr int32_t kOctaves = 256;      ///< exponents of a float; 0 holds denormals, 255 NaN and infinities
constexpr int32_t kSketchBits = 11;    ///< bits of the mantissa that choose the bin in a mergeable sketch
constexpr int32_t kMantissaBits = 23;  ///< of a float, without the implicit one
constexpr int32_t kSquareCells = kOctaves + 16;
constexpr uint32_t kMagnitude = 0x7fffffffu;

/// 2^exponent for exponents of normal doubles.
RIBS_HD double power_of_two(int32_t exponent) {
    return double_of(static_cast<uint64_t>(exponent + 1023) << 52);
}

/// What one unit of the mantissa is worth in an octave; denormals share that of the first normal octave.
RIBS_HD double mantissa_unit(int32_t octave) {
    return power_of_two((octave > 0 ? octave : 1) - 150);
}

constexpr int32_t kRow = 1 << kSketchBits;                      ///< bins of an octave
constexpr int32_t kResidualBits = kMantissaBits - kSketchBits;  ///< what is left of a mantissa

/// What a magnitude, as bits, adds to its bin.
RIBS_HD uint32_t residual_of(uint32_t magnitude) {
    return magnitude & ((1u << kResidualBits) - 1);
}

/// The smallest magnitude of a bin; bins of one side of zero are numbered by `key`, the upper bits of the
/// float.
RIBS_HD double bin_start(int32_t key) {
    const int64_t octave = key >> kSketchBits, rest = key & (kRow - 1);
    const int64_t mantissa = (rest | (octave > 0 ? kRow : 0)) << kResidualBits;
    return static_cast<double>(mantissa) * mantissa_unit(static_cast<int32_t>(octave));
}

/// The sum of `count` magnitudes of a bin whose residuals add up to `residuals`.
RIBS_HD double bin_sum(int32_t key, int64_t count, int64_t residuals) {
    return bin_start(key) * static_cast<double>(count) +
           static_cast<double>(residuals) * mantissa_unit(key >> kSketchBits);
}

/// Sums over the bins of one octave: whole numbers, exact in any order while they are of less than 2^29
/// values.
struct OctaveSums {
    double count, residuals;
    double starts;   ///< of the bins' first mantissas, in units of a bin, over the values
    double squares;  ///< of the same
    double crosses;  ///< of the same times the residuals

    RIBS_HD void add(int32_t octave, int32_t bin, int64_t in_bin, int64_t residual) {
        const int64_t start = bin + (octave > 0 ? kRow : 0);
        count += static_cast<double>(in_bin);
        residuals += static_cast<double>(residual);
        starts += static_cast<double>(start * in_bin);
        squares += static_cast<double>(start * start * in_bin);
        crosses += static_cast<double>(start * residual);
    }
    /// The sum of the magnitudes.
    RIBS_HD double sum(int32_t octave) const {
        return mantissa_unit(octave) * (starts * (1 << kResidualBits) + residuals);
    }
    /// The sum of their squares, without those of the residuals.
    RIBS_HD double square(int32_t octave) const {
        const double unit = mantissa_unit(octave), bin = unit * (1 << kResidualBits);
        return bin * (bin * squares + 2.0 * unit * crosses);
    }
};

/// Octaves below the largest of some hundred values whose squares of residuals can be added up in 64 bits.
constexpr int32_t kSquareReach = 15;

/// The smallest of values that are not zero, as bits, from the highest and the lowest of their bits.
RIBS_HD uint32_t least_of(uint32_t highest, uint32_t lowest) {
    return highest > kMagnitude ? highest : lowest;  // the sign is the upper bit
}

/// The largest of them, from the highest of their bits as signed numbers and the lowest as unsigned ones.
RIBS_HD uint32_t most_of(int32_t highest, uint32_t lowest) {
    return highest >= 0 ? static_cast<uint32_t>(highest) : lowest;
}

/// Squares of residuals, added up exactly: cells[octave] counts the square of that octave's mantissa unit.
/// Four units of a cell are one of the next, so sums can be carried upwards into one canonical form.
struct SquareCells {
    int64_t* cells;

    /// Adds `value` units of an octave; the upper half goes 16 cells up, since 4^16 = 2^32.
    RIBS_HD void add(int32_t octave, uint64_t value) const {
        cells[octave] += static_cast<int64_t>(value & 0xffffffffu);
        cells[octave + 16] += static_cast<int64_t>(value >> 32);
    }
    RIBS_HD void carry() const {
        for (int32_t octave = 0; octave + 1 < kSquareCells; ++octave) {
            cells[octave + 1] += cells[octave] >> 2;
            cells[octave] &= 3;
        }
    }
};

/// The total of square cells, from the smallest up.
RIBS_HD double squares_total(const int64_t* cells) {
    double sum = 0.0;
    for (int32_t octave = 0; octave < kSquareCells; ++octave)
        if (cells[octave] != 0) sum += static_cast<double>(cells[octave]) * power_of_two(2 * (octave - 150));
    return sum;
}

/// The octaves that a search keeps bins of, first to last: those below have squares that do not show beside
/// the total. `sums` is [2, kOctaves].
RIBS_HD int32_t first_kept(const OctaveSums* sums, int32_t last, double square) {
    double rest = 0.0;
    for (int32_t octave = 1; octave < last; ++octave) {
        double count = sums[octave].count + sums[kOctaves + octave].count;
        if (octave == 1) count += sums[0].count + sums[kOctaves].count;  // denormals
        rest += count * power_of_two(2 * (octave - 126));
        if (rest > square * 0x1p-30) return octave;
    }
    return last > 1 ? last : 1;
}

/// How a row of few values is filed: even bins over its range, positions inside it as fixed-point integers.
struct RowScale {
    static constexpr int32_t kPositionBits = 31;
    static constexpr int32_t kCountShift = 48;  ///< a packed bin: count above, sum of positions below

    static constexpr int32_t kBinBits = 12;  ///< bins narrow beside a step of 8 bits

    int32_t exponent;  ///< 2^exponent is just above the largest magnitude

    RIBS_HD double scale() const { return power_of_two(kPositionBits - exponent); }
    RIBS_HD uint32_t position(float x, double scale) const {
        return static_cast<uint32_t>(static_cast<int32_t>(fabs(static_cast<double>(x)) * scale));
    }
    RIBS_HD static uint32_t bin(uint32_t position) { return position >> (kPositionBits - kBinBits); }
    /// What a position adds to its bin.
    RIBS_HD static uint64_t one(uint32_t position) { return (uint64_t{1} << kCountShift) + position; }
    RIBS_HD static double count(uint64_t word) { return static_cast<double>(word >> kCountShift); }
    RIBS_HD static double positions(uint64_t word) {
        return static_cast<double>(word & ((uint64_t{1} << kCountShift) - 1));
    }
    RIBS_HD double unit() const { return power_of_two(exponent - kPositionBits); }
    RIBS_HD double bins_per_unit() const { return power_of_two(kBinBits - exponent); }
};

/// Suffix sums are added up inside segments first, then over segments, so that a GPU can do as the CPU does.
constexpr int32_t kSegment = 128;

}  // namespace ribs
