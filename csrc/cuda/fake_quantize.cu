#include "cuda/elements.cuh"

namespace ribs::cuda {
namespace {

constexpr int kAhead = 4;  // packs loaded before the first is used: `out` may be x, so the compiler must not

template <class T, int kPack>
__device__ Pack<T, kPack> quantize(const Pack<T, kPack>& x, const Quantizer* q, int step) {
    Pack<T, kPack> out;
    for (int k = 0; k < kPack; ++k)
        out.values[k] = from_float<T>(fake_quantize(to_float(x.values[k]), q[k * step]));
    return out;
}

template <class T, int kPack>
__global__ void forward_rows(FakeQuantizeParams p, Plan plan, int64_t pieces) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    const int64_t warps = static_cast<int64_t>(gridDim.x) * (blockDim.x / kWarp);
    const int64_t first = static_cast<int64_t>(blockIdx.x) * (blockDim.x / kWarp) + threadIdx.x / kWarp;
    for (int64_t piece = first; piece < pieces; piece += warps) {
        const Segment at(plan, piece);
        const T* x = static_cast<const T*>(p.x) + at.start;
        T* out = static_cast<T*>(p.out) + at.start;
        const Quantizer q = quantizer(p, at.channel);
        const int whole = at.count / kPack * kPack;
        for (int i = lane * kPack; i < whole; i += kAhead * kWarp * kPack) {
            Pack<T, kPack> packs[kAhead];
#pragma unroll
            for (int k = 0; k < kAhead; ++k)
                if (const int j = i + k * kWarp * kPack; j < whole) packs[k] = Pack<T, kPack>::load(x + j);
#pragma unroll
            for (int k = 0; k < kAhead; ++k)
                if (const int j = i + k * kWarp * kPack; j < whole) quantize(packs[k], &q, 0).store(out + j);
        }
        if (const int j = whole + lane; j < at.count)
            out[j] = from_float<T>(fake_quantize(to_float(x[j]), q));
    }
}

template <class T, int kPack>
__global__ void forward_columns(FakeQuantizeParams p, Plan plan, int64_t pieces) {
    const int64_t width = plan.width(), stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
    for (int64_t piece = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; piece < pieces;
         piece += stride) {
        const Strip at(plan, piece, width / kPack, kPack);
        const T* x = static_cast<const T*>(p.x) + at.column;
        T* out = static_cast<T*>(p.out) + at.column;
        Quantizer q[kPack];
        for (int k = 0; k < kPack; ++k) q[k] = quantizer(p, (at.column + k) / plan.inner);
        for (int64_t line = at.first; line < at.last; line += kAhead) {
            Pack<T, kPack> packs[kAhead];
#pragma unroll
            for (int k = 0; k < kAhead; ++k)
                if (line + k < at.last) packs[k] = Pack<T, kPack>::load(x + (line + k) * width);
#pragma unroll
            for (int k = 0; k < kAhead; ++k)
                if (line + k < at.last) quantize(packs[k], q, 1).store(out + (line + k) * width);
        }
    }
}

template <class T, int kPack>
void launch(const FakeQuantizeParams& p, const Plan& plan, Stream stream) {
    if (plan.columns()) {
        const int64_t pieces = plan.groups() * (plan.width() / kPack);
        forward_columns<T, kPack><<<blocks(pieces, kThreads), kThreads, 0, handle(stream)>>>(p, plan, pieces);
    } else {
        const int64_t pieces = plan.partials();
        forward_rows<T, kPack>
            <<<blocks(pieces, kThreads / kWarp), kThreads, 0, handle(stream)>>>(p, plan, pieces);
    }
    check_launch("fake_quantize");
}

}  // namespace

void fake_quantize(const FakeQuantizeParams& p, Stream stream) {
    const Plan plan{p.outer, p.channels, p.inner};
    with_element(p.element, [&](auto element) {
        using T = decltype(element);
        constexpr int kPack = 16 / sizeof(T);
        if (plan.whole(kPack) && aligned(p.x) && aligned(p.out))
            launch<T, kPack>(p, plan, stream);
        else
            launch<T, 1>(p, plan, stream);
    });
}

}  // namespace ribs::cuda
