#pragma once

// Stands in for the header of the toolkit when a kernel is compiled for the CPU; see fibers.h for what that
// proves. rewrite.py has already replaced __shared__ and <<< >>>.

#include <math.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <type_traits>

#include "fibers.h"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))

// The host's side.

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorInvalidConfiguration = 9 };
enum cudaMemcpyKind {
    cudaMemcpyHostToHost,
    cudaMemcpyHostToDevice,
    cudaMemcpyDeviceToHost,
    cudaMemcpyDeviceToDevice,
    cudaMemcpyDefault
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };

inline cudaError_t cudaGetLastError() {
    return emulate::take_refusal() ? cudaErrorInvalidConfiguration : cudaSuccess;
}
inline const char* cudaGetErrorString(cudaError_t error) {
    return error == cudaSuccess             ? "no error"
           : error == cudaErrorInvalidValue ? "invalid argument"
                                            : "invalid configuration argument";
}
inline cudaError_t cudaMemsetAsync(void* at, int value, size_t bytes, cudaStream_t = nullptr) {
    std::memset(at, value, bytes);
    return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind,
                                   cudaStream_t = nullptr) {
    std::memcpy(to, from, bytes);
    return cudaSuccess;
}
inline cudaError_t cudaMalloc(void** at, size_t bytes) {
    *at = std::malloc(bytes);
    return cudaSuccess;
}
inline cudaError_t cudaFree(void* at) {
    std::free(at);
    return cudaSuccess;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t) {
    return cudaSuccess;
}
inline cudaError_t cudaDeviceSynchronize() {
    return cudaSuccess;
}
template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel, cudaFuncAttribute, int) {
    return cudaSuccess;
}

enum cudaDeviceAttr { cudaDevAttrMaxSharedMemoryPerBlockOptin, cudaDevAttrMultiProcessorCount };

inline cudaError_t cudaGetDevice(int* device) {
    *device = 0;
    return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
    // Memory as of the smallest device: two octaves of a sketch.
    *value = attribute == cudaDevAttrMultiProcessorCount ? 3 : 65536;
    return cudaSuccess;
}

// Vectors.

template <class T>
struct alignas(2 * sizeof(T)) EmulatedVector2 {
    T x, y;
};
template <class T>
struct alignas(4 * sizeof(T) < 16 ? 4 * sizeof(T) : 16) EmulatedVector4 {
    T x, y, z, w;
};
using float2 = EmulatedVector2<float>;
using float4 = EmulatedVector4<float>;
using double2 = EmulatedVector2<double>;
using int2 = EmulatedVector2<int>;
using int4 = EmulatedVector4<int>;
using uint2 = EmulatedVector2<unsigned>;
using uint4 = EmulatedVector4<unsigned>;
using longlong2 = EmulatedVector2<long long>;
using ulonglong2 = EmulatedVector2<unsigned long long>;
using uchar4 = EmulatedVector4<unsigned char>;
inline float2 make_float2(float x, float y) {
    return {x, y};
}
inline float4 make_float4(float x, float y, float z, float w) {
    return {x, y, z, w};
}
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) {
    return {x, y, z, w};
}

// Barriers, shuffles and votes.

#define EMULATE_TEXT(x) #x
#define EMULATE_LINE(x) EMULATE_TEXT(x)
#define __syncthreads() emulate::sync_threads(__FILE__ ":" EMULATE_LINE(__LINE__))

inline void __syncwarp(unsigned mask = 0xffffffffu) {
    emulate::meet(mask, "__syncwarp", nullptr, 0);
}
inline void __threadfence() {}
inline void __threadfence_block() {}

template <class T>
T __shfl_sync(unsigned mask, T value, int from, int width = warpSize) {
    return emulate::exchange(mask, "__shfl_sync", value,
                             emulate::lane() / width * width + (from & (width - 1)));
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = warpSize) {
    const int own = emulate::lane(), from = own + static_cast<int>(by);
    return emulate::exchange(mask, "__shfl_down_sync", value, own / width == from / width ? from : own);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = warpSize) {
    const int own = emulate::lane(), from = own - static_cast<int>(by);
    return emulate::exchange(mask, "__shfl_up_sync", value, from >= own / width * width ? from : own);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int with, int width = warpSize) {
    const int own = emulate::lane(), from = own ^ with;
    return emulate::exchange(mask, "__shfl_xor_sync", value, from / width <= own / width ? from : own);
}

