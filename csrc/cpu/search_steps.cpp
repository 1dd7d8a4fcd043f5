#include <algorithm>
#include <atomic>
#include <cmath>
#include <vector>

#include "core/row_error.h"
#include "core/short_rows.h"
#include "cpu/parallel.h"
#include "cpu/sketch.h"
#include "cpu/step_search.h"
#include "cpu/tails.h"
#include "ops.h"

namespace ribs::cpu {
namespace {

constexpr int kBatch = 16;  // steps of a short row tried together: two AVX-512 registers of doubles

/// One batch after another of steps of a short row, the best codes of which are kept.
struct ShortSearch {
    const ShortRow& row;
    const Totals& all;
    Codes codes;
    Candidate best;
    double most;  ///< one over the smallest step that could still win
    StepBatch<kBatch> batch{};
    int filled = 0;

    void flush() {
        if (filled == 0) return;
        std::fill(batch.inverse + filled, batch.inverse + kBatch, batch.inverse[0]);
        if (batch.improve(row, all, codes, best)) most = 1.0 / smallest_step(all, codes, best.error);
        filled = 0;
    }
    void add(double inverse) {
        batch.inverse[filled++] = inverse;
        if (filled == kBatch) flush();
    }
};

/// Tries the codes just below every breakpoint of a short row.
RIBS_CLONES RIBS_FLATTEN void try_breakpoints(ShortSearch& search) {
    const int32_t window = search.codes.levels;
    for (int32_t first = 0; first < window;
         first += kBatch) {  // large steps first, whole batches of one value
        for (int32_t i = 0; i < search.row.n; ++i) {
            const double unit = inverse_breakpoint(search.row.values[i]);  // infinite for 0, which has none
            const int32_t count = std::min(breakpoints(search.row.values[i], search.codes), first + kBatch);
            for (int32_t k = first; k < count && (2 * k + 1) * unit <= search.most; ++k)
                search.add((2 * k + 1) * unit);
        }
    }
    search.flush();
}

/// Tries the steps of a fine grid on a short row.
RIBS_CLONES RIBS_FLATTEN void try_grid(ShortSearch& search) {
    const int32_t start = swift_start(search.all, search.codes);
    double inverse = inverse_grid_step(start, 0, search.codes);
    for (int32_t place = 1; inverse <= search.most; ++place) {
        search.add(inverse);
        inverse = inverse_grid_step(start, place, search.codes);
    }
    search.flush();
}

Answer search_short(const float* x, const Totals& all, Codes codes) {
    ShortRow row;
    row.n = static_cast<int32_t>(all.count);
    std::copy_n(x, row.n, row.values);
    const Candidate zero = zero_candidate(all);
    ShortSearch search{row, all, codes, zero, 1.0 / smallest_step(all, codes, zero.error)};
    if (only_zero(all, codes)) return {search.best, all.square};
    if (!tries_all(row.n, codes)) {
        try_grid(search);
        return {search.best, 0.0};
    }
    try_breakpoints(search);
    return {search.best, larger(0.0, search.best.error - rounding(all.square))};
}

Codes codes_of(const SearchStepsParams& p, int64_t level) {
    return {1 << p.bits[level], p.symmetric};
}

void write(const SearchStepsParams& p, int64_t row, int64_t level, const Answer& answer, double error) {
    const int64_t at = level * p.rows + row;
    const double n = static_cast<double>(p.n);
    p.step[at] = static_cast<float>(answer.best.step);
    p.zero_point[at] = answer.best.zero_point;
    p.mse[at] = static_cast<float>(larger(error, 0.0) / n);
    p.lower_bound[at] = static_cast<float>(smaller(answer.lower, larger(error, 0.0)) / n);
}

/// The squared error of a row under a quantizer.
RIBS_CLONES
double row_error(const float* x, int64_t n, Quantizer q) {
    double lanes[kErrorLanes] = {};
    int64_t at = 0;
    for (; at + kErrorLanes <= n; at += kErrorLanes)
        for (int64_t lane = 0; lane < kErrorLanes; ++lane) lanes[lane] += squared_error(x[at + lane], q);
    for (int64_t lane = 0; at + lane < n; ++lane) lanes[lane] += squared_error(x[at + lane], q);
    for (int64_t width = kErrorLanes / 2; width > 0; width /= 2)
        for (int64_t lane = 0; lane < width; ++lane) lanes[lane] += lanes[lane + width];
    return lanes[0];
}

/// Writes the answer for a row whose values are at hand, with the error that they truly have.
void write_row(const SearchStepsParams& p, int64_t row, int64_t level, const Answer& answer) {
    write(p, row, level, answer,
          row_error(p.x + row * p.n, p.n, quantizer_of(answer.best, codes_of(p, level))));
}

// Not one template: compiled once per instruction set, with all that it calls.
RIBS_CLONES RIBS_FLATTEN Answer search_moments(const BinnedMoments<EvenBins>& moments, Codes codes) {
    return StepSearch<BinnedMoments<EvenBins>, false>(moments, codes).swift();
}

RIBS_CLONES RIBS_FLATTEN Answer search_moments(const BinnedMoments<FormatBins>& moments, Codes codes) {
    return StepSearch<BinnedMoments<FormatBins>, true>(moments, codes).proven(false);
}

Answer search_moments(const SortedMoments& moments, Codes codes) {
    return StepSearch<SortedMoments, true>(moments, codes).proven(true);
}

void search_constant(const SearchStepsParams& p, int64_t row, const Totals& all) {
    for (int64_t level = 0; level < p.bits_count; ++level) {
        const Candidate best = constant_candidate(all, codes_of(p, level));
        write(p, row, level, {best, best.error}, best.error);
    }
}

/// Searches a row by its sketch; returns whether all values are finite.
bool search_sketched(const SearchStepsParams& p, int64_t row, const TensorSketch& s, Tails& tails) {
    if (s.has(0, kOctaves - 1) || s.has(1, kOctaves - 1)) return false;
    if (s.totals.minimum == s.totals.maximum) {
        search_constant(p, row, {static_cast<double>(p.n), 0.0, s.totals.minimum, s.totals.maximum});
        return true;
    }
    const BinnedMoments<FormatBins> moments = tails.of_sketch(s);
    for (int64_t level = 0; level < p.bits_count; ++level) {
        const Answer answer = search_moments(moments, codes_of(p, level));
        write(p, row, level, answer, answer.best.error);
    }
    return true;
}

/// Searches a row by its values; returns whether all of them are finite.
bool search_values(const SearchStepsParams& p, int64_t row, Tails& tails) {
    const float* const x = p.x + row * p.n;
    const RowScan scan = scan_row(x, p.n);
    if (!scan.finite) return false;
    const Totals all = {static_cast<double>(p.n), scan.square, scan.minimum, scan.maximum};
    const auto each_level = [&](const auto& search) {
        for (int64_t level = 0; level < p.bits_count; ++level)
            write_row(p, row, level, search(codes_of(p, level)));
    };
    if (scan.minimum == scan.maximum) {
        search_constant(p, row, all);
    } else if (p.n <= kExactRow || (p.n <= kShortRow && !p.exact)) {
        each_level([&](Codes codes) { return search_short(x, all, codes); });
    } else if (p.exact) {
        const SortedMoments moments = tails.of_sorted(x, p.n, scan);
        each_level([&](Codes codes) { return search_moments(moments, codes); });
    } else {
        const BinnedMoments<EvenBins> moments = tails.of_row(x, p.n, scan, p.symmetric);
        each_level([&](Codes codes) { return search_moments(moments, codes); });
    }
    return true;
}

}  // namespace

void search_steps(const SearchStepsParams& p, int threads) {
    std::atomic<int64_t> nonfinite{0};
    // A few long rows are shared out inside each; otherwise a thread takes whole rows.
    const int inner = p.rows < threads ? threads : 1, outer = p.rows < threads ? 1 : threads;
    std::vector<Tails> tails(static_cast<size_t>(outer));
    parallel_for(p.rows, outer, [&](int worker, int64_t row) {
        Tails& own = tails[static_cast<size_t>(worker)];
        const bool finite = p.n > kSwiftRow && !p.exact
                                ? search_sketched(p, row, sketch(p.x + row * p.n, p.n, inner), own)
                                : search_values(p, row, own);
        if (!finite) ++nonfinite;
    });
    *p.nonfinite = nonfinite;
}

void search_sketch(const SketchParams& sketch, const SearchStepsParams& p) {
    Tails tails;
    *p.nonfinite = search_sketched(p, 0, TensorSketch(sketch), tails) ? 0 : 1;
}

}  // namespace ribs::cpu
