#pragma once

#include <cmath>
#include <cstdint>

#include "core/macros.h"
#include "core/sketch.h"

// What a step search asks of the data: how many magnitudes of a side of zero lie above a threshold, and their
// sum. Sorted values answer exactly; bins answer with an assignment that makes every error an upper bound of
// the true one, and with how much too high that bound can be.

namespace ribs {

/// Count and sum of some magnitudes.
struct Tail {
    double count;
    double sum;
};

/// The magnitudes above a threshold. `slack` is the most by which sum of (x - t)+ could be larger.
struct Passed {
    double count;
    double sum;
    double slack;
};

/// Which values are meant: those above zero, those below it, or both.
enum class Side { positive, negative, both };

/// What is known of a row or tensor as a whole.
struct Totals {
    double count;
    double square;
    double minimum;
    double maximum;

    RIBS_HD double up() const { return larger(maximum, 0.0); }
    RIBS_HD double down() const { return larger(-minimum, 0.0); }
    RIBS_HD double largest() const { return larger(up(), down()); }
};

/// Where a threshold falls: in which entry of the tails, and where inside that bin.
struct Place {
    int64_t entry;
    double start;  ///< the smallest magnitude of the bin
    double rest;   ///< the share of the bin's width above the threshold
};

/// Bins of the float format from first_key on, and one bin for all that is smaller.
struct FormatBins {
    int32_t first_key;
    int32_t count;  ///< without the one for the smaller values
    double floor;   ///< where the first of them starts

    RIBS_HD static FormatBins of_octaves(int32_t first, int32_t last) {
        return {first << kSketchBits, (last - first + 1) << kSketchBits, bin_start(first << kSketchBits)};
    }
    RIBS_HD int64_t entries() const { return int64_t{count} + 3; }
    RIBS_HD Place place(double t) const {
        if (t < floor) return {0, 0.0, 1.0 - t / floor};
        // The exponent and the first bits of the mantissa are the key, but for the other bias of a double.
        constexpr int kShift = 52 - kSketchBits;
        constexpr uint64_t kInside = (uint64_t{1} << kShift) - 1;
        const uint64_t word = double_bits(t);
        const int64_t key = static_cast<int64_t>(word >> kShift) - (int64_t{1023 - 127} << kSketchBits);
        if (key >= int64_t{first_key} + count) return {int64_t{count} + 1, t, 0.0};
        return {key - first_key + 1, double_of(word & ~kInside),
                1.0 - static_cast<double>(static_cast<int64_t>(word & kInside)) * 0x1p-41};
    }
};
static_assert(52 - kSketchBits == 41, "the width of a bin, in the last bits of a double");

/// Bins of equal width, a power of two.
struct EvenBins {
    double per_unit;
    int32_t count;

    RIBS_HD int64_t entries() const { return int64_t{count} + 2; }
    RIBS_HD Place place(double t) const {
        const double at = t * per_unit;
        if (!(at < count)) return {count, t, 0.0};
        const int64_t entry = static_cast<int64_t>(at);
        const double start = static_cast<double>(entry);
        return {entry, start / per_unit, 1.0 - (at - start)};
    }
};

/// Tails over bins: entry i is what lies in bin i or above it; the last two are nothing.
template <class Bins>
struct BinnedMoments {
    Totals all;
    Bins bins;
    const Tail* positive;
    const Tail* negative;
    const Tail* both;

    /// A bin cut by the threshold goes whole to the side of its mean: by Jensen's inequality the sum of
    /// (x - t)+ is at least that. It is at most what values at the two ends of the bin would give; without
    /// kSlack that is not looked at.
    template <bool kSlack>
    RIBS_HD Passed passed(Side side, double t) const {
        const Tail* const tails = side == Side::both ? both : side == Side::positive ? positive : negative;
        const Place place = bins.place(t);
        const Tail* const with = tails + place.entry;
        const double count = with[0].count - with[1].count, sum = with[0].sum - with[1].sum;
        const double over = sum - t * count;
        const Tail chosen =
            with[over > 0.0 ? 0 : 1];  // an index: a branch would be guessed wrong half the time
        if (!kSlack) return {chosen.count, chosen.sum, 0.0};
        const double most = (sum - place.start * count) * place.rest;
        return {chosen.count, chosen.sum, larger(most - larger(over, 0.0), 0.0)};
    }
};

/// Sorted values: exact tails. `tails` holds suffix sums of signed values, n + 1 entries.
struct SortedMoments {
    Totals all;
    const float* values;
    const Tail* tails;

    /// Index of the first value above t, or not below it.
    RIBS_HD int64_t first(double t, bool above) const {
        int64_t low = 0, high = static_cast<int64_t>(all.count);
        while (low < high) {
            const int64_t middle = (low + high) / 2;
            const double value = static_cast<double>(values[middle]);
            if (above ? value <= t : value < t)
                low = middle + 1;
            else
                high = middle;
        }
        return low;
    }
    template <bool kSlack>
    RIBS_HD Passed passed(Side side, double t) const {
        Passed result = {0.0, 0.0, 0.0};
        if (side != Side::negative && t < all.maximum) {
            const Tail tail = tails[first(t, true)];
            result = {tail.count, tail.sum, 0.0};
        }
        if (side != Side::positive && -t > all.minimum) {
            const Tail tail = tails[first(-t, false)];
            result.count += tails[0].count - tail.count;
            result.sum += tail.sum - tails[0].sum;
        }
        return result;
    }
};

}  // namespace ribs
