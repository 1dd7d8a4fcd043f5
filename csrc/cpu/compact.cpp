#include "cpu/compact.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define RIBS_X86 1
#endif

namespace ribs::cpu {
namespace {

constexpr uint32_t kMagnitude = 0x7fffffffu;

int64_t compact_plain(const uint32_t* x, int64_t n, uint32_t* out) {
    int64_t kept = 0;
    for (int64_t i = 0; i < n; ++i) {
        out[kept] = x[i];
        kept += (x[i] & kMagnitude) != 0;
    }
    return kept;
}

#ifdef RIBS_X86
__attribute__((target("avx512f"))) int64_t compact_avx512(const uint32_t* x, int64_t n, uint32_t* out) {
    const __m512i magnitude = _mm512_set1_epi32(static_cast<int>(kMagnitude));
    int64_t kept = 0, i = 0;
    for (; i + 16 <= n; i += 16) {
        const __m512i values = _mm512_loadu_si512(x + i);
        const __mmask16 mask = _mm512_test_epi32_mask(values, magnitude);
        // Compressing into a register and storing all of it is far faster on some machines than a masked
        // store.
        _mm512_storeu_si512(out + kept, _mm512_maskz_compress_epi32(mask, values));
        kept += __builtin_popcount(mask);
    }
    return kept + compact_plain(x + i, n - i, out + kept);
}

/// For every mask of 8 lanes, the indices of its lanes in order.
struct Permutations {
    alignas(32) uint32_t lanes[256][8];

    Permutations() : lanes{} {
        for (int mask = 0; mask < 256; ++mask)
            for (uint32_t lane = 0, kept = 0; lane < 8; ++lane)
                if (mask >> lane & 1) lanes[mask][kept++] = lane;
    }
};

__attribute__((target("avx2"))) int64_t compact_avx2(const uint32_t* x, int64_t n, uint32_t* out) {
    static const Permutations permutations;
    const __m256i magnitude = _mm256_set1_epi32(static_cast<int>(kMagnitude));
    int64_t kept = 0, i = 0;
    for (; i + 8 <= n; i += 8) {
        const __m256i values = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + i));
        const __m256i zero = _mm256_cmpeq_epi32(_mm256_and_si256(values, magnitude), _mm256_setzero_si256());
        const int mask = ~_mm256_movemask_ps(_mm256_castsi256_ps(zero)) & 255;
        const __m256i order = _mm256_load_si256(reinterpret_cast<const __m256i*>(permutations.lanes[mask]));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + kept),
                            _mm256_permutevar8x32_epi32(values, order));
        kept += __builtin_popcount(static_cast<unsigned>(mask));
    }
    return kept + compact_plain(x + i, n - i, out + kept);
}
#endif

using Compact = int64_t (*)(const uint32_t*, int64_t, uint32_t*);

Compact choose() {
#ifdef RIBS_X86
    if (__builtin_cpu_supports("avx512f")) return compact_avx512;
    if (__builtin_cpu_supports("avx2")) return compact_avx2;
#endif
    return compact_plain;
}

}  // namespace

int64_t compact(const uint32_t* x, int64_t n, uint32_t* out) {
    static const Compact chosen = choose();
    return chosen(x, n, out);
}

}  // namespace ribs::cpu
