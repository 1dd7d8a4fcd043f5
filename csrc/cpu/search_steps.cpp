#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "core/short_rows.h"
#include "cpu/histogram.h"
#include "cpu/parallel.h"
#include "cpu/sorted_rows.h"
#include "cpu/step_search.h"
#include "ops.h"

namespace ribs {

bool search_steps_sorts(int64_t n) {
    return n <= 8192;
}

namespace cpu {
namespace {

constexpr int64_t kScanChunk = 1 << 20;

/// Tries the code vectors below all breakpoints of a short row; `best` starts as the answer of the grid.
RIBS_CLONES
void search_breakpoints(const ShortRow& row, const Totals& all, Codes codes, Candidate& best) {
    for (int32_t i = 0; i < row.n; ++i) {
        const int32_t count = breakpoints(row.values[i], codes);
        for (int32_t k = 0; k < count; ++k) {
            const double step = breakpoint(row.values[i], k);
            if (step < smallest_step(all, codes, best.error) || step < FLT_MIN) break;
            try_step(row, all, codes, step, best);
        }
    }
}

void search_short(const SortedMoments& m, const std::vector<Codes>& codes, Candidate* best) {
    std::array<double, kShortRow> values{};
    const int32_t n = static_cast<int32_t>(m.all.count);
    std::copy_n(m.values, n, values.begin());
    const ShortRow row{values.data(), n, (n + 7) / 8 * 8};
    for (size_t b = 0; b < codes.size(); ++b) search_breakpoints(row, m.all, codes[b], best[b]);
}

void write(const SearchStepsParams& p, int64_t row, const Totals& all, const std::vector<Candidate>& best) {
    for (int64_t b = 0; b < p.bits_count; ++b) {
        const Candidate& c = best[static_cast<size_t>(b)];
        const int64_t at = b * p.rows + row;
        p.step[at] = static_cast<float>(c.step);
        p.zero_point[at] = c.zero_point;
        p.mse[at] = static_cast<float>(std::max(c.error, 0.0) / all.count);
    }
}

std::vector<Codes> code_ranges(const SearchStepsParams& p) {
    std::vector<Codes> codes;
    for (int64_t b = 0; b < p.bits_count; ++b) codes.push_back({1 << p.bits[b], p.symmetric});
    return codes;
}

/// Finds minimum, maximum and sum of squares in pieces that do not depend on the threads.
Scan scan_row(const float* x, int64_t n, int threads) {
    std::vector<Scan> parts(static_cast<size_t>((n + kScanChunk - 1) / kScanChunk));
    parallel_for(static_cast<int64_t>(parts.size()), threads, [&](int, int64_t task) {
        const int64_t at = task * kScanChunk;
        parts[static_cast<size_t>(task)] = scan(x + at, std::min(kScanChunk, n - at));
    });
    Scan all = parts[0];
    for (size_t i = 1; i < parts.size(); ++i) {
        all.minimum = std::min(all.minimum, parts[i].minimum);
        all.maximum = std::max(all.maximum, parts[i].maximum);
        all.square += parts[i].square;
        all.nan += parts[i].nan;
        all.infinite += parts[i].infinite;
    }
    return all;
}

/// One row with everything it needs; kept by a thread from row to row.
struct RowSearch {
    SortedRow sorted;
    Histogram histogram;
    std::vector<Candidate> best;

    void run(const SearchStepsParams& p, const std::vector<Codes>& codes, int64_t row, const Scan& range,
             int threads) {
        best.resize(codes.size());
        const float* x = p.x + row * p.n;
        Totals all = {static_cast<double>(p.n), 0.0, range.square, static_cast<double>(range.minimum),
                      static_cast<double>(range.maximum)};
        if (range.minimum == range.maximum) {
            for (size_t b = 0; b < codes.size(); ++b) best[b] = constant_candidate(all, codes[b]);
        } else if (search_steps_sorts(p.n)) {
            const SortedMoments m = sorted.load(x, p.n);
            GridSearch<SortedMoments>(m, codes.data(), p.bits_count).run(best.data());
            if (p.n <= kShortRow) search_short(m, codes, best.data());
        } else {
            const BinnedMoments m = histogram.load(x, p.n, range, threads);
            GridSearch<BinnedMoments>(m, codes.data(), p.bits_count).run(best.data());
        }
        write(p, row, all, best);
    }
};

}  // namespace

void search_steps(const SearchStepsParams& p, int threads) {
    const std::vector<Codes> codes = code_ranges(p);
    // A few long rows are shared out inside each; otherwise a thread takes whole rows.
    const int inner = p.rows < threads ? threads : 1;
    const int outer = p.rows < threads ? 1 : threads;
    std::vector<RowSearch> workers(static_cast<size_t>(outer));
    std::atomic<int64_t> nan{0}, infinite{0};
    parallel_for(p.rows, outer, [&](int worker, int64_t row) {
        const Scan range = scan_row(p.x + row * p.n, p.n, inner);
        nan += range.nan;
        infinite += range.infinite;
        if (range.nan + range.infinite > 0) return;
        workers[static_cast<size_t>(worker)].run(p, codes, row, range, inner);
    });
    p.nonfinite[0] = nan;
    p.nonfinite[1] = infinite;
}

}  // namespace cpu
}  // namespace ribs
