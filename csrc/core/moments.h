#pragma once

#include <cstdint>

#include "core/macros.h"

namespace ribs {

/// Count and sum of the elements on one side of a threshold.
struct Tail {
    double count;
    double sum;
};

/// What is known of a tensor as a whole.
struct Totals {
    double count;
    double sum;
    double square;
    double minimum;
    double maximum;
};

/// A sorted row: exact tails. `tails` and `squares` hold suffix sums, n + 1 entries each.
struct SortedMoments {
    Totals all;
    const float* values;
    const Tail* tails;
    const double* squares;
    const int32_t* buckets;  ///< first index of each bucket, bucket_count + 1 entries; null: bisect it all
    double bucket_scale;
    int64_t bucket_count;

    /// Index of the first value above t.
    RIBS_HD int64_t first_above(double t) const {
        if (t < all.minimum) return 0;
        const int64_t n = static_cast<int64_t>(all.count);
        if (t >= all.maximum) return n;
        int64_t low = 0, high = n;
        if (buckets != nullptr) {
            int64_t bucket = static_cast<int64_t>((t - all.minimum) * bucket_scale);
            if (bucket >= bucket_count) bucket = bucket_count - 1;
            low = buckets[bucket];
            high = buckets[bucket + 1];
        }
        while (high - low > 8) {
            const int64_t middle = (low + high) / 2;
            if (values[middle] <= t)
                low = middle + 1;
            else
                high = middle;
        }
        while (low < high && values[low] <= t) ++low;
        return low;
    }

    /// The elements above t.
    RIBS_HD Tail above(double t) const { return tails[first_above(t)]; }

    /// The squared error of clipping everything above t to t.
    RIBS_HD double clipped_above(double t) const {
        const int64_t i = first_above(t);
        return squares[i] - t * (2.0 * tails[i].sum - t * tails[i].count);
    }

    /// The squared error of clipping everything below t to t.
    RIBS_HD double clipped_below(double t) const {
        const int64_t i = first_above(t);
        const double count = all.count - tails[i].count, sum = all.sum - tails[i].sum;
        return (all.square - squares[i]) - t * (2.0 * sum - t * count);
    }
};

/// A histogram with a count and a sum in each bin. A bin cut by a threshold goes whole to the side of its
/// mean, which by Jensen's inequality makes every error an upper bound of the true one.
struct BinnedMoments {
    static constexpr int64_t kBins = 16384;

    Totals all;
    const Tail* tails;      ///< suffix sums over bins, kBins + 1 entries
    const double* squares;  ///< suffix sums of sum^2 / count, a lower bound of the sum of squares
    double bins_per_unit;

    /// Index of the bin that holds t, which must lie inside the range.
    RIBS_HD int64_t bin(double t) const {
        const int64_t i = static_cast<int64_t>((t - all.minimum) * bins_per_unit);
        return i < kBins ? i : kBins - 1;
    }

    /// The elements above t.
    RIBS_HD Tail above(double t) const {
        if (t < all.minimum) return tails[0];
        if (t >= all.maximum) return tails[kBins];
        const int64_t i = bin(t);
        const Tail with = tails[i], without = tails[i + 1];
        return with.sum - without.sum > t * (with.count - without.count) ? with : without;
    }

    /// A lower bound of the squared error of clipping everything above t to t.
    RIBS_HD double clipped_above(double t) const {
        if (t >= all.maximum) return 0.0;
        const int64_t i = t < all.minimum ? 0 : bin(t) + 1;
        return squares[i] - t * (2.0 * tails[i].sum - t * tails[i].count);
    }

    /// A lower bound of the squared error of clipping everything below t to t.
    RIBS_HD double clipped_below(double t) const {
        if (t <= all.minimum) return 0.0;
        const int64_t i = t >= all.maximum ? kBins : bin(t);
        const double count = tails[0].count - tails[i].count, sum = tails[0].sum - tails[i].sum;
        return (squares[0] - squares[i]) - t * (2.0 * sum - t * count);
    }
};

/// Places a value in the histogram: the upper bits are the bin, the lower ones the residual inside it.
struct BinScale {
    static constexpr int kResidualBits = 19;
    static constexpr int64_t kPositions = BinnedMoments::kBins << kResidualBits;

    double minimum;
    double scale;

    RIBS_HD static BinScale over(double minimum, double maximum) {
        return {minimum, static_cast<double>(kPositions - 1) / (maximum - minimum)};
    }
    /// The position as a double in [0, kPositions - 1], not yet rounded.
    RIBS_HD double position(float x) const { return (static_cast<double>(x) - minimum) * scale; }
    /// The sum of count elements of a bin whose residuals add up to `residuals`.
    RIBS_HD double sum(int64_t bin, double count, double residuals) const {
        const double start = static_cast<double>(bin << kResidualBits);
        return minimum * count + (start * count + residuals) / scale;
    }
    RIBS_HD double bins_per_unit() const { return scale / static_cast<double>(int64_t{1} << kResidualBits); }
};

}  // namespace ribs
