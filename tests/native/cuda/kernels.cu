#include <algorithm>
#include <random>

#include "check.h"
#include "core/packing.h"
#include "fibers.h"
#include "ops.h"

// The kernels of csrc/cuda against the loops of csrc/cpu, in every order of blocks and threads.

namespace {

using emulate::Order;
using namespace ribs;

constexpr int kCpuThreads = 2;

TEST(config_cost_is_that_of_the_cpu) {
    std::mt19937_64 random(9);
    for (const int64_t configs : {0, 1, 255, 256, 1000})
        for (const int64_t layers : {0, 1, 21}) {
            std::vector<int64_t> bits(static_cast<size_t>(configs * layers * 2)),
                macs(static_cast<size_t>(layers)), weights(macs.size());
            for (int64_t& each : bits) each = static_cast<int64_t>(1 + random() % 8);
            for (size_t i = 0; i < macs.size(); ++i) {
                macs[i] = static_cast<int64_t>(random() >> 14);
                weights[i] = static_cast<int64_t>(random() >> 14);
            }
            const size_t count = static_cast<size_t>(configs);
            std::vector<int64_t> want_bops(count), want_bits(count);
            const auto params = [&](std::vector<int64_t>& bops, std::vector<int64_t>& weight_bits) {
                return ConfigCostParams{bits.data(),        macs.data(), weights.data(), bops.data(),
                                        weight_bits.data(), configs,     layers};
            };
            cpu::config_cost(params(want_bops, want_bits), kCpuThreads);
            for (const Order order : emulate::kOrders) {
                emulate::order = order;
                std::vector<int64_t> bops(count, -1), weight_bits(count, -1);
                cuda::config_cost(params(bops, weight_bits), nullptr);
                CHECK(bops == want_bops);
                CHECK(weight_bits == want_bits);
            }
        }
}

struct Packing {
    int64_t rows, n, bytes;
    int bits;
};

/// What an operator on codes wrote, and what it says about its input.
struct Written {
    std::vector<uint8_t> bytes;
    int64_t invalid;
    bool operator==(const Written& other) const { return bytes == other.bytes && invalid == other.invalid; }
};

constexpr int64_t kNone = std::numeric_limits<int64_t>::max();

/// Runs pack_bits or unpack_bits, as `run` calls it. The input begins `offset` bytes after an aligned
/// address.
template <class Params, class Run>
Written written(const Packing& p, const std::vector<uint8_t>& input, int64_t size, int offset,
                const Run& run) {
    std::vector<uint8_t> from(static_cast<size_t>(offset), 0xa5);
    from.insert(from.end(), input.begin(), input.end());
    std::vector<uint8_t> to(static_cast<size_t>(offset + size), 0xa5);
    int64_t invalid = kNone;
    run(Params{from.data() + offset, to.data() + offset, &invalid, p.rows, p.n, p.bytes, p.bits});
    CHECK(std::all_of(to.begin(), to.begin() + offset, [](uint8_t byte) { return byte == 0xa5; }));
    to.erase(to.begin(), to.begin() + offset);
    return {to, invalid};
}

Written packed(const Packing& p, const std::vector<uint8_t>& codes, bool on_cpu, int offset = 0) {
    return written<PackBitsParams>(p, codes, p.rows * p.bytes, offset, [&](const PackBitsParams& params) {
        on_cpu ? cpu::pack_bits(params, kCpuThreads) : cuda::pack_bits(params, nullptr);
    });
}

Written unpacked(const Packing& p, const std::vector<uint8_t>& bytes, bool on_cpu, int offset = 0) {
    return written<UnpackBitsParams>(p, bytes, p.rows * p.n, offset, [&](const UnpackBitsParams& params) {
        on_cpu ? cpu::unpack_bits(params, kCpuThreads) : cuda::unpack_bits(params, nullptr);
    });
}

/// Calls body(case, codes) for every number of bits, awkward lengths of rows, and bytes after the codes.
template <class Body>
void for_each_packing(const Body& body) {
    std::mt19937 random(4);
    for (int bits = 1; bits <= 8; ++bits)
        for (const int64_t rows : {1, 3, 40})
            for (const int64_t n : {1, 7, 8, 9, 63, 64, 65, 2049})
                for (const int64_t padding : {0, 1, 5}) {
                    std::vector<uint8_t> codes(static_cast<size_t>(rows * n));
                    for (uint8_t& code : codes) code = static_cast<uint8_t>(random() % (1u << bits));
                    body(Packing{rows, n, packed_bytes(n, bits) + padding, bits}, codes);
                }
}

TEST(packing_is_that_of_the_cpu) {
    for_each_packing([](const Packing& p, const std::vector<uint8_t>& codes) {
        const Written want = packed(p, codes, true);
        CHECK_EQ(want.invalid, kNone);
        for (const Order order : emulate::kOrders) {
            emulate::order = order;
            CHECK(packed(p, codes, false) == want);
            CHECK((unpacked(p, want.bytes, false) == Written{codes, kNone}));
        }
        CHECK(packed(p, codes, false, 3) == want);
        CHECK((unpacked(p, want.bytes, false, 3) == Written{codes, kNone}));
    });
}

/// Some codes are too large, or there are bits after the last of a row: the index of the first is that of the
/// CPU.
TEST(packing_refuses_what_the_cpu_refuses) {
    std::mt19937 random(5);
    for_each_packing([&](const Packing& p, std::vector<uint8_t> codes) {
        std::vector<uint8_t> bytes = packed(p, codes, true).bytes;
        for (int times = 0; times < 3; ++times) {
            if (p.bits < 8) codes[random() % codes.size()] |= static_cast<uint8_t>(1u << p.bits);
            const int64_t row = static_cast<int64_t>(random() % static_cast<unsigned>(p.rows));
            const int64_t used = p.n * p.bits, unused = p.bytes * 8 - used;
            if (unused > 0) {
                const int64_t bit = used + static_cast<int64_t>(random() % static_cast<unsigned>(unused));
                bytes[static_cast<size_t>(row * p.bytes + bit / 8)] |= static_cast<uint8_t>(1u << (bit % 8));
            }
        }
        const int64_t bad_code = packed(p, codes, true).invalid, bad_row = unpacked(p, bytes, true).invalid;
        CHECK_EQ(bad_code == kNone, p.bits == 8);
        CHECK_EQ(bad_row == kNone, p.bytes * 8 == p.n * p.bits);
        for (const Order order : emulate::kOrders) {
            emulate::order = order;
            CHECK_EQ(packed(p, codes, false).invalid, bad_code);
            CHECK_EQ(unpacked(p, bytes, false).invalid, bad_row);
        }
    });
}

}  // namespace
