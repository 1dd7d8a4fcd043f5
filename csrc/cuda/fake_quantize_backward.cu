#include "cuda/elements.cuh"

namespace ribs {

int64_t fake_quantize_partials(int64_t outer, int64_t channels, int64_t inner) {
    return cuda::Plan{outer, channels, inner}.partials();
}

namespace cuda {
namespace {

constexpr int kAhead = 2;  // packs of each input loaded before the first is used: `grad_x` may be one of them

/// Gives the gradients of x, and adds the shares in the gradient of the step, whose products are exact.
template <class T, int kPack>
__device__ Pack<T, kPack> differentiate(const Pack<T, kPack>& grad, const Pack<T, kPack>& x,
                                        const Quantizer* q, double* sums, int step) {
    Pack<T, kPack> grad_x;
    for (int k = 0; k < kPack; ++k) {
        const float g = to_float(grad.values[k]);
        const LsqGradient found = lsq_gradient(g, to_float(x.values[k]), q[k * step]);
        grad_x.values[k] = from_float<T>(found.x);
        sums[k * step] += static_cast<double>(g) * static_cast<double>(found.step);
    }
    return grad_x;
}

__device__ double warp_sum(double value) {
    for (int distance = kWarp / 2; distance > 0; distance /= 2)
        value += __shfl_down_sync(0xffffffffu, value, static_cast<unsigned>(distance));
    return value;
}

template <class T, int kPack>
__global__ void backward_rows(FakeQuantizeBackwardParams p, Plan plan, int64_t pieces) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    const int64_t warps = static_cast<int64_t>(gridDim.x) * (blockDim.x / kWarp);
    const int64_t first = static_cast<int64_t>(blockIdx.x) * (blockDim.x / kWarp) + threadIdx.x / kWarp;
    for (int64_t piece = first; piece < pieces; piece += warps) {
        const Segment at(plan, piece);
        const T* grad = static_cast<const T*>(p.grad) + at.start;
        const T* x = static_cast<const T*>(p.x) + at.start;
        T* grad_x = static_cast<T*>(p.grad_x) + at.start;
        const Quantizer q = quantizer(p, at.channel);
        double sum = 0.0;
        const int whole = at.count / kPack * kPack;
        for (int i = lane * kPack; i < whole; i += kAhead * kWarp * kPack) {
            Pack<T, kPack> grads[kAhead], values[kAhead];
#pragma unroll
            for (int k = 0; k < kAhead; ++k)
                if (const int j = i + k * kWarp * kPack; j < whole) {
                    grads[k] = Pack<T, kPack>::load(grad + j);
                    values[k] = Pack<T, kPack>::load(x + j);
                }
#pragma unroll
            for (int k = 0; k < kAhead; ++k)
                if (const int j = i + k * kWarp * kPack; j < whole)
                    differentiate(grads[k], values[k], &q, &sum, 0).store(grad_x + j);
        }
        if (const int j = whole + lane; j < at.count)
            differentiate(Pack<T, 1>::load(grad + j), Pack<T, 1>::load(x + j), &q, &sum, 0).store(grad_x + j);
        sum = warp_sum(sum);
        if (lane == 0) p.partials[piece] = sum;
    }
}

template <class T, int kPack>
__global__ void backward_columns(FakeQuantizeBackwardParams p, Plan plan, int64_t pieces) {
    const int64_t width = plan.width(), stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
    for (int64_t piece = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; piece < pieces;
         piece += stride) {
        const Strip at(plan, piece, width / kPack, kPack);
        const T* grad = static_cast<const T*>(p.grad) + at.column;
        const T* x = static_cast<const T*>(p.x) + at.column;
        T* grad_x = static_cast<T*>(p.grad_x) + at.column;
        Quantizer q[kPack];
        for (int k = 0; k < kPack; ++k) q[k] = quantizer(p, (at.column + k) / plan.inner);
        double sums[kPack] = {};
        for (int64_t line = at.first; line < at.last; line += kAhead) {
            Pack<T, kPack> grads[kAhead], values[kAhead];
#pragma unroll
            for (int k = 0; k < kAhead; ++k)
                if (line + k < at.last) {
                    grads[k] = Pack<T, kPack>::load(grad + (line + k) * width);
                    values[k] = Pack<T, kPack>::load(x + (line + k) * width);
                }
#pragma unroll
            for (int k = 0; k < kAhead; ++k)
                if (line + k < at.last)
                    differentiate(grads[k], values[k], q, sums, 1).store(grad_x + (line + k) * width);
        }
        for (int k = 0; k < kPack; ++k) p.partials[at.group * width + at.column + k] = sums[k];
    }
}

constexpr int kSumThreads = 1024;  // of a block that adds up all partial sums there are
constexpr int kSumsAhead = 4;      // loads that do not wait for each other

/// A block adds up the partial sums of a step at a time: all there are, or those of a channel, which are
/// `parts` neighbours in every group.
__global__ void __launch_bounds__(kSumThreads)
    sum_partials(FakeQuantizeBackwardParams p, int64_t groups, int64_t parts) {
    __shared__ double shared[kSumThreads];
    // Of one step all are neighbours, and many: no division for each.
    const int64_t steps = p.learned.one_step ? 1 : p.channels, count = groups * parts * (p.channels / steps);
    const int64_t in_group = steps == 1 ? count : parts;
    for (int64_t c = blockIdx.x; c < steps; c += gridDim.x) {
        double sums[kSumsAhead] = {};
        for (int64_t i = threadIdx.x; i < count; i += kSumsAhead * static_cast<int64_t>(blockDim.x)) {
#pragma unroll
            for (int k = 0; k < kSumsAhead; ++k) {
                const int64_t j = i + k * static_cast<int64_t>(blockDim.x);
                if (j >= count) continue;
                const int64_t group = steps == 1 ? 0 : j / in_group;
                sums[k] += p.partials[(group * steps + c) * in_group + (j - group * in_group)];
            }
        }
        const double total = block_sum((sums[0] + sums[1]) + (sums[2] + sums[3]), shared);
        if (threadIdx.x == 0) p.grad_step[c] = static_cast<float>(total * p.scale);
        __syncthreads();
    }
}

template <class T, int kPack>
void launch(const FakeQuantizeBackwardParams& p, const Plan& plan, Stream stream) {
    if (plan.columns()) {
        const int64_t pieces = plan.groups() * (plan.width() / kPack);
        backward_columns<T, kPack>
            <<<blocks(pieces, kThreads), kThreads, 0, handle(stream)>>>(p, plan, pieces);
    } else {
        const int64_t pieces = plan.partials();
        backward_rows<T, kPack>
            <<<blocks(pieces, kThreads / kWarp), kThreads, 0, handle(stream)>>>(p, plan, pieces);
    }
    check_launch("fake_quantize_backward");
}

}  // namespace

void fake_quantize_backward(const FakeQuantizeBackwardParams& p, Stream stream) {
    const Plan plan{p.outer, p.channels, p.inner};
    with_element(p.element, [&](auto element) {
        using T = decltype(element);
        constexpr int kPack = 16 / sizeof(T);
        if (plan.whole(kPack) && aligned(p.grad) && aligned(p.x) && aligned(p.grad_x))
            launch<T, kPack>(p, plan, stream);
        else
            launch<T, 1>(p, plan, stream);
    });
    const int64_t steps = p.learned.one_step ? 1 : p.channels;
    const int threads = steps == 1 ? kSumThreads : kThreads;
    sum_partials<<<blocks(steps, 1), threads, 0, handle(stream)>>>(p, plan.groups(), plan.parts());
    check_launch("fake_quantize_backward");
}

}  // namespace cuda
}  // namespace ribs
