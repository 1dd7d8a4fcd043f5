#pragma once

#include "cuda/search_workspace.cuh"

// The two reads that make the sketch of long rows: extremes first, so that the second knows which octaves to
// count in shared memory. All of it is integers: neither the order of threads nor of blocks shows.

namespace ribs::cuda {
namespace {

constexpr int kExtremesThreads = 512;
constexpr int kBinsThreads = 1024;            ///< of the one block that a multiprocessor has room for
constexpr int64_t kRead = int64_t{1} << 15;   ///< values a block looks at in one go for the extremes
constexpr int64_t kPiece = int64_t{1} << 20;  ///< values a block may count before it empties its bins
static_assert(kPiece << kResidualBits <= int64_t{1} << 32, "sums of residuals are in 32 bits");

/// Calls visit(word) for the values of a piece, four at a time where they are aligned.
template <class Visit>
__device__ void for_words(const float* x, int64_t count, const Visit& visit) {
    const int64_t threads = blockDim.x, own = threadIdx.x;
    int64_t head = static_cast<int64_t>((16 - (reinterpret_cast<uintptr_t>(x) & 15)) & 15) / 4;
    head = head < count ? head : count;
    const int64_t quads = (count - head) / 4;
    if (own < head) visit(__float_as_uint(x[own]));
    const uint4* const four = reinterpret_cast<const uint4*>(x + head);
    for (int64_t i = own; i < quads; i += threads) {
        const uint4 words = four[i];
        visit(words.x);
        visit(words.y);
        visit(words.z);
        visit(words.w);
    }
    for (int64_t i = head + quads * 4 + own; i < count; i += threads) visit(__float_as_uint(x[i]));
}

__global__ void clear_extremes_kernel(RowExtremes* extremes, int64_t rows) {
    for (int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; row < rows;
         row += static_cast<int64_t>(gridDim.x) * blockDim.x)
        extremes[row] = {0, 0xffffffffu, 0, INT32_MIN, 0};
}

/// Grid: (pieces, rows).
__global__ void extremes_kernel(SearchStepsParams p, Workspace work) {
    __shared__ RowExtremes block;
    for (int64_t row = blockIdx.y; row < p.rows; row += gridDim.y) {
        if (threadIdx.x == 0) block = {0, 0xffffffffu, 0, INT32_MIN, 0};
        __syncthreads();
        RowExtremes own = {0, 0xffffffffu, 0, INT32_MIN, 0};
        for (int64_t at = blockIdx.x * kRead; at < p.n; at += gridDim.x * kRead) {
            const int64_t count = p.n - at < kRead ? p.n - at : kRead;
            for_words(p.x + row * p.n + at, count, [&](unsigned word) {
                const unsigned magnitude = word & kMagnitude;
                if (magnitude == 0) {
                    ++own.zeros;
                    return;
                }
                own.highest = max(own.highest, word);
                own.lowest = min(own.lowest, word);
                own.largest = max(own.largest, magnitude);
                own.positive = max(own.positive, static_cast<int>(word));
            });
        }
        atomicMax(&block.highest, own.highest);
        atomicMin(&block.lowest, own.lowest);
        atomicMax(&block.largest, own.largest);
        atomicMax(&block.positive, own.positive);
        if (own.zeros > 0) atomicAdd(&block.zeros, own.zeros);
        __syncthreads();
        if (threadIdx.x == 0) {
            RowExtremes& all = work.extremes[row];
            atomicMax(&all.highest, block.highest);
            atomicMin(&all.lowest, block.lowest);
            atomicMax(&all.largest, block.largest);
            atomicMax(&all.positive, block.positive);
            atomicAdd(&all.zeros, block.zeros);
        }
        __syncthreads();
    }
}

/// Counts values into bins: in shared memory for the `window` octaves below the largest value, in global
/// memory below those. Grid: (pieces, rows), and `piece` values in each.
__global__ void bins_kernel(SearchStepsParams p, Workspace work, int32_t window, int64_t piece) {
    extern __shared__ unsigned bins[];  // [2, window, kRow] counts, then as many sums of residuals
    const int32_t side_bins = window << kSketchBits, all_bins = 2 * side_bins;
    unsigned* const sums = bins + all_bins;
    for (int64_t row = blockIdx.y; row < p.rows; row += gridDim.y) {
        const int32_t octave = static_cast<int32_t>(work.extremes[row].largest >> kMantissaBits);
        if (octave == kOctaves - 1) continue;  // not finite
        const int32_t lowest = octave - window + 1 > 0 ? octave - window + 1 : 0;
        const int32_t first = lowest << kSketchBits;
        const int32_t low = octave - kSquareReach > 1 ? octave - kSquareReach : 1;
        unsigned long long* const counts = work.counts + row * 2 * kKeys;
        unsigned long long* const residuals = work.residuals + row * 2 * kKeys;
        unsigned long long* const cells =
            reinterpret_cast<unsigned long long*>(work.squares + row * kSquareCells);
        for (int64_t at = blockIdx.x * piece; at < p.n; at += gridDim.x * piece) {
            for (int32_t i = static_cast<int32_t>(threadIdx.x); i < 2 * all_bins;
                 i += static_cast<int32_t>(blockDim.x))
                bins[i] = 0;
            __syncthreads();
            unsigned long long squares = 0;
            const int64_t count = p.n - at < piece ? p.n - at : piece;
            for_words(p.x + row * p.n + at, count, [&](unsigned word) {
                const unsigned magnitude = word & kMagnitude;
                if (magnitude == 0) return;  // half of a post-ReLU tensor would queue for one bin
                const int32_t key = static_cast<int32_t>(magnitude >> kResidualBits),
                              side = static_cast<int32_t>(word >> 31);
                const unsigned residual = residual_of(magnitude);
                if (key >= first) {
                    atomicAdd(bins + side * side_bins + key - first, 1u);
                    atomicAdd(sums + side * side_bins + key - first, residual);
                } else {
                    atomicAdd(counts + side * kKeys + key, 1ull);
                    atomicAdd(residuals + side * kKeys + key, static_cast<unsigned long long>(residual));
                }
                const int32_t own = max(key >> kSketchBits, 1);
                const unsigned long long square = static_cast<unsigned long long>(residual) * residual;
                if (own >= low)
                    squares += square << 2 * (own - low);
                else
                    atomicAdd(cells + own, square);
            });
            if (squares > 0) {
                atomicAdd(cells + low, squares & 0xffffffffull);
                atomicAdd(cells + low + 16, squares >> 32);
            }
            __syncthreads();
            for (int32_t i = static_cast<int32_t>(threadIdx.x); i < all_bins;
                 i += static_cast<int32_t>(blockDim.x)) {
                if (bins[i] == 0) continue;
                const int64_t to = (i >= side_bins ? kKeys - side_bins : 0) + first + i;
                atomicAdd(counts + to, static_cast<unsigned long long>(bins[i]));
                atomicAdd(residuals + to, static_cast<unsigned long long>(sums[i]));
            }
            __syncthreads();
        }
    }
}

/// The smallest and largest value that extremes tell of; NaN where a value is not finite.
__device__ inline float2 ends_of(const RowExtremes& e) {
    if (e.largest >= 0x7f800000u) return {nanf(""), nanf("")};
    float low = FLT_MAX, high = -FLT_MAX;
    if (e.largest > 0) {
        low = float_of(least_of(e.highest, e.lowest));
        high = float_of(most_of(e.positive, e.lowest));
    }
    return {e.zeros > 0 && low > 0.0f ? 0.0f : low, e.zeros > 0 && high < 0.0f ? 0.0f : high};
}

/// What the kernels of a sketch need to know of the device.
struct Device {
    int32_t octaves;  ///< of both signs, that fit the shared memory of a block
    int64_t multiprocessors;

