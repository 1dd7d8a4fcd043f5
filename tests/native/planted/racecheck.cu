#include <cuda_runtime.h>

// compute-sanitizer --tool racecheck must report this kernel.

__global__ void read_without_a_barrier(int* out) {
    __shared__ int shared[128];
    shared[threadIdx.x] = static_cast<int>(threadIdx.x);
    out[threadIdx.x] = shared[127 - threadIdx.x];
}

int main() {
    int* out = nullptr;
    if (cudaMalloc(&out, 128 * sizeof(int)) != cudaSuccess) return 3;
    read_without_a_barrier<<<1, 128>>>(out);
    if (cudaDeviceSynchronize() != cudaSuccess) return 3;
    cudaFree(out);
    return 0;
}
