#include <cuda_runtime.h>

// compute-sanitizer --tool initcheck must report this kernel.

__global__ void read_what_nobody_wrote(const float* x, float* out) {
    out[threadIdx.x] = x[threadIdx.x] + 1.0f;
}

int main() {
    float *x = nullptr, *out = nullptr;
    if (cudaMalloc(&x, 64 * sizeof(float)) != cudaSuccess) return 3;
    if (cudaMalloc(&out, 64 * sizeof(float)) != cudaSuccess) return 3;
    read_what_nobody_wrote<<<1, 64>>>(x, out);
    if (cudaDeviceSynchronize() != cudaSuccess) return 3;
    cudaFree(x);
    cudaFree(out);
    return 0;
}