    /// Asks once a call.
    static Device current() {
        int device = 0, bytes = 0, multiprocessors = 0;
        if (cudaGetDevice(&device) != cudaSuccess ||
            cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) != cudaSuccess ||
            cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device) != cudaSuccess)
            check_launch("sketch");
        return {std::min(8, std::max(1, bytes / (2 * 2 * kRow * 4))), std::max(1, multiprocessors)};
    }
};

/// Both reads of the rows, which add to bins that are zero.
inline void sketch_rows(const SearchStepsParams& p, const Workspace& work, cudaStream_t stream) {
    const unsigned rows = blocks(p.rows, 1, kMaxBlocks);
    clear_extremes_kernel<<<blocks(p.rows, kThreads), kThreads, 0, stream>>>(work.extremes, p.rows);
    extremes_kernel<<<dim3(blocks(p.n, kRead, 4096), rows), kExtremesThreads, 0, stream>>>(p, work);
    check_launch("sketch");
    const Device device = Device::current();
    const int bytes = device.octaves * 2 * 2 * kRow * 4;
    if (cudaFuncSetAttribute(bins_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes) != cudaSuccess)
        check_launch("sketch");
    // As many pieces as multiprocessors, or a multiple of them, so that none is idle while others count.
    const int64_t spread = (p.n + device.multiprocessors - 1) / device.multiprocessors;
    const int64_t turns = (spread + kPiece - 1) / kPiece, least = int64_t{1} << 14;
    const int64_t piece = std::max(least, (spread + turns - 1) / turns);
    bins_kernel<<<dim3(blocks(p.n, piece, 1024), rows), kBinsThreads, static_cast<size_t>(bytes), stream>>>(
        p, work, device.octaves, piece);
    check_launch("sketch");
}

}  // namespace
}  // namespace ribs::cuda
