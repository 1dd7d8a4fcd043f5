#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "ops.h"

namespace ribs::cuda {

constexpr int kThreads = 256;
constexpr int64_t kMaxBlocks = 65535;  // of grid y; grid-stride loops cover the rest

/// Blocks for `count` items of `each`, at most `most`.
inline unsigned blocks(int64_t count, int64_t each, int64_t most = 1 << 20) {
    return static_cast<unsigned>(std::max<int64_t>(1, std::min((count + each - 1) / each, most)));
}

inline cudaStream_t handle(Stream stream) {
    return static_cast<cudaStream_t>(stream);
}

/// Throws when the last launch was refused; does not wait for the device.
inline void check_launch(const char* op) {
    const cudaError_t error = cudaGetLastError();
    if (error != cudaSuccess)
        throw std::runtime_error(std::string("[") + op +
                                 "] CUDA launch failed: " + cudaGetErrorString(error));
}

/// Sums a value over a block in a fixed tree; the result is valid in thread 0. Threads are a power of two.
__device__ inline double block_sum(double value, double* shared) {
    shared[threadIdx.x] = value;
    __syncthreads();
    for (unsigned width = blockDim.x / 2; width > 0; width /= 2) {
        if (threadIdx.x < width) shared[threadIdx.x] += shared[threadIdx.x + width];
        __syncthreads();
    }
    return shared[0];
}

}  // namespace ribs::cuda
