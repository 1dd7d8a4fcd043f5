#pragma once

#include "cuda/search_workspace.cuh"

// Kernels that leave the state and the tails of every row in the workspace, in the sums' order of the CPU.

namespace ribs::cuda {
namespace {

constexpr int kTailThreads = 256;
constexpr int64_t kFetched = 8;
static_assert(kSegment % kFetched == 0, "whole segments are fetched without a rest");

/// Smallest, largest and sum of squares of every row, by one warp, in the lanes of scan_row on the CPU.
__global__ void scan_kernel(SearchStepsParams p, Workspace work) {
    __shared__ double low[32], high[32], square[32];
    __shared__ int broken;
    const int lane = static_cast<int>(threadIdx.x);
    for (int64_t row = blockIdx.x; row < p.rows; row += gridDim.x) {
        const float* const x = p.x + row * p.n;
        if (lane == 0) broken = 0;
        __syncthreads();
        low[lane] = high[lane] = static_cast<double>(x[0]);
        square[lane] = 0.0;
        bool bad = false;
        for (int64_t i = lane; i < p.n; i += 32) {
            const double value = static_cast<double>(x[i]);
            low[lane] = smaller(value, low[lane]);
            high[lane] = larger(value, high[lane]);
            square[lane] += value * value;
            bad |= !(fabs(value) <= static_cast<double>(FLT_MAX));
        }
        if (bad) broken = 1;
        __syncthreads();
        for (int width = 16; width > 0; width /= 2) {
            if (lane < width) {
                low[lane] = smaller(low[lane + width], low[lane]);
                high[lane] = larger(high[lane + width], high[lane]);
                square[lane] += square[lane + width];
            }
            __syncthreads();
        }
        if (lane == 0) {
            work.state[row] = {{static_cast<double>(p.n), square[0], low[0], high[0]},
                               broken != 0         ? 0
                               : low[0] == high[0] ? 1
                                                   : 2,
                               0,
                               0};
            if (broken != 0) atomicAdd(reinterpret_cast<unsigned long long*>(p.nonfinite), 1ull);
        }
        __syncthreads();
    }
}

/// Turns entries into suffix sums, in place, by the segments of suffix_sums on the CPU; one block.
__device__ void suffix_sums(Tail* tails, int64_t entries) {
    const int64_t segments = (entries + kSegment - 1) / kSegment;
    for (int64_t segment = threadIdx.x; segment < segments; segment += blockDim.x) {
        const int64_t first = segment * kSegment;
        int64_t i = first + kSegment < entries ? first + kSegment : entries;
        Tail own = {0.0, 0.0};
        const auto add = [&](const Tail& entry) {
            own = {own.count + entry.count, own.sum + entry.sum};
            tails[--i] = own;
        };
        while ((i - first) % kFetched != 0) add(tails[i - 1]);
        while (i > first) {
            Tail fetched[kFetched];  // all at once, so that their latency is waited for once
            for (int64_t k = 0; k < kFetched; ++k) fetched[k] = tails[i - 1 - k];
            for (int64_t k = 0; k < kFetched; ++k) add(fetched[k]);
        }
    }
    Tail* const carried = tails + entries;  // nothing in the end; even_kernel has no shared memory to spare
    if (threadIdx.x == 0) *carried = {0.0, 0.0};
    __syncthreads();
    // The first entry of a segment now holds its total; bases are added up from the last segment down, and
    // written only when all have been read.
    for (int64_t from = 0; from < segments; from += blockDim.x) {
        const int64_t segment = segments - 1 - (from + threadIdx.x);
        Tail base = *carried;
        const int64_t top = segments - 1 - from;
        for (int64_t s = top; s > segment && segment >= 0; --s)
            base = {base.count + tails[s * kSegment].count, base.sum + tails[s * kSegment].sum};
        Tail total = {0.0, 0.0};
        if (segment >= 0) total = tails[segment * kSegment];
        __syncthreads();
        if (segment >= 0) {
            const int64_t end = (segment + 1) * kSegment < entries ? (segment + 1) * kSegment : entries;
            for (int64_t i = segment * kSegment; i < end; ++i)
                tails[i] = {base.count + tails[i].count, base.sum + tails[i].sum};
        }
        if (segment == 0 || (segment > 0 && threadIdx.x == blockDim.x - 1))
            *carried = {base.count + total.count, base.sum + total.sum};
        __syncthreads();
    }
    if (threadIdx.x < 2) tails[entries + threadIdx.x] = {0.0, 0.0};
    __syncthreads();
}

__device__ void add_sides(const Tail* a, const Tail* b, Tail* out, int64_t entries) {
    for (int64_t i = threadIdx.x; i < entries; i += blockDim.x)
        out[i] = {a[i].count + b[i].count, a[i].sum + b[i].sum};
    __syncthreads();
}

/// The even bins of every row, counted in shared memory.
__global__ void even_kernel(SearchStepsParams p, Workspace work) {
    extern __shared__ unsigned long long
        words[];  // [2, bins]: count above, sum of positions below, as on the CPU
    constexpr int kBins = 1 << RowScale::kBinBits;
    for (int64_t row = blockIdx.x; row < p.rows; row += gridDim.x) {
        const RowState state = work.state[row];
        if (state.usable != 2) continue;
        RowScale scale{};
        frexp(state.all.largest(), &scale.exponent);
        for (int i = static_cast<int>(threadIdx.x); i < 2 * kBins; i += static_cast<int>(blockDim.x))
            words[i] = 0;
        __syncthreads();
        for (int64_t i = threadIdx.x; i < p.n; i += blockDim.x) {
            const float x = p.x[row * p.n + i];
            const unsigned position = scale.position(x, scale.scale());
            const unsigned side = __float_as_uint(x) >> 31 << RowScale::kBinBits;
            atomicAdd(words + side + RowScale::bin(position),
                      static_cast<unsigned long long>(RowScale::one(position)));
        }
        __syncthreads();
        const double unit = scale.unit();
        const auto entry = [unit](unsigned long long word) {
            return Tail{RowScale::count(word), RowScale::positions(word) * unit};
        };
        for (int i = static_cast<int>(threadIdx.x); i < kBins; i += static_cast<int>(blockDim.x)) {
            work.side(row, 0)[i] = entry(words[i]);
            work.side(row, 1)[i] = entry(words[kBins + i]);
            work.side(row, 2)[i] = entry(words[i] + words[kBins + i]);
        }
        __syncthreads();
        for (int side = 0; side < 3; ++side) suffix_sums(work.side(row, side), kBins);
    }
}

/// Sums over the octaves of sketched rows: whole numbers, so the order does not show. Grid: (octaves, rows).
__global__ void octaves_kernel(SearchStepsParams p, Workspace work) {
    __shared__ OctaveSums shared[kTailThreads];
    for (int64_t row = blockIdx.y; row < p.rows; row += gridDim.y) {
        const int64_t place = blockIdx.x;
        const unsigned long long* const counts = work.counts + (row * 2 * kOctaves + place) * kRow;
        const unsigned long long* const residuals = work.residuals + (row * 2 * kOctaves + place) * kRow;
        OctaveSums own = {};
        for (int32_t bin = static_cast<int32_t>(threadIdx.x); bin < kRow;
             bin += static_cast<int32_t>(blockDim.x))
            own.add(static_cast<int32_t>(place % kOctaves), bin, static_cast<int64_t>(counts[bin]),
                    static_cast<int64_t>(residuals[bin]));
        shared[threadIdx.x] = own;
        __syncthreads();
        for (unsigned width = blockDim.x / 2; width > 0; width /= 2) {
            if (threadIdx.x < width) {
                OctaveSums& into = shared[threadIdx.x];
                const OctaveSums& from = shared[threadIdx.x + width];
                into = {into.count + from.count, into.residuals + from.residuals, into.starts + from.starts,
                        into.squares + from.squares, into.crosses + from.crosses};
            }
            __syncthreads();
        }
        if (threadIdx.x == 0) work.octaves[row * 2 * kOctaves + place] = shared[0];
        __syncthreads();
    }
}

/// What is known of sketched rows as a whole; one thread of a block does all, on what the others have
/// fetched.
__global__ void state_kernel(SearchStepsParams p, Workspace work) {
    __shared__ OctaveSums sums[2 * kOctaves];
    __shared__ int64_t cells[kSquareCells];
    for (int64_t row = blockIdx.x; row < p.rows; row += gridDim.x) {
        const int threads = static_cast<int>(blockDim.x), own = static_cast<int>(threadIdx.x);
        for (int i = own; i < 2 * kOctaves; i += threads) sums[i] = work.octaves[row * 2 * kOctaves + i];
        for (int i = own; i < kSquareCells; i += threads) cells[i] = work.squares[row * kSquareCells + i];
        __syncthreads();
        if (own == 0) {
            const RowExtremes e = work.extremes[row];
            const float2 ends = ends_of(e);
            const bool finite = ends.x == ends.x;
            RowState state = {
                {static_cast<double>(p.n), 0.0, static_cast<double>(ends.x), static_cast<double>(ends.y)},
                !finite            ? 0
                : ends.x == ends.y ? 1
                                   : 2,
                1,
                1};
            if (!finite) atomicAdd(reinterpret_cast<unsigned long long*>(p.nonfinite), 1ull);
            if (state.usable == 2) {
                SquareCells{cells}.carry();
                double square = squares_total(cells);
                for (int32_t octave = 0; octave < kOctaves; ++octave) {
                    for (int side = 0; side < 2; ++side)
                        if (sums[side << 8 | octave].count > 0.0)
                            square += sums[side << 8 | octave].square(octave);
                }
                const int32_t last = static_cast<int32_t>(e.largest >> kMantissaBits);
                state.all.square = square;
                state.last = last > 1 ? last : 1;
                state.first = first_kept(sums, last, square);
            }
            work.state[row] = state;
        }
        __syncthreads();
    }
}

/// The tails of a side of sketched rows. Grid: (2, rows).
__global__ void format_kernel(SearchStepsParams p, Workspace work) {
    const int side = static_cast<int>(blockIdx.x);
    for (int64_t row = blockIdx.y; row < p.rows; row += gridDim.y) {
        const RowState state = work.state[row];
        if (state.usable != 2) continue;
        const FormatBins bins = FormatBins::of_octaves(state.first, state.last);
        const OctaveSums* const sums = work.octaves + (row * 2 + side) * kOctaves;
        const unsigned long long* const counts = work.counts + (row * 2 + side) * kKeys;
        const unsigned long long* const residuals = work.residuals + (row * 2 + side) * kKeys;
        Tail* const tails = work.side(row, side);
        for (int32_t i = static_cast<int32_t>(threadIdx.x); i < bins.count;
             i += static_cast<int32_t>(blockDim.x)) {
            const int32_t key = bins.first_key + i;
            const int64_t count = static_cast<int64_t>(counts[key]),
                          rest = static_cast<int64_t>(residuals[key]);
            tails[i + 1] = {static_cast<double>(count), bin_sum(key, count, rest)};
        }
        if (threadIdx.x == 0) {
            Tail below = {0.0, 0.0};
            for (int32_t octave = 0; octave < state.first; ++octave)
                if (sums[octave].count > 0.0)
                    below = {below.count + sums[octave].count, below.sum + sums[octave].sum(octave)};
            tails[0] = below;
        }
        __syncthreads();
        suffix_sums(tails, bins.entries() - 2);
    }
}

/// Both sides together. Grid: (parts, rows).
__global__ void both_kernel(SearchStepsParams p, Workspace work) {
    for (int64_t row = blockIdx.x; row < p.rows; row += gridDim.x) {
        const RowState state = work.state[row];
        if (state.usable == 2)
            add_sides(work.side(row, 0), work.side(row, 1), work.side(row, 2),
                      FormatBins::of_octaves(state.first, state.last).entries());
    }
}

/// The tails of sorted rows.
__global__ void sorted_kernel(SearchStepsParams p, Workspace work) {
    for (int64_t row = blockIdx.x; row < p.rows; row += gridDim.x) {
        if (work.state[row].usable != 2) continue;
        Tail* const tails = work.tails + row * work.entries;
        for (int64_t i = threadIdx.x; i < p.n; i += blockDim.x)
            tails[i] = {1.0, static_cast<double>(p.sorted[row * p.n + i])};
        __syncthreads();
        suffix_sums(tails, p.n);
    }
}

}  // namespace
}  // namespace ribs::cuda
