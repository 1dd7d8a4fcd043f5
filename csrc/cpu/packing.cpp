#include "core/packing.h"

#include <algorithm>
#include <atomic>
#include <limits>
#include <type_traits>

#include "cpu/parallel.h"
#include "ops.h"

namespace ribs::cpu {
namespace {

constexpr int64_t kTask = 1 << 16;   // codes, whole groups
constexpr int64_t kShare = 1 << 18;  // codes; fewer are not worth a thread

/// The smallest index found by any task.
class First {
  public:
    void note(int64_t index) {
        int64_t seen = index_;
        while (index < seen && !index_.compare_exchange_weak(seen, index)) {
        }
    }
    int64_t index() const { return index_; }

  private:
    std::atomic<int64_t> index_{std::numeric_limits<int64_t>::max()};
};

/// Calls body with the number of bits as a type, so that loops over the bytes of a group unroll.
template <class Body>
void with_bits(int bits, const Body& body) {
    switch (bits) {
        case 1:
            return body(std::integral_constant<int, 1>());
        case 2:
            return body(std::integral_constant<int, 2>());
        case 3:
            return body(std::integral_constant<int, 3>());
        case 4:
            return body(std::integral_constant<int, 4>());
        case 5:
            return body(std::integral_constant<int, 5>());
        case 6:
            return body(std::integral_constant<int, 6>());
        case 7:
            return body(std::integral_constant<int, 7>());
        default:
            return body(std::integral_constant<int, 8>());
    }
}

/// Calls body(row, first code, codes) for every piece of a row, in parallel; a row without codes is a piece.
template <class Params, class Body>
void for_pieces(const Params& p, int threads, const Body& body) {
    const int64_t segments = std::max<int64_t>(1, (p.n + kTask - 1) / kTask), pieces = p.rows * segments;
    const int64_t batch = std::max<int64_t>(1, kTask / std::max<int64_t>(1, p.n));
    parallel_for(
        (pieces + batch - 1) / batch, shared_by(threads, p.rows * p.n, kShare), [&](int, int64_t task) {
            for (int64_t piece = task * batch; piece < std::min((task + 1) * batch, pieces); ++piece) {
                const int64_t start = piece % segments * kTask;
                body(piece / segments, start, std::min(kTask, p.n - start));
            }
        });
}

/// Packs a run of codes and returns the bits that do not fit, of all of them.
template <class Bits>
uint64_t pack_run(const uint8_t* codes, uint8_t* packed, int64_t count, Bits bits) {
    uint64_t excess = 0;
    const int64_t whole = count / kGroup * kGroup;
    for (int64_t i = 0; i < whole; i += kGroup, packed += bits)
        excess |= pack_codes(codes + i, packed, kGroup, bits);
    return excess | pack_codes(codes + whole, packed, count - whole, bits);
}

/// Unpacks a run of codes and returns the bits after its end.
template <class Bits>
uint64_t unpack_run(const uint8_t* packed, uint8_t* codes, int64_t count, Bits bits) {
    const int64_t whole = count / kGroup * kGroup;
    for (int64_t i = 0; i < whole; i += kGroup, packed += bits) unpack_codes(packed, codes + i, kGroup, bits);
    return unpack_codes(packed, codes + whole, count - whole, bits);
}

}  // namespace

void pack_bits(const PackBitsParams& p, int threads) {
    First invalid;
    with_bits(p.bits, [&](auto bits) {
        for_pieces(p, threads, [&](int64_t row, int64_t start, int64_t count) {
            const uint8_t* codes = p.codes + row * p.n + start;
            uint8_t* packed = p.packed + row * p.bytes;
            if (pack_run(codes, packed + start / kGroup * bits, count, bits) != 0) {
                const uint8_t* bad =
                    std::find_if(codes, codes + count, [&](uint8_t code) { return code >> bits; });
                invalid.note(bad - p.codes);
            }
            if (start + count == p.n)
                std::fill(packed + packed_bytes(p.n, bits), packed + p.bytes, uint8_t{0});
        });
    });
    *p.invalid = invalid.index();
}

void unpack_bits(const UnpackBitsParams& p, int threads) {
    First invalid;
    with_bits(p.bits, [&](auto bits) {
        for_pieces(p, threads, [&](int64_t row, int64_t start, int64_t count) {
            const uint8_t* packed = p.packed + row * p.bytes;
            uint64_t rest =
                unpack_run(packed + start / kGroup * bits, p.codes + row * p.n + start, count, bits);
            if (start + count == p.n)
                for (int64_t k = packed_bytes(p.n, bits); k < p.bytes; ++k) rest |= packed[k];
            if (rest != 0) invalid.note(row);
        });
    });
    *p.invalid = invalid.index();
}

}  // namespace ribs::cpu