inline unsigned __ballot_sync(unsigned mask, int vote) {
    const emulate::Lanes& lanes = emulate::meet(mask, "__ballot_sync", &vote, sizeof vote);
    unsigned result = 0;
    for (unsigned lane = 0; lane < 32; ++lane) {
        int other;
        std::memcpy(&other, lanes.values[lane], sizeof other);
        if ((lanes.present >> lane & 1) != 0 && other != 0) result |= 1u << lane;
    }
    return result;
}
inline int __any_sync(unsigned mask, int vote) {
    return __ballot_sync(mask, vote) != 0;
}
inline int __all_sync(unsigned mask, int vote) {
    return __ballot_sync(mask, !vote) == 0;
}

// Atomics: fibers change places only at barriers, so a plain read and write is atomic. For the types that
// CUDA has them for; the second parameter is not deduced, as if they were overloads.

template <class T>
struct EmulatedSame {
    using type = T;
};
template <class T, class... Allowed>
constexpr bool kEmulatedOneOf = (std::is_same_v<T, Allowed> || ...);

template <class T>
T atomicAdd(T* at, typename EmulatedSame<T>::type value) {
    static_assert(kEmulatedOneOf<T, int, unsigned, unsigned long long, float, double>, "not in CUDA");
    const T old = *at;
    *at = old + value;
    return old;
}

#define EMULATE_ATOMIC(name, result)                                                                   \
    template <class T>                                                                                 \
    T name(T* at, typename EmulatedSame<T>::type value) {                                              \
        static_assert(kEmulatedOneOf<T, int, unsigned, long long, unsigned long long>, "not in CUDA"); \
        const T old = *at;                                                                             \
        *at = result;                                                                                  \
        return old;                                                                                    \
    }
EMULATE_ATOMIC(atomicMin, old < value ? old : value)
EMULATE_ATOMIC(atomicMax, old > value ? old : value)
EMULATE_ATOMIC(atomicAnd, old& value)
EMULATE_ATOMIC(atomicOr, old | value)
EMULATE_ATOMIC(atomicXor, old ^ value)
EMULATE_ATOMIC(atomicExch, value)
#undef EMULATE_ATOMIC

template <class T>
T atomicCAS(T* at, typename EmulatedSame<T>::type expected, typename EmulatedSame<T>::type value) {
    static_assert(kEmulatedOneOf<T, int, unsigned, unsigned long long>, "not in CUDA");
    const T old = *at;
    if (old == expected) *at = value;
    return old;
}

// Arithmetic.

template <class A, class B>
constexpr std::common_type_t<A, B> min(A a, B b) {
    return b < a ? b : a;
}
template <class A, class B>
constexpr std::common_type_t<A, B> max(A a, B b) {
    return a < b ? b : a;
}
template <class T>
T __ldg(const T* at) {
    return *at;
}
inline int __popc(unsigned value) {
    return __builtin_popcount(value);
}
inline int __popcll(unsigned long long value) {
    return __builtin_popcountll(value);
}
inline int __ffs(int value) {
    return __builtin_ffs(value);
}
inline int __clz(int value) {
    return value == 0 ? 32 : __builtin_clz(static_cast<unsigned>(value));
}
inline int __clzll(long long value) {
    return value == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(value));
}

template <class To, class From>
To emulated_bits(From value) {
    static_assert(sizeof(To) == sizeof(From));
    To result;
    std::memcpy(&result, &value, sizeof result);
    return result;
}
inline int __float_as_int(float value) {
    return emulated_bits<int>(value);
}
inline unsigned __float_as_uint(float value) {
    return emulated_bits<unsigned>(value);
}
inline float __int_as_float(int value) {
    return emulated_bits<float>(value);
}
inline float __uint_as_float(unsigned value) {
    return emulated_bits<float>(value);
}
inline long long __double_as_longlong(double value) {
    return emulated_bits<long long>(value);
}
inline double __longlong_as_double(long long value) {
    return emulated_bits<double>(value);
}
inline float __fdiv_rn(float a, float b) {
    return a / b;
}
inline float __fmul_rn(float a, float b) {
    return a * b;
}
inline float __fadd_rn(float a, float b) {
    return a + b;
}
inline double __dmul_rn(double a, double b) {
    return a * b;
}
inline double __dadd_rn(double a, double b) {
    return a + b;
}
