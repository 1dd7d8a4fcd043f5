#pragma once

#include "core/moments.h"
#include "core/step_search.h"
#include "cuda/launch.cuh"

namespace ribs::cuda {

constexpr int64_t kParts = 128;  ///< blocks that scan one row

/// The pieces of the workspace of a search, as offsets into one allocation.
struct Workspace {
    int64_t entries;                ///< suffix sums of a row: values or bins, and one more
    Totals* parts;                  ///< [rows, kParts]
    Totals* totals;                 ///< [rows]
    Tail* tails;                    ///< [rows, entries]
    double* squares;                ///< [rows, entries]
    unsigned long long* counts;     ///< [rows, bins]; binned rows only
    unsigned long long* residuals;  ///< [rows, bins]; binned rows only

    /// Bytes of one row, the same for every row.
    static int64_t row_bytes(int64_t n) {
        const int64_t entries = entries_of(n), bins = search_steps_sorts(n) ? 0 : BinnedMoments::kBins;
        return static_cast<int64_t>(sizeof(Totals)) * (kParts + 1) +
               static_cast<int64_t>(sizeof(Tail) + sizeof(double)) * entries + 16 * bins;
    }
    static int64_t entries_of(int64_t n) { return (search_steps_sorts(n) ? n : BinnedMoments::kBins) + 1; }

    Workspace(void* memory, int64_t rows, int64_t n) : entries(entries_of(n)) {
        parts = static_cast<Totals*>(memory);
        totals = parts + rows * kParts;
        tails = reinterpret_cast<Tail*>(totals + rows);
        squares = reinterpret_cast<double*>(tails + rows * entries);
        counts = reinterpret_cast<unsigned long long*>(squares + rows * entries);
        residuals = counts + rows * (search_steps_sorts(n) ? 0 : BinnedMoments::kBins);
    }
};

/// Gives the moments of a row of sorted values.
struct SortedRows {
    Workspace work;
    const float* sorted;
    int64_t n;

    __device__ SortedMoments moments(int64_t row) const {
        return {work.totals[row],
                sorted + row * n,
                work.tails + row * work.entries,
                work.squares + row * work.entries,
                nullptr,
                0.0,
                0};
    }
    /// Count, sum and sum of squares of entry i.
    __device__ void entry(int64_t row, int64_t i, Tail& tail, double& square) const {
        const double value = static_cast<double>(sorted[row * n + i]);
        tail = {1.0, value};
        square = value * value;
    }
};

/// Gives the moments of a row as a histogram.
struct BinnedRows {
    Workspace work;

    __device__ BinScale scale(int64_t row) const {
        return BinScale::over(work.totals[row].minimum, work.totals[row].maximum);
    }
    __device__ BinnedMoments moments(int64_t row) const {
        return {work.totals[row], work.tails + row * work.entries, work.squares + row * work.entries,
                scale(row).bins_per_unit()};
    }
    __device__ void entry(int64_t row, int64_t i, Tail& tail, double& square) const {
        const int64_t at = row * BinnedMoments::kBins + i;
        const double count = static_cast<double>(work.counts[at]);
        tail = {count, scale(row).sum(i, count, static_cast<double>(work.residuals[at]))};
        square = count > 0.0 ? tail.sum * tail.sum / count : 0.0;
    }
};

}  // namespace ribs::cuda
