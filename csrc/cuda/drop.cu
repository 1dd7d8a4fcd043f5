#include "core/drop.h"
#include "cuda/elements.cuh"

namespace ribs {

namespace cuda {
namespace {

constexpr int64_t kPiece = 1024;  // elements of a block, whose step gradients it adds up in a fixed tree

__device__ bool is_kept_at(int64_t i, const Chance& chance) {
    return is_kept(static_cast<uint32_t>(i), static_cast<uint32_t>(i >> 32), chance);
}

__global__ void forward(DropParams p) {
    const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
    const Quantizer q = quantizer(p, 0);
    const Chance chance = chance_of(*p.seed, p.kept);
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < p.inner; i += stride)
        p.out[i] = is_kept_at(i, chance) ? fake_quantize(p.x[i], q) : p.x[i];
}

__global__ void backward(DropBackwardParams p, int64_t pieces) {
    __shared__ double shared[kThreads];
    const Quantizer q = quantizer(p, 0);
    const Chance chance = chance_of(*p.seed, p.kept);
    for (int64_t piece = blockIdx.x; piece < pieces; piece += gridDim.x) {
        const int64_t end = (piece + 1) * kPiece < p.inner ? (piece + 1) * kPiece : p.inner;
        double sum = 0.0;
        for (int64_t i = piece * kPiece + threadIdx.x; i < end; i += blockDim.x) {
            const LsqGradient found = drop_gradient(p.grad[i], p.x[i], is_kept_at(i, chance), q);
            p.grad_x[i] = found.x;
            sum += static_cast<double>(p.grad[i]) * static_cast<double>(found.step);
        }
        const double total = block_sum(sum, shared);
        if (threadIdx.x == 0) p.partials[piece] = total;
        __syncthreads();
    }
}

__global__ void sum_partials(DropBackwardParams p, int64_t pieces) {
    __shared__ double shared[kThreads];
    double sum = 0.0;
    for (int64_t piece = threadIdx.x; piece < pieces; piece += blockDim.x) sum += p.partials[piece];
    const double total = block_sum(sum, shared);
    if (threadIdx.x == 0) *p.grad_step = static_cast<float>(total);
}

}  // namespace

void drop(const DropParams& p, Stream stream) {
    forward<<<blocks(p.inner, kThreads), kThreads, 0, handle(stream)>>>(p);
    check_launch("drop");
}

void drop_backward(const DropBackwardParams& p, Stream stream) {
    const int64_t pieces = drop_partials(p.inner);
    backward<<<blocks(pieces, 1), kThreads, 0, handle(stream)>>>(p, pieces);
    check_launch("drop_backward");
    sum_partials<<<1, kThreads, 0, handle(stream)>>>(p, pieces);
    check_launch("drop_backward");
}

}  // namespace cuda

int64_t drop_partials(int64_t count) {
    return (count + cuda::kPiece - 1) / cuda::kPiece;
}

}  // namespace ribs
