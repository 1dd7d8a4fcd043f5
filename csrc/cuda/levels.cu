#include "core/levels.h"
#include "cuda/elements.cuh"

namespace ribs {
namespace cuda {
namespace {

constexpr int64_t kMost = 1024;  // blocks: each of them builds the table anew
constexpr int kWarps = kThreads / kWarp;

unsigned backward_blocks(int64_t n) {
    return blocks(n, 4 * kThreads, kMost);  // by n alone: they are the pieces of a sum
}

/// Builds a table in shared memory.
template <class Params>
__device__ void build(Levels& table, const Params& p) {
    const int32_t thread = static_cast<int32_t>(threadIdx.x), threads = static_cast<int32_t>(blockDim.x);
    if (thread == 0) table.top = p.top;
    __syncthreads();
    fill_levels(table, p.steps, p.log_sqrt2, thread, threads);
    __syncthreads();
    fill_thresholds(table, p.steps, p.log_sqrt2, thread, threads);
    __syncthreads();
}

template <class T, int kPack>
__global__ void forward(LevelsParams p) {
    __shared__ Levels table;
    build(table, p);
    const int32_t half = first_half(p.top);
    const T* x = static_cast<const T*>(p.x);
    T* out = static_cast<T*>(p.out);
    const auto quantized = [&](T element) {
        const float value = to_float(element);
        return from_float<T>(level_value(value, table.level[level_index(value, table.threshold, half)]));
    };
    const int64_t threads = static_cast<int64_t>(gridDim.x) * blockDim.x, whole = p.n / kPack * kPack;
    const int64_t thread = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    for (int64_t i = thread * kPack; i < whole; i += threads * kPack) {
        Pack<T, kPack> pack = Pack<T, kPack>::load(x + i);
        for (int k = 0; k < kPack; ++k) pack.values[k] = quantized(pack.values[k]);
        pack.store(out + i);
    }
    if (const int64_t i = whole + thread; i < p.n) out[i] = quantized(x[i]);
}

__device__ double warp_total(double value) {
    for (int distance = kWarp / 2; distance > 0; distance /= 2)
        value += __shfl_down_sync(0xffffffffu, value, static_cast<unsigned>(distance));
    return value;
}

/// A warp adds the shares of its elements to sums of its own, one sum after the other, so that neither the
/// order of threads nor that of blocks shows in them.
template <class T>
__global__ void backward(LevelsBackwardParams p) {
    __shared__ Levels table;
    __shared__ double sums[kWarps * kLevels];
    for (int i = static_cast<int>(threadIdx.x); i < kWarps * kLevels; i += static_cast<int>(blockDim.x))
        sums[i] = 0.0;
    build(table, p);
    const int32_t half = first_half(p.top);
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    double* own = sums + static_cast<int>(threadIdx.x) / kWarp * kLevels;
    const int64_t threads = static_cast<int64_t>(gridDim.x) * blockDim.x;
    const int64_t thread = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    for (int64_t first = thread - lane; first < p.n; first += threads) {
        const int64_t i = first + lane;
        LevelGradient found{0.0f, 0, 0.0};
        if (i < p.n) {
            const float x = to_float(static_cast<const T*>(p.x)[i]);
            found = level_gradient(to_float(static_cast<const T*>(p.grad)[i]), x,
                                   level_index(x, table.threshold, half), table);
            static_cast<T*>(p.grad_x)[i] = from_float<T>(found.x);
        }
        unsigned left = 0xffffffffu;
        while (left != 0) {
            const int sum = __shfl_sync(0xffffffffu, found.sum, __ffs(static_cast<int>(left)) - 1);
            const double total = warp_total(found.sum == sum ? found.share : 0.0);
            if (lane == 0) own[sum] += total;
            left &= ~__ballot_sync(0xffffffffu, found.sum == sum);
        }
    }
    __syncthreads();
    const int64_t count = p.top + 1;
    for (int64_t i = threadIdx.x; i < count; i += blockDim.x) {
        double total = 0.0;
        for (int warp = 0; warp < kWarps; ++warp) total += sums[warp * kLevels + i];
        p.partials[blockIdx.x * count + i] = total;
    }
}

/// A block adds up the partial sums of one sum.
__global__ void sum_partials(LevelsBackwardParams p, int64_t partials) {
    __shared__ double shared[kThreads];
    double sum = 0.0;
    for (int64_t i = threadIdx.x; i < partials; i += blockDim.x)
        sum += p.partials[i * gridDim.x + blockIdx.x];
    const double total = block_sum(sum, shared);
    if (threadIdx.x == 0) p.sums[blockIdx.x] = total;
}

}  // namespace

void fake_quantize_levels(const LevelsParams& p, Stream stream) {
    with_element(p.element, [&](auto element) {
        using T = decltype(element);
        constexpr int kPack = 16 / sizeof(T);
        const unsigned count = blocks(p.n, kThreads * kPack, kMost);
        if (aligned(p.x) && aligned(p.out))
            forward<T, kPack><<<count, kThreads, 0, handle(stream)>>>(p);
        else
            forward<T, 1><<<count, kThreads, 0, handle(stream)>>>(p);
    });
    check_launch("fake_quantize_levels");
}

void fake_quantize_levels_backward(const LevelsBackwardParams& p, Stream stream) {
    const unsigned count = backward_blocks(p.n);
    with_element(p.element, [&](auto element) {
        backward<decltype(element)><<<count, kThreads, 0, handle(stream)>>>(p);
    });
    check_launch("fake_quantize_levels_backward");
    sum_partials<<<static_cast<unsigned>(p.top + 1), kThreads, 0, handle(stream)>>>(p, count);
    check_launch("fake_quantize_levels_backward");
}

}  // namespace cuda

int64_t fake_quantize_levels_partials(int64_t n, int32_t top) {
    return static_cast<int64_t>(cuda::backward_blocks(n)) * (top + 1);
}

}  // namespace ribs
