#include <cfloat>
#include <type_traits>

#include "core/short_rows.h"
#include "core/step_refine.h"
#include "cuda/gather.cuh"

namespace ribs {

int64_t search_steps_workspace(int64_t rows, int64_t n) {
    return rows * cuda::Workspace::row_bytes(n);
}

namespace cuda {
namespace {

constexpr int kWarp = 32;
constexpr int kWarps = 4;

/// What the warps of a block share: running sums for one candidate each, and the best of each.
struct Shared {
    CodeSums positive[kWarps][kMaxLevels + 1];
    CodeSums negative[kWarps][kMaxLevels + 1];
    Candidate best[kWarps];
    double row[kShortRow];
};

__device__ Candidate shuffle_down(const Candidate& c, int by) {
    return {__shfl_down_sync(0xffffffffu, c.error, by), __shfl_down_sync(0xffffffffu, c.step, by),
            __shfl_down_sync(0xffffffffu, c.zero_point, by), __shfl_down_sync(0xffffffffu, c.index, by)};
}

/// Takes the best of all threads of the block into all of them.
__device__ Candidate best_of_block(Candidate best, Shared& shared) {
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    for (int by = kWarp / 2; by > 0; by /= 2) {
        const Candidate other = shuffle_down(best, by);
        if (lane + by < kWarp && better(other, best)) best = other;
    }
    if (lane == 0) shared.best[warp] = best;
    __syncthreads();
    best = shared.best[0];
    for (int other = 1; other < kWarps; ++other)
        if (better(shared.best[other], best)) best = shared.best[other];
    __syncthreads();
    return best;
}

/// A warp tries all windows of one candidate step: lanes share the thresholds, then the windows.
template <class Moments>
__device__ void try_candidate(const Moments& m, Codes codes, double step, int32_t index, Shared& shared,
                              Candidate& best) {
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    CodeSums* positive = shared.positive[warp];
    CodeSums* negative = shared.negative[warp];
    const int32_t most = codes.levels - 1;
    const int32_t up = thresholds_inside(m.all.maximum, step, codes.symmetric ? most / 2 : most);
    const int32_t down = thresholds_inside(-m.all.minimum, step, codes.symmetric ? codes.levels / 2 : most);
    for (int32_t k = lane; k < up; k += kWarp) positive[k + 1] = passed_above(m, k, step);
    for (int32_t k = lane; k < down; k += kWarp) negative[k + 1] = passed_below(m, k, step);
    __syncwarp();
    if (lane < 2) {  // in the order of the CPU, so that both get the same sums
        CodeSums* side = lane == 0 ? positive : negative;
        side[0] = {0.0, 0.0};
        for (int32_t k = 0; k < (lane == 0 ? up : down); ++k) side[k + 1] = plus(side[k], side[k + 1]);
    }
    __syncwarp();
    const SideSums sums = {positive, negative, up, down};
    const ZeroPoints range = zero_points(up, down, codes);
    for (int32_t z = range.first + lane; z <= range.last; z += kWarp) {
        const Candidate candidate = window_candidate(sums, codes, z, m.all.square, step, index);
        if (better(candidate, best)) best = candidate;
    }
    __syncwarp();
}

/// The coarse grid from the top until no smaller step can win; a turn is what the CPU does between two looks.
template <class Moments>
__device__ Candidate search_grid(const Moments& m, Codes codes, Shared& shared) {
    const int warp = threadIdx.x / kWarp;
    const int32_t top = top_index(m.all);
    Candidate best = {m.all.square, grid_step(top), 0, top};
    for (int32_t turn = top; turn >= kSmallestIndex; turn -= kExhaustedEvery * kCoarse) {
        for (int32_t j = warp; j < kExhaustedEvery; j += kWarps) {
            const int32_t index = turn - j * kCoarse;
            if (index >= kSmallestIndex) try_candidate(m, codes, grid_step(index), index, shared, best);
        }
        best = best_of_block(best, shared);
        const int32_t last = turn - (kExhaustedEvery - 1) * kCoarse;
        if (last < kSmallestIndex || exhausted(m, codes, grid_step(last), best.error)) break;
    }
    for (int stage = 0; stage < kStages; ++stage) {
        const Stage s = refinement(stage, static_cast<int64_t>(m.all.count));
        const int32_t first = best.index - s.radius, last = best.index + s.radius;
        for (int32_t i = first + warp * s.spacing; i <= last; i += kWarps * s.spacing)
            if (i >= kSmallestIndex && i <= kLargestIndex)
                try_candidate(m, codes, grid_step(i), i, shared, best);
        best = best_of_block(best, shared);
    }
    for (int i = 0; i < kPolishes; ++i) {
        const Candidate before = best;
        if (warp == 0) try_candidate(m, codes, best.step, best.index, shared, best);
        best = best_of_block(best, shared);
        if (!better(best, before)) break;
    }
    return best;
}

/// Every thread takes some breakpoints of a short row, largest steps first.
__device__ Candidate search_breakpoints(const SortedMoments& m, Codes codes, Shared& shared, Candidate best) {
    const int32_t n = static_cast<int32_t>(m.all.count);
    if (threadIdx.x < kShortRow)
        shared.row[threadIdx.x] =
            static_cast<int32_t>(threadIdx.x) < n ? static_cast<double>(m.values[threadIdx.x]) : 0.0;
    __syncthreads();
    const ShortRow row = {shared.row, n, (n + 7) / 8 * 8};
    for (int32_t i = 0; i < n; ++i) {
        const int32_t count = breakpoints(row.values[i], codes);
        for (int32_t k = static_cast<int32_t>(threadIdx.x); k < count; k += kWarps * kWarp) {
            const double step = breakpoint(row.values[i], k);
            if (step < smallest_step(m.all, codes, best.error) || step < FLT_MIN) break;
            try_step(row, m.all, codes, step, best);
        }
    }
    __syncthreads();
    return best_of_block(best, shared);
}

/// One block for every row and bit-width. Grid: (rows, bit-widths).
template <class Rows>
__global__ void search_kernel(SearchStepsParams p, Rows rows, Codes codes, int64_t level) {
    extern __shared__ double memory[];
    Shared& shared = *reinterpret_cast<Shared*>(memory);
    for (int64_t row = blockIdx.x; row < p.rows; row += gridDim.x) {
        if (p.nonfinite[0] + p.nonfinite[1] > 0) return;
        const auto m = rows.moments(row);
        Candidate best;
        if (m.all.minimum == m.all.maximum) {
            best = constant_candidate(m.all, codes);
        } else {
            best = search_grid(m, codes, shared);
            if constexpr (std::is_same_v<Rows, SortedRows>)
                if (p.n <= kShortRow) best = search_breakpoints(m, codes, shared, best);
        }
        if (threadIdx.x == 0) {
            const int64_t at = level * p.rows + row;
            p.step[at] = static_cast<float>(best.step);
            p.zero_point[at] = best.zero_point;
            p.mse[at] = static_cast<float>(fmax(best.error, 0.0) / m.all.count);
        }
        __syncthreads();
    }
}

template <class Rows>
void search_rows(const SearchStepsParams& p, const Rows& rows, cudaStream_t stream) {
    suffix_kernel<<<blocks(p.rows, 1), kSuffixThreads, 0, stream>>>(p, rows);
    check_launch("search_steps");
    for (int64_t level = 0; level < p.bits_count; ++level) {
        const Codes codes = {1 << p.bits[level], p.symmetric};
        search_kernel<<<blocks(p.rows, 1), kWarps * kWarp, sizeof(Shared), stream>>>(p, rows, codes, level);
        check_launch("search_steps");
    }
}

}  // namespace

void search_steps(const SearchStepsParams& p, Stream opaque) {
    const cudaStream_t stream = handle(opaque);
    const Workspace work(p.workspace, p.rows, p.n);
    const unsigned rows = blocks(p.rows, 1, kMaxBlocks);
    scan_kernel<<<dim3(kParts, rows), kThreads, 0, stream>>>(p, work);
    totals_kernel<<<blocks(p.rows, 1), kParts, 0, stream>>>(p, work);
    check_launch("search_steps");
    if (search_steps_sorts(p.n)) {
        search_rows(p, SortedRows{work, p.sorted, p.n}, stream);
        return;
    }
    const size_t bytes = static_cast<size_t>(p.rows * BinnedMoments::kBins) * 2 * sizeof(*work.counts);
    if (cudaMemsetAsync(work.counts, 0, bytes, stream) != cudaSuccess) check_launch("search_steps");
    histogram_kernel<<<dim3(blocks(p.n, 16 * kThreads, 1024), rows), kThreads, 0, stream>>>(p,
                                                                                            BinnedRows{work});
    check_launch("search_steps");
    search_rows(p, BinnedRows{work}, stream);
}

}  // namespace cuda
}  // namespace ribs
