#include <cuda_runtime.h>

// compute-sanitizer --tool memcheck must report this kernel.

__global__ void write_past_the_end(float* x, int count) {
    if (threadIdx.x <= static_cast<unsigned>(count)) x[threadIdx.x] = 1.0f;
}

int main() {
    float* x = nullptr;
    if (cudaMalloc(&x, 64 * sizeof(float)) != cudaSuccess) return 3;
    write_past_the_end<<<1, 128>>>(x, 64);
    cudaDeviceSynchronize();  // its error is for the tool to report
    cudaFree(x);
    return 0;
}
