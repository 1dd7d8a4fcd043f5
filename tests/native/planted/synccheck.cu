#include <cuda_runtime.h>

// compute-sanitizer --tool synccheck must report this kernel.

__global__ void waits_outside_of_its_mask(int* out) {
    __shared__ int shared[32];
    shared[threadIdx.x] = 1;
    __syncwarp(0xffffu);  // the other half of the warp is here too
    out[threadIdx.x] = shared[31 - threadIdx.x];
}

int main() {
    int* out = nullptr;
    if (cudaMalloc(&out, 32 * sizeof(int)) != cudaSuccess) return 3;
    waits_outside_of_its_mask<<<1, 32>>>(out);
    cudaDeviceSynchronize();  // its error is for the tool to report
    cudaFree(out);
    return 0;
}
