#include <type_traits>

#include "cuda/elements.cuh"

namespace ribs::cuda {
namespace {

constexpr int kAhead = 4;  // packs loaded before the first is used: `out` may be x, so the compiler must not

// The result is of the element type T, or the byte of a code.

template <class T, class Out>
__device__ Out quantized(T x, const Quantizer& q, const FakeQuantizeParams& p) {
    if constexpr (std::is_same_v<Out, uint8_t>)
        return code_byte(to_float(x), q, static_cast<int32_t>(p.qmin), static_cast<int32_t>(p.qmax - p.qmin));
    else
        return from_float<T>(fake_quantize(to_float(x), q));
}

template <class T, class Out, int kPack>
__device__ Pack<Out, kPack> quantized(const Pack<T, kPack>& x, const Quantizer* q, int step,
                                      const FakeQuantizeParams& p) {
    Pack<Out, kPack> out;
    for (int k = 0; k < kPack; ++k) out.values[k] = quantized<T, Out>(x.values[k], q[k * step], p);
    return out;
}

template <class T, class Out, int kPack>
__global__ void forward_rows(FakeQuantizeParams p, Plan plan, int64_t pieces) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    const int64_t warps = static_cast<int64_t>(gridDim.x) * (blockDim.x / kWarp);
    const int64_t first = static_cast<int64_t>(blockIdx.x) * (blockDim.x / kWarp) + threadIdx.x / kWarp;
    for (int64_t piece = first; piece < pieces; piece += warps) {
        const Segment at(plan, piece);
        const T* x = static_cast<const T*>(p.x) + at.start;
        Out* out = static_cast<Out*>(p.out) + at.start;
        const Quantizer q = quantizer(p, at.channel);
        const int whole = at.count / kPack * kPack;
        for (int i = lane * kPack; i < whole; i += kAhead * kWarp * kPack) {
            Pack<T, kPack> packs[kAhead];
#pragma unroll
            for (int k = 0; k < kAhead; ++k)
                if (const int j = i + k * kWarp * kPack; j < whole) packs[k] = Pack<T, kPack>::load(x + j);
#pragma unroll
            for (int k = 0; k < kAhead; ++k)
                if (const int j = i + k * kWarp * kPack; j < whole)
                    quantized<T, Out, kPack>(packs[k], &q, 0, p).store(out + j);
        }
        if (const int j = whole + lane; j < at.count) out[j] = quantized<T, Out>(x[j], q, p);
    }
}

template <class T, class Out, int kPack>
__global__ void forward_columns(FakeQuantizeParams p, Plan plan, int64_t pieces) {
    const int64_t width = plan.width(), stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
    for (int64_t piece = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; piece < pieces;
         piece += stride) {
        const Strip at(plan, piece, width / kPack, kPack);
        const T* x = static_cast<const T*>(p.x) + at.column;
        Out* out = static_cast<Out*>(p.out) + at.column;
        Quantizer q[kPack];
        for (int k = 0; k < kPack; ++k) q[k] = quantizer(p, (at.column + k) / plan.inner);
        for (int64_t line = at.first; line < at.last; line += kAhead) {
            Pack<T, kPack> packs[kAhead];
#pragma unroll
            for (int k = 0; k < kAhead; ++k)
                if (line + k < at.last) packs[k] = Pack<T, kPack>::load(x + (line + k) * width);
#pragma unroll
            for (int k = 0; k < kAhead; ++k)
                if (line + k < at.last)
                    quantized<T, Out, kPack>(packs[k], q, 1, p).store(out + (line + k) * width);
        }
    }
}

template <class T, class Out, int kPack>
void launch(const char* op, const FakeQuantizeParams& p, const Plan& plan, Stream stream) {
    if (plan.columns()) {
        const int64_t pieces = plan.groups() * (plan.width() / kPack);
        forward_columns<T, Out, kPack>
            <<<blocks(pieces, kThreads), kThreads, 0, handle(stream)>>>(p, plan, pieces);
    } else {
        const int64_t pieces = plan.partials();
        forward_rows<T, Out, kPack>
            <<<blocks(pieces, kThreads / kWarp), kThreads, 0, handle(stream)>>>(p, plan, pieces);
    }
    check_launch(op);
}

}  // namespace

void fake_quantize(const FakeQuantizeParams& p, Stream stream) {
    const Plan plan{p.outer, p.channels, p.inner};
    with_element(p.element, [&](auto element) {
        using T = decltype(element);
        constexpr int kPack = 16 / sizeof(T);
        if (plan.whole(kPack) && aligned(p.x) && aligned(p.out))
            launch<T, T, kPack>("fake_quantize", p, plan, stream);
        else
            launch<T, T, 1>("fake_quantize", p, plan, stream);
    });
}

void quantize(const FakeQuantizeParams& p, Stream stream) {
    const Plan plan{p.outer, p.channels, p.inner};
    with_element(p.element, [&](auto element) {
        using T = decltype(element);
        constexpr int kPack = 16 / sizeof(T);
        if (plan.whole(kPack) && aligned(p.x) && aligned(p.out))
            launch<T, uint8_t, kPack>("quantize", p, plan, stream);
        else
            launch<T, uint8_t, 1>("quantize", p, plan, stream);
    });
}

}  // namespace ribs::cuda
