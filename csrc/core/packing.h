#pragma once

#include <cstdint>

#include "core/macros.h"

namespace ribs {

// Eight codes of `bits` bits fill `bits` bytes exactly, so a group of eight is packed on its own, inside one
// 64-bit word. Neighbours merge: 8 codes into 4 pairs, 2 quadruples, 1 stream.

constexpr int64_t kGroup = 8;  ///< codes

/// Bytes that `n` codes take.
RIBS_HD int64_t packed_bytes(int64_t n, int bits) {
    return n / kGroup * bits + (n % kGroup * bits + 7) / 8;
}

/// Eight bytes, each below 2^bits, as a stream of 8 * bits bits; the first byte is the least significant.
RIBS_HD uint64_t pack_group(uint64_t codes, int bits) {
    codes = (codes & 0x00ff00ff00ff00ffu) | (codes & 0xff00ff00ff00ff00u) >> (8 - bits);
    codes = (codes & 0x0000ffff0000ffffu) | (codes & 0xffff0000ffff0000u) >> (16 - 2 * bits);
    return (codes & 0x00000000ffffffffu) | (codes & 0xffffffff00000000u) >> (32 - 4 * bits);
}

/// The inverse of pack_group.
RIBS_HD uint64_t unpack_group(uint64_t stream, int bits) {
    const uint64_t quad = (uint64_t{1} << (4 * bits)) - 1;
    stream = (stream & quad) | (stream & ~quad) << (32 - 4 * bits);
    const uint64_t pair = ((uint64_t{1} << (2 * bits)) - 1) * 0x0000000100000001u;
    stream = (stream & pair) | (stream & ~pair) << (16 - 2 * bits);
    const uint64_t one = ((uint64_t{1} << bits) - 1) * 0x0001000100010001u;
    return (stream & one) | (stream & ~one) << (8 - bits);
}

/// The bits of eight codes that do not fit.
RIBS_HD uint64_t excess_bits(uint64_t codes, int bits) {
    return codes & ~(((uint64_t{1} << bits) - 1) * 0x0101010101010101u);
}

/// Up to eight bytes as a word, the first the least significant.
RIBS_HD uint64_t load_word(const uint8_t* from, int64_t count) {
    uint64_t word = 0;
    for (int64_t k = 0; k < count; ++k) word |= static_cast<uint64_t>(from[k]) << (8 * k);
    return word;
}

/// The inverse of load_word.
RIBS_HD void store_word(uint64_t word, uint8_t* to, int64_t count) {
    for (int64_t k = 0; k < count; ++k) to[k] = static_cast<uint8_t>(word >> (8 * k));
}

/// Packs the codes of one group, up to eight, and returns the bits that do not fit.
RIBS_HD uint64_t pack_codes(const uint8_t* codes, uint8_t* packed, int64_t count, int bits) {
    const uint64_t word = load_word(codes, count);
    store_word(pack_group(word, bits), packed, (count * bits + 7) / 8);
    return excess_bits(word, bits);
}

/// Unpacks a group of up to eight codes, and returns the bits after the last one.
RIBS_HD uint64_t unpack_codes(const uint8_t* packed, uint8_t* codes, int64_t count, int bits) {
    const int64_t used = count * bits;
    const uint64_t stream = load_word(packed, (used + 7) / 8);
    store_word(unpack_group(stream, bits), codes, count);
    return used == 64 ? 0 : stream >> used;
}

}  // namespace ribs
