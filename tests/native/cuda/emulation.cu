#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <numeric>
#include <string>

#include "check.h"

// The emulation itself: what kernels may use works, and what they must not do is reported.

namespace {

using emulate::Order;

void in_every_order(void (*body)()) {
    for (const Order order : emulate::kOrders) {
        emulate::order = order;
        body();
    }
    emulate::order = Order::forward;
}

/// The message of what the emulation refuses to go on with.
template <class Body>
std::string refusal(const Body& body) {
    try {
        body();
    } catch (const std::logic_error& error) {
        return error.what();
    }
    return "nothing";
}

bool contains(const std::string& text, const char* part) {
    return text.find(part) != std::string::npos;
}

__global__ void count_kernel(int* met) {
    const int64_t block = blockIdx.x + gridDim.x * (blockIdx.y + int64_t{gridDim.y} * blockIdx.z);
    const int64_t thread = threadIdx.x + blockDim.x * (threadIdx.y + int64_t{blockDim.y} * threadIdx.z);
    atomicAdd(met + block * blockDim.x * blockDim.y * blockDim.z + thread, 1);
}

TEST(every_thread_of_a_grid_runs_once) {
    in_every_order([] {
        std::vector<int> met(2 * 3 * 4 * 5 * 6 * 7);
        count_kernel<<<dim3(2, 3, 4), dim3(5, 6, 7)>>>(met.data());
        CHECK(cudaGetLastError() == cudaSuccess);
        CHECK(std::all_of(met.begin(), met.end(), [](int times) { return times == 1; }));
    });
}

/// Counts into shared bins, then adds them to the global ones.
template <class T, int kBins>
__global__ void __launch_bounds__(128, 1) histogram_kernel(const int* x, int64_t n, T* bins) {
    __shared__ unsigned local[kBins];
    for (int bin = static_cast<int>(threadIdx.x); bin < kBins; bin += blockDim.x) local[bin] = 0;
    __syncthreads();
    for (int64_t i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x)
        atomicAdd(&local[x[i]], 1u);
    __syncthreads();
    for (int bin = static_cast<int>(threadIdx.x); bin < kBins; bin += blockDim.x)
        atomicAdd(bins + bin, local[bin]);
}

TEST(templates_shared_memory_and_atomics) {
    in_every_order([] {
        std::vector<int> x(1000);
        for (int i = 0; i < 1000; ++i) x[i] = i % 7;
        std::vector<unsigned long long> bins(7);
        histogram_kernel<unsigned long long, 7>
            <<<dim3(3, 1),  // a launch of several lines
               100, 0, static_cast<cudaStream_t>(static_cast<void*>(nullptr))>>>(x.data(), (1000 - 0),
                                                                                 bins.data());
        for (int bin = 0; bin < 7; ++bin) CHECK_EQ(bins[bin], bin < 6 ? 143u : 142u);
    });
}

__global__ void reverse_kernel(double* x) {
    extern __shared__ double memory[];
    memory[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    x[threadIdx.x] = memory[blockDim.x - 1 - threadIdx.x];
}

TEST(dynamic_shared_memory) {
    in_every_order([] {
        std::vector<double> x(70);
        std::iota(x.begin(), x.end(), 0.0);
        reverse_kernel<<<1, 70, 70 * sizeof(double)>>>(x.data());
        for (int i = 0; i < 70; ++i) CHECK_EQ(x[i], 69.0 - i);
    });
}

struct WarpResults {
    int down, up, from, mate, half;
    unsigned even;
};

__global__ void warp_kernel(WarpResults* out) {
    const int lane = threadIdx.x % 32, value = static_cast<int>(threadIdx.x) * 10;
    WarpResults& own = out[threadIdx.x];
    own.down = __shfl_down_sync(0xffffffffu, value, 3);
    own.up = __shfl_up_sync(0xffffffffu, value, 3, 16);
    own.from = __shfl_sync(0xffffffffu, value, 5);
    own.mate = __shfl_xor_sync(0xffffffffu, value, 1);
    own.even = __ballot_sync(0xffffffffu, lane % 2 == 0);
    int sum = value;  // the halves of a warp may go their own ways
    if (lane < 16)
        for (int by = 8; by > 0; by /= 2) sum += __shfl_xor_sync(0x0000ffffu, sum, by);
    else
        for (int by = 4; by > 0; by /= 2) sum += __shfl_xor_sync(0xffff0000u, sum, by);
    own.half = sum;
    __syncwarp();
}

TEST(warps_shuffle_and_vote) {
    in_every_order([] {
        constexpr int kThreads = 64;
        std::vector<WarpResults> out(kThreads);
        warp_kernel<<<1, kThreads>>>(out.data());
        for (int t = 0; t < kThreads; ++t) {
            const int lane = t % 32, warp = t / 32 * 32;
            CHECK_EQ(out[t].down, 10 * (lane + 3 < 32 ? t + 3 : t));
            CHECK_EQ(out[t].up, 10 * (lane % 16 >= 3 ? t - 3 : t));
            CHECK_EQ(out[t].from, 10 * (warp + 5));
            CHECK_EQ(out[t].mate, 10 * (t ^ 1));
            CHECK_EQ(out[t].even, 0x55555555u);
            const int size = lane < 16 ? 16 : 8, first = t / size * size;
            CHECK_EQ(out[t].half, 10 * (size * first + size * (size - 1) / 2));
        }
    });
}

__global__ void partial_warp_kernel(int* sums) {
    int sum = 1;
    if (threadIdx.x >= 40) return;  // lanes that ended are not waited for
    for (int by = 16; by > 0; by /= 2) {
        const int other = __shfl_down_sync(0xffffffffu, sum, by);
        if (threadIdx.x % 32 + by < (threadIdx.x < 32 ? 32 : 8)) sum += other;
    }
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = sum;
}

TEST(warps_with_missing_lanes) {
    in_every_order([] {
        int sums[2] = {};
        partial_warp_kernel<<<1, 50>>>(sums);
        CHECK_EQ(sums[0], 32);
        CHECK_EQ(sums[1], 8);
    });
}

__global__ void unset_kernel(float* out) {
    __shared__ float shared[4];
    if (blockIdx.x == 0) shared[threadIdx.x] = 1.0f;
    out[blockIdx.x * 4 + threadIdx.x] = shared[threadIdx.x];
}

TEST(shared_memory_starts_as_garbage_in_each_block) {
    std::vector<float> out(8);
    unset_kernel<<<2, 4>>>(out.data());
    for (int i = 0; i < 8; ++i) CHECK(i < 4 ? out[i] == 1.0f : out[i] < -1e38f);
}

/// Reads what its neighbour writes, without a barrier.
__global__ void race_kernel(int* out) {
    __shared__ int shared[33];
    shared[threadIdx.x] = 1;
    if (threadIdx.x == 31) shared[32] = 1;
    out[threadIdx.x] = shared[threadIdx.x + 1];
}

TEST(a_missing_barrier_shows_in_some_order) {
    bool wrong = false;
    for (const Order order : {Order::forward, Order::backward}) {
        emulate::order = order;
        std::vector<int> out(32);
        race_kernel<<<1, 32>>>(out.data());
        wrong = wrong || std::any_of(out.begin(), out.end(), [](int value) { return value != 1; });
    }
    emulate::order = Order::forward;
    CHECK(wrong);
}

__global__ void divergent_kernel() {
    if (threadIdx.x < 10)
        __syncthreads();
    else
        __syncthreads();
}

__global__ void early_return_kernel() {
    if (threadIdx.x == 3) return;
    __syncthreads();
}

__global__ void mixed_kernel() {
    if (threadIdx.x == 0)
        __syncwarp();
    else
        __shfl_sync(0xffffffffu, 1, 0);
}

__global__ void stranger_kernel() {
    __shfl_sync(0x0000ffffu, 1, 0);
}

__global__ void waiting_kernel() {
    if (threadIdx.x == 0)
        __syncthreads();
    else
        __syncwarp();
}

TEST(threads_that_wait_in_vain_are_reported) {
    const std::string divergent = refusal([] { divergent_kernel<<<1, 32>>>(); });
    CHECK(contains(divergent, "thread 0 of block (0, 0, 0) waits at") &&
          contains(divergent, "but thread 31"));
    const std::string returned = refusal([] { early_return_kernel<<<1, 32>>>(); });
    CHECK(contains(returned, "31 at ") && contains(returned, "1 at the end, the first is thread 3"));
    CHECK(contains(refusal([] { mixed_kernel<<<1, 32>>>(); }),
                   "comes to __shfl_sync while its warp is at __syncwarp"));
    CHECK(contains(refusal([] { stranger_kernel<<<1, 32>>>(); }),
                   "thread 16 of block (0, 0, 0) is not in the mask"));
    CHECK(contains(refusal([] { waiting_kernel<<<1, 32>>>(); }), "31 at __syncwarp"));
}

TEST(a_launch_that_cuda_refuses_does_not_run) {
    int met = 0;
    count_kernel<<<1, 1025>>>(&met);
    CHECK(cudaGetLastError() == cudaErrorInvalidConfiguration);
    CHECK(cudaGetLastError() == cudaSuccess);
    count_kernel<<<0, 1>>>(&met);
    CHECK(cudaGetLastError() == cudaErrorInvalidConfiguration);
    CHECK_EQ(met, 0);
}

/// Checks that every 16-bit float converts to float and back, and that values between two go to the nearer.
template <class Narrow>
void check_narrow(float (*widen)(Narrow), Narrow (*narrow)(float), unsigned infinity) {
    for (unsigned bits = 0; bits < infinity; ++bits) {
        const float low = widen({static_cast<uint16_t>(bits)}),
                    high = widen({static_cast<uint16_t>(bits + 1)});
        CHECK_EQ(narrow(low).bits, bits);
        CHECK_EQ(narrow(-low).bits, bits | 0x8000u);
        if (bits + 1 == infinity) break;
        CHECK(low < high);
        const float middle = low + (high - low) / 2.0f;
        CHECK_EQ(narrow(middle).bits, bits + bits % 2);  // half way: to even
        CHECK_EQ(narrow(std::nextafter(middle, low)).bits, bits);
        CHECK_EQ(narrow(std::nextafter(middle, high)).bits, bits + 1);
    }
    CHECK_EQ(narrow(INFINITY).bits, infinity);
    CHECK(std::isinf(widen({static_cast<uint16_t>(infinity)})));
    CHECK(std::isnan(widen(narrow(NAN))));
}

TEST(half_and_bfloat16_round_to_even) {
    check_narrow<__half>(__half2float, __float2half_rn, 0x7c00u);
    check_narrow<__nv_bfloat16>(__bfloat162float, __float2bfloat16_rn, 0x7f80u);
    CHECK_EQ(__float2half_rn(65519.0f).bits, 0x7bffu);
    CHECK_EQ(__float2half_rn(65520.0f).bits, 0x7c00u);
    CHECK_EQ(__float2bfloat16_rn(3.4e38f).bits, 0x7f80u);
}

}  // namespace
