#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "core/quantize.h"
#include "cuda/launch.cuh"

namespace ribs::cuda {

constexpr int kWarp = 32;

// Elements are float, half or bfloat16; the arithmetic between loading and storing them is that of float.

__device__ inline float to_float(float x) {
    return x;
}
__device__ inline float to_float(__half x) {
    return __half2float(x);
}
__device__ inline float to_float(__nv_bfloat16 x) {
    return __bfloat162float(x);
}

template <class T>
__device__ T from_float(float x);
template <>
__device__ inline float from_float<float>(float x) {
    return x;
}
template <>
__device__ inline __half from_float<__half>(float x) {
    return __float2half_rn(x);
}
template <>
__device__ inline __nv_bfloat16 from_float<__nv_bfloat16>(float x) {
    return __float2bfloat16_rn(x);
}

/// Neighbouring elements that one instruction moves: 16 bytes of them, or a single one.
template <class T, int kCount>
struct alignas(kCount * sizeof(T)) Pack {
    T values[kCount];

    __device__ static Pack load(const T* from) { return *reinterpret_cast<const Pack*>(from); }
    __device__ void store(T* to) const { *reinterpret_cast<Pack*>(to) = *this; }
};

/// How the memory [outer, channels, inner] is cut. Rows: a warp takes a segment of a row, which has one
/// quantizer. Columns, where rows are short as in channels-last memory: [outer, channels * inner], and a
/// thread takes a pack of columns of a group of lines. The pieces are fixed, so that launches do not change
/// the sum of the step gradient, whose partial sums are [groups, channels, parts].
struct Plan {
    static constexpr int64_t kSegment = 1024;
    static constexpr int64_t kLines = 64;

    int64_t outer, channels, inner;

    /// Many lines of rows that a warp would not keep busy.
    __host__ __device__ bool columns() const {
        return channels > 1 && (inner < kWarp || (inner < kSegment && outer >= kLines));
    }
    __host__ __device__ int64_t width() const { return channels * inner; }
    __host__ __device__ int64_t segments() const { return (inner + kSegment - 1) / kSegment; }
    __host__ __device__ int64_t groups() const { return columns() ? (outer + kLines - 1) / kLines : outer; }
    __host__ __device__ int64_t parts() const { return columns() ? inner : segments(); }
    __host__ __device__ int64_t partials() const { return groups() * channels * parts(); }

    /// Whether packs of `count` elements never cross the end of a row or line.
    bool whole(int64_t count) const {
        return columns() ? width() % count == 0 : inner % count == 0 || outer * channels == 1;
    }
};

/// A segment of a row.
struct Segment {
    __device__ Segment(const Plan& plan, int64_t piece) {
        const int64_t segments = plan.segments(), row = piece / segments;
        const int64_t offset = piece % segments * Plan::kSegment, rest = plan.inner - offset;
        channel = row % plan.channels;
        start = row * plan.inner + offset;
        count = static_cast<int>(rest < Plan::kSegment ? rest : Plan::kSegment);
    }

    int64_t channel, start;
    int count;
};

/// A pack of columns of a group of lines.
struct Strip {
    __device__ Strip(const Plan& plan, int64_t piece, int64_t packs, int pack) {
        group = piece / packs;
        column = piece % packs * pack;
        first = group * Plan::kLines;
        last = first + Plan::kLines < plan.outer ? first + Plan::kLines : plan.outer;
    }

    int64_t group, column, first, last;
};

template <class Params>
__device__ Quantizer quantizer(const Params& p, int64_t c) {
    return make_quantizer(p.step[c], p.zero_point[c], p.qmin, p.qmax);
}
__device__ inline Quantizer quantizer(const FakeQuantizeParams& p, int64_t c) {
    return learned_quantizer(p, c);
}
__device__ inline Quantizer quantizer(const FakeQuantizeBackwardParams& p, int64_t c) {
    return learned_quantizer(p, c);
}

/// Calls body with a value of the element type.
template <class Body>
void with_element(Element element, const Body& body) {
    switch (element) {
        case Element::kFloat32:
            return body(float());
        case Element::kFloat16:
            return body(__half());
        case Element::kBfloat16:
            return body(__nv_bfloat16());
    }
}

/// Whether an address allows packs of 16 bytes.
inline bool aligned(const void* address) {
    return reinterpret_cast<uintptr_t>(address) % 16 == 0;
}

}  // namespace ribs::cuda
