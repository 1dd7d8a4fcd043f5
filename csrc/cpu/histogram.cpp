#include "cpu/histogram.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <mutex>

#include "cpu/parallel.h"

namespace ribs::cpu {
namespace {

constexpr int64_t kBlock = 512;      // values whose positions are computed before they are counted
constexpr int64_t kFlush = 1 << 20;  // values a packed bin holds before its halves could overflow
constexpr int kCountShift = 40;      // a packed bin: count above, sum of residuals below
constexpr double kTwo52 = 4503599627370496.0;

/// Positions of a block as integers. Adding 2^52 rounds a double to an integer in its low bits, in every
/// instruction set; values of zero are compacted away since they would all queue for one bin.
RIBS_CLONES
void positions(const float* x, int64_t n, BinScale scale, uint64_t* out) {
    for (int64_t i = 0; i < n; ++i) {
        const double shifted = scale.position(x[i]) + kTwo52;
        uint64_t bits;
        std::memcpy(&bits, &shifted, 8);
        out[i] = bits & ((uint64_t{1} << 52) - 1);
    }
}

/// Copies the values that are not zero; returns how many.
int64_t compact(const float* x, int64_t n, float* out) {
    int64_t kept = 0;
    for (int64_t i = 0; i < n; ++i) {
        out[kept] = x[i];
        kept += x[i] != 0.0f;
    }
    return kept;
}

/// Counts up to kFlush values into packed bins; returns the number of zeros, which are left out.
int64_t count_values(const float* x, int64_t n, BinScale scale, uint64_t* bins) {
    float values[kBlock];
    uint64_t places[kBlock];
    int64_t zeros = 0;
    for (int64_t at = 0; at < n; at += kBlock) {
        const int64_t size = std::min(kBlock, n - at);
        const int64_t kept = compact(x + at, size, values);
        zeros += size - kept;
        positions(values, kept, scale, places);
        for (int64_t i = 0; i < kept; ++i) {
            const uint64_t residual = places[i] & ((uint64_t{1} << BinScale::kResidualBits) - 1);
            bins[places[i] >> BinScale::kResidualBits] += (uint64_t{1} << kCountShift) + residual;
        }
    }
    return zeros;
}

RIBS_CLONES
Scan scan_run(const float* x, int64_t n) {
    constexpr int kLanes = 16;
    float low[kLanes], high[kLanes], check[kLanes] = {};
    double square[kLanes] = {};
    std::fill_n(low, kLanes, x[0]);
    std::fill_n(high, kLanes, x[0]);
    const auto take = [&](int lane, float value) {
        low[lane] = value < low[lane] ? value : low[lane];
        high[lane] = value > high[lane] ? value : high[lane];
        square[lane] += static_cast<double>(value) * static_cast<double>(value);
        check[lane] += value * 0.0f;  // NaN as soon as one value is not finite
    };
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes)
        for (int lane = 0; lane < kLanes; ++lane) take(lane, x[i + lane]);
    for (; i < n; ++i) take(0, x[i]);
    Scan result{low[0], high[0], 0.0, 0, 0};
    float broken = 0.0f;
    for (int lane = 0; lane < kLanes; ++lane) {
        result.minimum = std::min(result.minimum, low[lane]);
        result.maximum = std::max(result.maximum, high[lane]);
        result.square += square[lane];
        broken += check[lane];
    }
    if (broken != broken) result.nan = -1;
    return result;
}

}  // namespace

Scan scan(const float* x, int64_t n) {
    Scan result = scan_run(x, n);
    if (result.nan == 0) return result;
    result.nan = 0;
    for (int64_t i = 0; i < n; ++i) {
        result.nan += std::isnan(x[i]);
        result.infinite += std::isinf(x[i]);
    }
    return result;
}

BinnedMoments Histogram::load(const float* x, int64_t n, const Scan& range, int threads) {
    const BinScale scale = BinScale::over(range.minimum, range.maximum);
    const size_t bins = static_cast<size_t>(BinnedMoments::kBins);
    counts_.assign(bins, 0);
    residuals_.assign(bins, 0);
    int64_t zeros = 0;
    std::mutex guard;
    std::vector<std::vector<uint64_t>> packed(static_cast<size_t>(threads));
    parallel_for((n + kFlush - 1) / kFlush, threads, [&](int worker, int64_t task) {
        std::vector<uint64_t>& own = packed[static_cast<size_t>(worker)];
        own.assign(bins, 0);
        const int64_t skipped =
            count_values(x + task * kFlush, std::min(kFlush, n - task * kFlush), scale, own.data());
        const std::lock_guard<std::mutex> lock(guard);
        zeros += skipped;
        for (size_t b = 0; b < bins; ++b) {
            counts_[b] += static_cast<int64_t>(own[b] >> kCountShift);
            residuals_[b] += static_cast<int64_t>(own[b] & ((uint64_t{1} << kCountShift) - 1));
        }
    });
    if (zeros > 0) {
        const int64_t place = static_cast<int64_t>(std::rint(scale.position(0.0f)));
        const size_t bin = static_cast<size_t>(place >> BinScale::kResidualBits);
        counts_[bin] += zeros;
        residuals_[bin] += zeros * (place & ((int64_t{1} << BinScale::kResidualBits) - 1));
    }
    finish(scale);
    const Totals all = {static_cast<double>(n), tails_[0].sum, range.square,
                        static_cast<double>(range.minimum), static_cast<double>(range.maximum)};
    return {all, tails_.data(), squares_.data(), scale.bins_per_unit()};
}

void Histogram::finish(const BinScale& scale) {
    const size_t bins = counts_.size();
    tails_.resize(bins + 1);
    squares_.resize(bins + 1);
    tails_[bins] = {0.0, 0.0};
    squares_[bins] = 0.0;
    for (size_t b = bins; b-- > 0;) {
        const double count = static_cast<double>(counts_[b]);
        const double sum = scale.sum(static_cast<int64_t>(b), count, static_cast<double>(residuals_[b]));
        tails_[b] = {tails_[b + 1].count + count, tails_[b + 1].sum + sum};
        squares_[b] = squares_[b + 1] + (count > 0.0 ? sum * sum / count : 0.0);
    }
}

}  // namespace ribs::cpu
