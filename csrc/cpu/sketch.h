#pragma once

#include <cfloat>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/sketch.h"
#include "ops.h"

namespace ribs::cpu {

/// What is known of a tensor besides its bins.
struct SketchTotals {
    int64_t count = 0, zeros = 0;
    float minimum = FLT_MAX, maximum = -FLT_MAX;  ///< meaningless where a value is not finite
    int64_t squares[kSquareCells] = {};           ///< of residuals; see SquareCells

    void merge(const SketchTotals& other);
};

/// The bins of one or more tensors as packed words, count above and residuals below, for both signs.
/// A table is as large as the float format, but only pages of octaves that occur are ever touched.
class BinTable {
  public:
    static constexpr int kCountShift = 40;
    static constexpr int64_t kLimit = (int64_t{1} << 24) - 1;  ///< values before a count could overflow

    BinTable();
    ~BinTable();
    BinTable(BinTable&& other) noexcept = default;
    BinTable& operator=(BinTable&& other) noexcept = default;

    /// Counts a run of at most kLimit values in all; zeros are only counted.
    void add(const uint32_t* x, int64_t n, SketchTotals& totals);
    /// Adds another table, and clears it.
    void absorb(BinTable& other);

    const uint64_t* row(int sign, int32_t octave) const {
        return words_.get() + ((static_cast<int64_t>(sign) << 8 | octave) << kSketchBits);
    }
    int32_t first() const { return first_; }  ///< the smallest octave that occurs
    int32_t last() const { return last_; }    ///< the largest; below first() when there is none
    int64_t values() const { return values_; }
    void clear();

  private:
    struct Free {
        void operator()(uint64_t* words) const;
    };

    void add_block(const uint32_t* bits, int64_t n, SketchTotals& totals);

    std::unique_ptr<uint64_t, Free> words_;
    int32_t first_ = kOctaves, last_ = -1;
    int64_t values_ = 0;
};

/// The bins of any number of values: counts and residuals of the octaves that occur.
struct WideBins {
    std::vector<int64_t> counts[2 * kOctaves], residuals[2 * kOctaves];  ///< kRow each, or empty

    /// Adds a table, and clears it.
    void absorb(BinTable& table);
};

/// A tensor's sketch: in `table` while that can hold it, in `wide` otherwise.
struct TensorSketch {
    SketchTotals totals;
    BinTable table;
    std::unique_ptr<WideBins> wide;

    TensorSketch() = default;
    /// A sketch that was written out before.
    explicit TensorSketch(const SketchParams& stored);
    /// Writes the octaves that occur.
    void write(SketchParams& out);
    /// Whether any value may lie in an octave of a side.
    bool has(int side, int32_t octave) const {
        if (wide) return !wide->counts[side << 8 | octave].empty();
        return table.first() <= octave && octave <= table.last();
    }
};

/// Reads n values once.
TensorSketch sketch(const float* x, int64_t n, int threads);

}  // namespace ribs::cpu
