#include "core/soft_round.h"
#include "cuda/elements.cuh"

namespace ribs {

namespace cuda {
namespace {

constexpr int64_t kPiece = 1024;  // elements of a block, whose penalties it adds up in a fixed tree

__global__ void forward(SoftRoundParams p, int64_t count, int64_t pieces) {
    __shared__ double shared[kThreads];
    const float beta = *p.beta;
    for (int64_t piece = blockIdx.x; piece < pieces; piece += gridDim.x) {
        const int64_t end = (piece + 1) * kPiece < count ? (piece + 1) * kPiece : count;
        double sum = 0.0;
        for (int64_t i = piece * kPiece + threadIdx.x; i < end; i += blockDim.x) {
            const float h = upward(p.alpha[i]).h;
            p.out[i] = soft_value(p.weight[i], h, quantizer(p, i / p.inner % p.channels));
            if (beta > 0.0f) sum += static_cast<double>(rounding_penalty(h, beta));
        }
        const double total = block_sum(sum, shared);
        if (threadIdx.x == 0) p.partials[piece] = total;
        __syncthreads();
    }
}

__global__ void sum_partials(SoftRoundParams p, int64_t pieces) {
    __shared__ double shared[kThreads];
    double sum = 0.0;
    for (int64_t piece = threadIdx.x; piece < pieces; piece += blockDim.x) sum += p.partials[piece];
    const double total = block_sum(sum, shared);
    if (threadIdx.x == 0) *p.penalty = static_cast<float>(total);
}

__global__ void backward(SoftRoundBackwardParams p, int64_t count) {
    const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
    const float grad_penalty = *p.grad_penalty, beta = *p.beta;
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += stride)
        p.grad_alpha[i] = soft_round_gradient(p.grad[i], grad_penalty, p.weight[i], p.alpha[i],
                                              quantizer(p, i / p.inner % p.channels), beta);
}

}  // namespace

void soft_round(const SoftRoundParams& p, Stream stream) {
    const int64_t count = p.outer * p.channels * p.inner, pieces = soft_round_partials(count);
    forward<<<blocks(pieces, 1), kThreads, 0, handle(stream)>>>(p, count, pieces);
    check_launch("soft_round");
    sum_partials<<<1, kThreads, 0, handle(stream)>>>(p, pieces);
    check_launch("soft_round");
}

void soft_round_backward(const SoftRoundBackwardParams& p, Stream stream) {
    const int64_t count = p.outer * p.channels * p.inner;
    backward<<<blocks(count, kThreads), kThreads, 0, handle(stream)>>>(p, count);
    check_launch("soft_round_backward");
}

}  // namespace cuda

int64_t soft_round_partials(int64_t count) {
    return (count + cuda::kPiece - 1) / cuda::kPiece;
}

}  // namespace ribs
