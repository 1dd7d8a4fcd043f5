#include <cuda_runtime.h>

// compute-sanitizer --tool synccheck must report this kernel.

__global__ void part_of_a_warp_waits(int* out) {
    __shared__ int shared[64];
    shared[threadIdx.x] = 1;
    if (threadIdx.x < 40) {
        __syncthreads();
        out[threadIdx.x] = shared[63 - threadIdx.x];
    }
}

int main() {
    int* out = nullptr;
    if (cudaMalloc(&out, 64 * sizeof(int)) != cudaSuccess) return 3;
    part_of_a_warp_waits<<<1, 64>>>(out);
    cudaDeviceSynchronize();  // its error is for the tool to report
    cudaFree(out);
    return 0;
}
