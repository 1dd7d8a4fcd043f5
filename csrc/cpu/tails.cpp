#include "cpu/tails.h"

#include <algorithm>

#include "cpu/parallel.h"
#include "cpu/radix_sort.h"

namespace ribs::cpu {
namespace {

/// Turns entries, given by what lies in each, into suffix sums; entry(i) is called from the last to the
/// first.
template <class Entry>
void suffix_sums(std::vector<Tail>& tails, int64_t entries, const Entry& entry) {
    tails.resize(static_cast<size_t>(entries) + 2);
    Tail base = {0.0, 0.0};
    tails[static_cast<size_t>(entries)] = tails[static_cast<size_t>(entries) + 1] = base;
    for (int64_t segment = (entries - 1) / kSegment; segment >= 0; --segment) {
        Tail own = {0.0, 0.0};
        for (int64_t i = std::min((segment + 1) * kSegment, entries); i-- > segment * kSegment;) {
            const Tail one = entry(i);
            own = {own.count + one.count, own.sum + one.sum};
            tails[static_cast<size_t>(i)] = {base.count + own.count, base.sum + own.sum};
        }
        base = {base.count + own.count, base.sum + own.sum};
    }
}

void add(const std::vector<Tail>& a, const std::vector<Tail>& b, std::vector<Tail>& out) {
    out.resize(a.size());
    for (size_t i = 0; i < a.size(); ++i) out[i] = {a[i].count + b[i].count, a[i].sum + b[i].sum};
}

RIBS_CLONES
void positions(const float* x, int64_t n, double scale, uint32_t* out) {
    for (int64_t i = 0; i < n; ++i)
        out[i] = static_cast<uint32_t>(static_cast<int32_t>(std::fabs(static_cast<double>(x[i])) * scale));
}

}  // namespace

RIBS_CLONES
RowScan scan_row(const float* x, int64_t n) {
    constexpr int64_t kLanes = 32;
    float low[kLanes], high[kLanes], check[kLanes] = {};
    double square[kLanes] = {};
    std::fill_n(low, kLanes, x[0]);
    std::fill_n(high, kLanes, x[0]);
    for (int64_t at = 0; at < n; at += kLanes) {
        const int64_t lanes = std::min(kLanes, n - at);
        for (int64_t lane = 0; lane < lanes; ++lane) {
            const float value = x[at + lane];
            low[lane] = value < low[lane] ? value : low[lane];
            high[lane] = value > high[lane] ? value : high[lane];
            square[lane] += static_cast<double>(value) * static_cast<double>(value);
            check[lane] += value * 0.0f;  // NaN as soon as one value is not finite
        }
    }
    for (int64_t width = kLanes / 2; width > 0; width /= 2) {
        for (int64_t lane = 0; lane < width; ++lane) {
            low[lane] = std::min(low[lane], low[lane + width]);
            high[lane] = std::max(high[lane], high[lane + width]);
            square[lane] += square[lane + width];
            check[lane] += check[lane + width];
        }
    }
    return {low[0], high[0], square[0], check[0] == 0.0f};
}

BinnedMoments<EvenBins> Tails::of_row(const float* x, int64_t n, const RowScan& scan, bool symmetric) {
    const Totals all = {static_cast<double>(n), scan.square, static_cast<double>(scan.minimum),
                        static_cast<double>(scan.maximum)};
    RowScale scale{};
    frexp(all.largest(), &scale.exponent);
    constexpr int64_t bins = int64_t{1} << RowScale::kBinBits;
    positions_.resize(static_cast<size_t>(n));
    positions(x, n, scale.scale(), positions_.data());
    words_.assign(static_cast<size_t>(2 * bins), 0);
    for (int64_t i = 0; i < n; ++i) {
        const uint32_t position = positions_[static_cast<size_t>(i)];
        const size_t side = float_bits(x[i]) >> 31 << RowScale::kBinBits;
        words_[side + RowScale::bin(position)] += RowScale::one(position);
    }
    const double unit = scale.unit();
    const auto entry = [&](int64_t i) {
        const uint64_t word = words_[static_cast<size_t>(i)];
        return Tail{RowScale::count(word), RowScale::positions(word) * unit};
    };
    suffix_sums(negative_, bins, [&](int64_t i) { return entry(bins + i); });
    if (symmetric) {  // asks for both sides together instead of the positive one
        for (size_t i = 0; i < static_cast<size_t>(bins); ++i)
            words_[i] += words_[static_cast<size_t>(bins) + i];
        suffix_sums(both_, bins, entry);
    } else {
        suffix_sums(positive_, bins, entry);
    }
    return {all,
            {scale.bins_per_unit(), static_cast<int32_t>(bins)},
            positive_.data(),
            negative_.data(),
            both_.data()};
}

SortedMoments Tails::of_sorted(const float* x, int64_t n, const RowScan& scan) {
    values_.assign(x, x + n);
    radix_sort(values_);
    suffix_sums(both_, n,
                [&](int64_t i) { return Tail{1.0, static_cast<double>(values_[static_cast<size_t>(i)])}; });
    const Totals all = {static_cast<double>(n), scan.square, static_cast<double>(scan.minimum),
                        static_cast<double>(scan.maximum)};
    return {all, values_.data(), both_.data()};
}

namespace {

/// Calls visit(count, residuals) for the bins of a row, from the first to the last.
template <class Visit>
void for_row(const TensorSketch& s, int side, int32_t octave, const Visit& visit) {
    constexpr uint64_t kResiduals = (uint64_t{1} << BinTable::kCountShift) - 1;
    if (!s.wide) {
        const uint64_t* const words = s.table.row(side, octave);
        for (int32_t i = 0; i < kRow; ++i)
            visit(i, static_cast<int64_t>(words[i] >> BinTable::kCountShift),
                  static_cast<int64_t>(words[i] & kResiduals));
        return;
    }
    const std::vector<int64_t>& counts = s.wide->counts[side << 8 | octave];
    const std::vector<int64_t>& residuals = s.wide->residuals[side << 8 | octave];
    for (size_t i = 0; i < counts.size(); ++i) visit(static_cast<int32_t>(i), counts[i], residuals[i]);
}

}  // namespace

BinnedMoments<FormatBins> Tails::of_sketch(const TensorSketch& s) {
    OctaveSums sums[2 * kOctaves] = {};
    int32_t last = 0;
    double square = squares_total(s.totals.squares);
    for (int32_t octave = 0; octave < kOctaves; ++octave) {
        for (int side = 0; side < 2; ++side) {
            if (!s.has(side, octave)) continue;
            OctaveSums& own = sums[side << 8 | octave];
            for_row(s, side, octave, [&](int32_t bin, int64_t count, int64_t residuals) {
                own.add(octave, bin, count, residuals);
            });
            square += own.square(octave);
            if (own.count > 0.0) last = octave;
        }
    }
    const FormatBins bins = FormatBins::of_octaves(first_kept(sums, last, square), last > 1 ? last : 1);
    load_side(s, 0, bins, sums, positive_);
    load_side(s, 1, bins, sums + kOctaves, negative_);
    add(positive_, negative_, both_);
    const Totals all = {static_cast<double>(s.totals.count), square, static_cast<double>(s.totals.minimum),
                        static_cast<double>(s.totals.maximum)};
    return {all, bins, positive_.data(), negative_.data(), both_.data()};
}

void Tails::load_side(const TensorSketch& s, int side, const FormatBins& bins, const OctaveSums* sums,
                      std::vector<Tail>& tails) {
    entries_.assign(static_cast<size_t>(bins.entries() - 2), {0.0, 0.0});
    for (int32_t octave = 0; octave < kOctaves - 1; ++octave) {
        const int32_t key = octave << kSketchBits;
        if (!s.has(side, octave)) continue;
        if (key < bins.first_key) {
            entries_[0] = {entries_[0].count + sums[octave].count,
                           entries_[0].sum + sums[octave].sum(octave)};
            continue;
        }
        Tail* const row = entries_.data() + (key - bins.first_key + 1);
        for_row(s, side, octave, [&](int32_t i, int64_t count, int64_t residuals) {
            row[i] = {static_cast<double>(count), bin_sum(key + i, count, residuals)};
        });
    }
    suffix_sums(tails, bins.entries() - 2, [&](int64_t i) { return entries_[static_cast<size_t>(i)]; });
}

}  // namespace ribs::cpu
