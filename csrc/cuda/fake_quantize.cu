#include "core/quantize.h"
#include "cuda/launch.cuh"

namespace ribs::cuda {
namespace {

template <class Params>
__device__ Quantizer quantizer(const Params& p, int64_t c) {
    return make_quantizer(p.step[c], p.zero_point[c], p.qmin, p.qmax);
}

__global__ void forward_kernel(FakeQuantizeParams p) {
    const int64_t total = p.outer * p.channels * p.inner;
    const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < total; i += stride)
        p.out[i] = fake_quantize(p.x[i], quantizer(p, p.channels == 1 ? 0 : i / p.inner % p.channels));
}

/// One element; returns its share of the step gradient.
__device__ double backward_element(const FakeQuantizeBackwardParams& p, int64_t i, const Quantizer& q) {
    const float grad = p.grad[i];
    const LsqGradient g = lsq_gradient(grad, p.x[i], q);
    p.grad_x[i] = g.x;
    return static_cast<double>(grad) * static_cast<double>(g.step);
}

/// A block takes a segment of a row at a time.
__global__ void wide_kernel(FakeQuantizeBackwardParams p) {
    __shared__ double shared[kThreads];
    const GradientPlan plan{p.outer, p.channels, p.inner};
    const int64_t segments = plan.segments(), pieces = plan.partials();
    for (int64_t piece = blockIdx.x; piece < pieces; piece += gridDim.x) {
        const int64_t row = piece / segments;
        const int64_t offset = piece % segments * GradientPlan::kSegment;
        const int64_t rest = p.inner - offset;
        const int64_t count = rest < GradientPlan::kSegment ? rest : GradientPlan::kSegment;
        const Quantizer q = quantizer(p, row % p.channels);
        double sum = 0.0;
        for (int64_t i = threadIdx.x; i < count; i += blockDim.x)
            sum += backward_element(p, row * p.inner + offset + i, q);
        const double total = block_sum(sum, shared);
        if (threadIdx.x == 0) p.partials[piece] = total;
        __syncthreads();
    }
}

/// A thread takes a channel of a group of rows: neighbours in a warp are neighbours in channels-last memory.
__global__ void narrow_kernel(FakeQuantizeBackwardParams p) {
    const GradientPlan plan{p.outer, p.channels, p.inner};
    const int64_t pieces = plan.partials(), stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
    for (int64_t piece = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; piece < pieces;
         piece += stride) {
        const int64_t group = piece / p.channels, c = piece % p.channels;
        const int64_t end = (group + 1) * GradientPlan::kRows;
        const int64_t last = end < p.outer ? end : p.outer;
        const Quantizer q = quantizer(p, c);
        double sum = 0.0;
        for (int64_t row = group * GradientPlan::kRows; row < last; ++row)
            for (int64_t i = 0; i < p.inner; ++i)
                sum += backward_element(p, (row * p.channels + c) * p.inner + i, q);
        p.partials[piece] = sum;
    }
}

/// A block adds up the partial sums of a channel at a time.
__global__ void step_kernel(FakeQuantizeBackwardParams p) {
    __shared__ double shared[kThreads];
    const GradientPlan plan{p.outer, p.channels, p.inner};
    const int64_t segments = plan.segments(), count = plan.groups() * segments;
    for (int64_t c = blockIdx.x; c < p.channels; c += gridDim.x) {
        double sum = 0.0;
        for (int64_t i = threadIdx.x; i < count; i += blockDim.x)
            sum += p.partials[(i / segments * p.channels + c) * segments + i % segments];
        const double total = block_sum(sum, shared);
        if (threadIdx.x == 0) p.grad_step[c] = static_cast<float>(total);
        __syncthreads();
    }
}

}  // namespace

void fake_quantize(const FakeQuantizeParams& p, Stream stream) {
    const int64_t total = p.outer * p.channels * p.inner;
    if (total == 0) return;
    forward_kernel<<<blocks(total, kThreads), kThreads, 0, handle(stream)>>>(p);
    check_launch("fake_quantize");
}

void fake_quantize_backward(const FakeQuantizeBackwardParams& p, Stream stream) {
    const GradientPlan plan{p.outer, p.channels, p.inner};
    if (plan.narrow())
        narrow_kernel<<<blocks(plan.partials(), kThreads), kThreads, 0, handle(stream)>>>(p);
    else
        wide_kernel<<<blocks(plan.partials(), 1), kThreads, 0, handle(stream)>>>(p);
    check_launch("fake_quantize_backward");
    step_kernel<<<blocks(p.channels, 1), kThreads, 0, handle(stream)>>>(p);
    check_launch("fake_quantize_backward");
}

}  // namespace ribs::cuda
