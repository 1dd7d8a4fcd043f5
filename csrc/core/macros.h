#pragma once

/// RIBS_HD marks a function that host and device compile alike; it is always inlined so that each clone of
/// a multi-versioned CPU loop gets its own vector code.
#if defined(__CUDACC__)
#define RIBS_HD __host__ __device__ __forceinline__
#elif defined(__GNUC__)
#define RIBS_HD inline __attribute__((always_inline))
#else
#define RIBS_HD inline
#endif

namespace ribs {

/// fmax and fmin without their rules for NaN, which make a function call of them.
RIBS_HD double larger(double a, double b) {
    return a > b ? a : b;
}

RIBS_HD double smaller(double a, double b) {
    return a < b ? a : b;
}

}  // namespace ribs
