#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__) || defined(_M_X64)
#define RIBS_STREAMS 1
#include <emmintrin.h>
#endif
#if defined(__linux__)
#include <unistd.h>
#endif

namespace ribs::cpu {

constexpr int64_t kBlock = 1024;  ///< elements computed at a time: inputs, output and a buffer fit into L1

/// Bytes of the last-level cache, or a usual size where the system does not tell.
inline int64_t cache_bytes() {
#if defined(__linux__) && defined(_SC_LEVEL3_CACHE_SIZE)
    static const int64_t bytes = sysconf(_SC_LEVEL3_CACHE_SIZE);
    if (bytes > 0) return bytes;
#endif
    return int64_t{32} << 20;
}

/// Takes the blocks of an output. A large one goes past the cache: an ordinary store would first read the
/// line it overwrites, and would evict what others still need. One that overwrites its own input goes
/// through the buffer as well, so that the loops may assume that their arrays are apart.
template <class T>
class BlockWriter {
  public:
    /// `total` is the number of elements of the whole output.
    BlockWriter(int64_t total, bool in_place)
        : streams_(!in_place && total * kSize > cache_bytes() / 2), buffers_(streams_ || in_place) {}
    BlockWriter(const BlockWriter&) = delete;
    BlockWriter& operator=(const BlockWriter&) = delete;

    /// Where to compute the block that belongs at `out`; at most kBlock elements.
    T* place(T* out) { return buffers_ ? buffer_ : out; }

    /// Moves the computed block to `out`.
    void write(T* out, int64_t count) {
        if (streams_)
            stream(out, count);
        else if (buffers_)
            std::memcpy(out, buffer_, static_cast<size_t>(count) * sizeof(T));
    }

    /// Streamed stores are not ordered by the locks and atomics that hand results to another thread.
    ~BlockWriter() {
#ifdef RIBS_STREAMS
        if (streams_) _mm_sfence();
#endif
    }

  private:
    static constexpr int64_t kSize = sizeof(T), kPack = 16 / kSize;

    void stream(T* out, int64_t count) {
        int64_t i = 0;
#ifdef RIBS_STREAMS
        const auto misaligned = static_cast<int64_t>(reinterpret_cast<uintptr_t>(out) / sizeof(T) % kPack);
        for (const int64_t head = std::min(count, (kPack - misaligned) % kPack); i < head; ++i)
            out[i] = buffer_[i];
        for (; i + kPack <= count; i += kPack)
            _mm_stream_si128(reinterpret_cast<__m128i*>(out + i),
                             _mm_loadu_si128(reinterpret_cast<const __m128i*>(buffer_ + i)));
#endif
        for (; i < count; ++i) out[i] = buffer_[i];
    }

    bool streams_;
    bool buffers_;
    alignas(64) T buffer_[kBlock];
};

}  // namespace ribs::cpu
