#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <tuple>
#include <type_traits>

// Runs CUDA kernels on the CPU, so that a machine without a GPU can test their logic: indices, bounds,
// barriers, shuffles, sums. It says nothing about a GPU: not its speed, its memory model, its limits on
// registers, or how nvcc compiles. Blocks run one after the other; the threads of a block are fibers of one
// thread of the CPU, which change places only where they wait for each other. A run is therefore the same
// every time, and a forgotten barrier shows as another result in another order (see Order), not as a rare
// accident.

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
    constexpr int64_t count() const { return static_cast<int64_t>(x) * y * z; }
};

using cudaStream_t = struct CUstream_st*;

inline dim3 threadIdx, blockIdx, blockDim, gridDim;
constexpr int warpSize = 32;

namespace emulate {

/// In which order blocks, and the threads between two barriers, take their turns. A kernel must give the same
/// result in each.
enum class Order { forward, backward, shuffled };
inline Order order = Order::forward;
constexpr Order kOrders[] = {Order::forward, Order::backward, Order::shuffled};

/// What stands between <<< and >>>.
struct Config {
    dim3 grid, block;
    size_t shared;
    Config(dim3 grid_, dim3 block_, size_t shared_ = 0, cudaStream_t = nullptr)
        : grid(grid_), block(block_), shared(shared_) {}
};

/// Runs a kernel to its end. What CUDA refuses to launch is left for cudaGetLastError. Throws
/// std::logic_error when threads wait for each other in vain, with where each of them waits.
void run(const Config& config, const std::function<void()>& kernel);
/// The same with arguments, which are evaluated once and copied for every thread, as a launch does.
template <class Kernel, class... Arguments>
void launch(const Config& config, const Kernel& kernel, Arguments... arguments) {
    run(config, [values = std::make_tuple(arguments...), &kernel] { std::apply(kernel, values); });
}
/// Takes the error of the last launch: whether its configuration was refused.
bool take_refusal();

/// Waits for all threads of the block at the same place in the source.
void sync_threads(const char* place);

/// What the lanes of a warp brought to a meeting; lanes that were not there left garbage.
struct Lanes {
    static constexpr int kBytes = 16;
    unsigned present;
    unsigned char values[32][kBytes];
};
/// Waits for all lanes of the mask that still run; `what` is the name of the operation, which must agree.
const Lanes& meet(unsigned mask, const char* what, const void* value, size_t bytes);
/// The number of this thread in its warp.
int lane();

/// The dynamic shared memory of this block.
void* dynamic_shared();
/// Fills a shared variable with garbage for the first thread of a block that passes its declaration: on a GPU
/// a block finds anything there, and never what the emulated block before it left.
void fresh(void* variable, size_t bytes);

template <class T>
void fresh(T& variable) {
    static_assert(std::is_trivially_copyable_v<T>, "shared variables have no constructors");
    fresh(const_cast<void*>(static_cast<const volatile void*>(&variable)), sizeof variable);
}

/// The value of lane `from`, as a shuffle gives it.
template <class T>
T exchange(unsigned mask, const char* what, T value, int from) {
    static_assert(std::is_arithmetic_v<T> && sizeof(T) <= Lanes::kBytes, "CUDA shuffles numbers only");
    const Lanes& lanes = meet(mask, what, &value, sizeof value);
    std::memcpy(&value, lanes.values[from & 31], sizeof value);
    return value;
}

}  // namespace emulate
