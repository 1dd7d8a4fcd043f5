#pragma once

#include "cuda_runtime.h"

// Half precision in software, as far as kernels load and store it: rounded half to even, with denormals.

struct __half {
    uint16_t bits;
};

inline float __half2float(__half half) {
    const uint32_t sign = static_cast<uint32_t>(half.bits & 0x8000u) << 16;
    const uint32_t exponent = half.bits >> 10 & 0x1fu, mantissa = half.bits & 0x3ffu;
    if (exponent == 0) {  // a denormal is mantissa * 2^-24, which float holds exactly
        const float value = static_cast<float>(mantissa) * 0x1p-24f;
        return __uint_as_float(__float_as_uint(value) | sign);
    }
    if (exponent == 0x1fu) return __uint_as_float(sign | 0x7f800000u | mantissa << 13);
    return __uint_as_float(sign | (exponent + 112) << 23 | mantissa << 13);
}

inline __half __float2half_rn(float value) {
    const uint32_t sign = __float_as_uint(value) >> 16 & 0x8000u;
    const float size = fabsf(value);
    uint32_t bits;
    if (size != size) {
        bits = 0x7fffu;
    } else if (size < 0x1p-14f) {
        bits = static_cast<uint32_t>(rintf(size * 0x1p24f));
    } else if (size >= 65520.0f) {  // half way from the largest half to the next
        bits = 0x7c00u;
    } else {
        const uint32_t wide = __float_as_uint(size);
        bits = (wide + 0xfffu + (wide >> 13 & 1u) - (112u << 23)) >> 13;
    }
    return {static_cast<uint16_t>(sign | bits)};
}
inline __half __float2half(float value) {
    return __float2half_rn(value);
}
