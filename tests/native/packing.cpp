#include "core/packing.h"

#include <algorithm>
#include <random>

#include "check.h"

namespace {

using namespace ribs;

/// Bit i of a stream in bytes, the first the least significant.
int bit(const std::vector<uint8_t>& bytes, int64_t i) {
    return bytes[static_cast<size_t>(i / 8)] >> (i % 8) & 1;
}

/// The definition: bit b of code k is bit k * bits + b of the stream.
std::vector<uint8_t> pack_by_bits(const std::vector<uint8_t>& codes, int bits) {
    const int64_t total = static_cast<int64_t>(codes.size()) * bits;
    std::vector<uint8_t> packed(static_cast<size_t>((total + 7) / 8));
    for (int64_t i = 0; i < total; ++i) {
        const int value = bit(codes, i / bits * 8 + i % bits);
        packed[static_cast<size_t>(i / 8)] |= static_cast<uint8_t>(value << (i % 8));
    }
    return packed;
}

std::vector<uint8_t> random_codes(int64_t count, int bits, std::mt19937& random) {
    std::vector<uint8_t> codes(static_cast<size_t>(count));
    for (uint8_t& code : codes) code = static_cast<uint8_t>(random() % (1u << bits));
    return codes;
}

TEST(bytes_of_rows) {
    for (int bits = 1; bits <= 8; ++bits)
        for (int64_t n = 0; n < 100; ++n) CHECK_EQ(packed_bytes(n, bits), (n * bits + 7) / 8);
    CHECK_EQ(packed_bytes(int64_t{1} << 60, 8), int64_t{1} << 60);  // n * bits would be too large
}

TEST(words_are_little_endian) {
    const uint8_t bytes[] = {1, 2, 3, 4, 5, 6, 7, 0xf8};
    CHECK_EQ(load_word(bytes, 0), 0u);
    CHECK_EQ(load_word(bytes, 3), 0x030201u);
    CHECK_EQ(load_word(bytes, 8), 0xf807060504030201u);
    uint8_t stored[9] = {};
    store_word(0x1122334455667788u, stored, 3);
    CHECK(stored[0] == 0x88 && stored[1] == 0x77 && stored[2] == 0x66 && stored[3] == 0);
}

TEST(groups_are_packed_as_defined) {
    std::mt19937 random(1);
    for (int bits = 1; bits <= 8; ++bits)
        for (int times = 0; times < 2000; ++times) {
            const std::vector<uint8_t> codes = random_codes(kGroup, bits, random);
            const std::vector<uint8_t> want = pack_by_bits(codes, bits);
            const uint64_t word = load_word(codes.data(), kGroup), stream = pack_group(word, bits);
            CHECK_EQ(stream, load_word(want.data(), bits));
            CHECK_EQ(unpack_group(stream, bits), word);
        }
}

TEST(short_groups_touch_their_bytes_only) {
    constexpr uint8_t kUnset = 0xa5;
    std::mt19937 random(2);
    for (int bits = 1; bits <= 8; ++bits)
        for (int64_t count = 0; count <= kGroup; ++count) {
            const std::vector<uint8_t> codes = random_codes(count, bits, random);
            std::vector<uint8_t> want = pack_by_bits(codes, bits), packed(16, kUnset), back(16, kUnset);
            CHECK_EQ(pack_codes(codes.data(), packed.data(), count, bits), 0u);
            want.resize(16, kUnset);
            CHECK(packed == want);
            CHECK_EQ(unpack_codes(packed.data(), back.data(), count, bits), 0u);
            std::vector<uint8_t> wanted_back = codes;
            wanted_back.resize(16, kUnset);
            CHECK(back == wanted_back);
        }
}

/// One bit at a time: those above a code, and those after the last code, are seen; no others.
TEST(bits_that_do_not_fit_are_seen) {
    for (int bits = 1; bits <= 8; ++bits)
        for (int i = 0; i < 64; ++i) {
            const uint64_t one = uint64_t{1} << i;
            CHECK_EQ(excess_bits(one, bits), i % 8 < bits ? 0u : one);
        }
    for (int bits = 1; bits <= 8; ++bits)
        for (int64_t count = 1; count <= kGroup; ++count) {
            const int64_t used = count * bits, bytes = (used + 7) / 8;
            for (int64_t i = 0; i < bytes * 8; ++i) {
                uint8_t packed[8] = {}, codes[8];
                packed[i / 8] = static_cast<uint8_t>(1 << (i % 8));
                CHECK_EQ(unpack_codes(packed, codes, count, bits) != 0, i >= used);
            }
        }
}

}  // namespace
