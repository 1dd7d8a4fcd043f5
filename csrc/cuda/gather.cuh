#pragma once

#include <cfloat>

#include "cuda/moments.cuh"

// Kernels that read the data and leave its moments in the workspace. Included by one source file.

namespace ribs::cuda {
namespace {

constexpr int kSuffixThreads = 512;

__device__ inline void merge(Totals& into, const Totals& other) {
    into.count += other.count;
    into.sum += other.sum;
    into.square += other.square;
    into.minimum = other.minimum < into.minimum ? other.minimum : into.minimum;
    into.maximum = other.maximum > into.maximum ? other.maximum : into.maximum;
}

/// Merges the totals of a block in a fixed tree, into thread 0.
__device__ inline void merge_block(Totals* shared) {
    __syncthreads();
    for (unsigned width = blockDim.x / 2; width > 0; width /= 2) {
        if (threadIdx.x < width) merge(shared[threadIdx.x], shared[threadIdx.x + width]);
        __syncthreads();
    }
}

/// Totals of parts of rows, and how many values are not finite. Grid: (parts, rows).
__global__ void scan_kernel(SearchStepsParams p, Workspace work) {
    __shared__ Totals shared[kThreads];
    for (int64_t row = blockIdx.y; row < p.rows; row += gridDim.y) {
        Totals own = {0.0, 0.0, 0.0, DBL_MAX, -DBL_MAX};
        unsigned long long nan = 0, infinite = 0;
        const int64_t stride = kParts * blockDim.x;
        for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < p.n; i += stride) {
            const double x = static_cast<double>(p.x[row * p.n + i]);
            nan += isnan(x) ? 1 : 0;
            infinite += isinf(x) ? 1 : 0;
            merge(own, {1.0, x, x * x, x, x});
        }
        unsigned long long* nonfinite = reinterpret_cast<unsigned long long*>(p.nonfinite);
        if (nan > 0) atomicAdd(nonfinite, nan);
        if (infinite > 0) atomicAdd(nonfinite + 1, infinite);
        shared[threadIdx.x] = own;
        merge_block(shared);
        if (threadIdx.x == 0) work.parts[row * kParts + blockIdx.x] = shared[0];
        __syncthreads();
    }
}

/// Totals of rows from those of their parts. A block of kParts threads a row.
__global__ void totals_kernel(SearchStepsParams p, Workspace work) {
    __shared__ Totals shared[kParts];
    for (int64_t row = blockIdx.x; row < p.rows; row += gridDim.x) {
        shared[threadIdx.x] = work.parts[row * kParts + threadIdx.x];
        merge_block(shared);
        if (threadIdx.x == 0) work.totals[row] = shared[0];
        __syncthreads();
    }
}

__device__ inline bool unusable(const SearchStepsParams& p, const Totals& all) {
    return p.nonfinite[0] + p.nonfinite[1] > 0 || all.minimum == all.maximum;
}

/// Counts values into the bins of their row: integers, so that the order does not matter. Grid: (any, rows).
__global__ void histogram_kernel(SearchStepsParams p, BinnedRows rows) {
    for (int64_t row = blockIdx.y; row < p.rows; row += gridDim.y) {
        if (unusable(p, rows.work.totals[row])) continue;
        const BinScale scale = rows.scale(row);
        unsigned long long* counts = rows.work.counts + row * BinnedMoments::kBins;
        unsigned long long* residuals = rows.work.residuals + row * BinnedMoments::kBins;
        const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
        unsigned long long zeros = 0;
        const auto add = [&](float x, unsigned long long times) {
            const int64_t place = static_cast<int64_t>(rint(scale.position(x)));
            const int64_t bin = place >> BinScale::kResidualBits;
            const int64_t residual = place & ((int64_t{1} << BinScale::kResidualBits) - 1);
            atomicAdd(counts + bin, times);
            atomicAdd(residuals + bin, times * static_cast<unsigned long long>(residual));
        };
        for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < p.n; i += stride) {
            const float x = p.x[row * p.n + i];
            // Zeros of a post-ReLU tensor would all queue for one address.
            if (x == 0.0f)
                ++zeros;
            else
                add(x, 1);
        }
        if (zeros > 0) add(0.0f, zeros);
    }
}

/// Suffix sums of a row: each thread sums a stretch, then continues from the stretches above it.
template <class Rows>
__global__ void suffix_kernel(SearchStepsParams p, Rows rows) {
    __shared__ Tail tails[kSuffixThreads];
    __shared__ double squares[kSuffixThreads];
    const int64_t count = rows.work.entries - 1;
    const int64_t stretch = (count + kSuffixThreads - 1) / kSuffixThreads;
    for (int64_t row = blockIdx.x; row < p.rows; row += gridDim.x) {
        if (unusable(p, rows.work.totals[row])) continue;
        const int64_t first = min(threadIdx.x * stretch, count), last = min(first + stretch, count);
        Tail tail = {0.0, 0.0}, one;
        double square = 0.0, one_square;
        for (int64_t i = last; i-- > first;) {
            rows.entry(row, i, one, one_square);
            tail = {tail.count + one.count, tail.sum + one.sum};
            square += one_square;
        }
        tails[threadIdx.x] = tail;
        squares[threadIdx.x] = square;
        __syncthreads();
        tail = {0.0, 0.0};
        square = 0.0;
        for (int above = kSuffixThreads - 1; above > static_cast<int>(threadIdx.x); --above) {
            tail = {tail.count + tails[above].count, tail.sum + tails[above].sum};
            square += squares[above];
        }
        Tail* out = rows.work.tails + row * rows.work.entries;
        double* out_squares = rows.work.squares + row * rows.work.entries;
        if (threadIdx.x == 0) {
            out[count] = {0.0, 0.0};
            out_squares[count] = 0.0;
        }
        for (int64_t i = last; i-- > first;) {
            rows.entry(row, i, one, one_square);
            tail = {tail.count + one.count, tail.sum + one.sum};
            square += one_square;
            out[i] = tail;
            out_squares[i] = square;
        }
        __syncthreads();
        if (threadIdx.x == 0) rows.work.totals[row].sum = out[0].sum;
        __syncthreads();
    }
}

}  // namespace
}  // namespace ribs::cuda
