#include <algorithm>
#include <random>

#include "check.h"
#include "core/packing.h"
#include "ops.h"

// The CPU operators on several threads: the same bits as on one, and no race for ThreadSanitizer to find.

namespace {

using namespace ribs;

constexpr int kThreads[] = {2, 3, 8};

struct Shape {
    int64_t outer, channels, inner;
};

const Shape kShapes[] = {{1, 1, 1},   {1, 1, 300'000}, {4, 3, 50'000},  // wide
                         {70, 2, 40}, {5000, 40, 1},   {3000, 5, 9}};   // narrow from the second on

std::vector<float> normal(int64_t count, unsigned seed) {
    std::mt19937 random(seed);
    std::normal_distribution<float> distribution(0.0f, 2.0f);
    std::vector<float> result(static_cast<size_t>(count));
    for (float& value : result) value = distribution(random);
    return result;
}

void check_same(const std::vector<float>& got, const std::vector<float>& want) {
    CHECK_EQ(got.size(), want.size());
    for (size_t i = 0; i < want.size(); ++i) CHECK_BITS(got[i], want[i]);
}

struct Outputs {
    std::vector<float> out, grad_x, grad_step;
};

Outputs quantize(const Shape& s, int threads) {
    const int64_t count = s.outer * s.channels * s.inner;
    const std::vector<float> x = normal(count, 1), grad = normal(count, 2);
    const std::vector<float> step(static_cast<size_t>(s.channels), 0.25f);
    const std::vector<int32_t> zero_point(step.size(), 7);
    Outputs o{std::vector<float>(x.size()), std::vector<float>(x.size()), std::vector<float>(step.size())};
    cpu::fake_quantize({x.data(), step.data(), zero_point.data(), o.out.data(), Element::kFloat32, s.outer,
                        s.channels, s.inner, 0, 15},
                       threads);
    cpu::fake_quantize_backward(
        {grad.data(), x.data(), step.data(), zero_point.data(), o.grad_x.data(), o.grad_step.data(), nullptr,
         Element::kFloat32, s.outer, s.channels, s.inner, 0, 15},
        threads);
    return o;
}

struct Codes {
    std::vector<uint8_t> codes;
    bool nan;
};

/// With NaN at the end where `nan`.
Codes codes_of(const Shape& s, bool nan, int threads) {
    std::vector<float> x = normal(s.outer * s.channels * s.inner, 1);
    if (nan) x.back() = std::numeric_limits<float>::quiet_NaN();
    const std::vector<float> step(static_cast<size_t>(s.channels), 0.25f);
    const std::vector<int32_t> zero_point(step.size(), 7);
    std::vector<uint8_t> codes(x.size());
    const bool found = cpu::quantize({x.data(), step.data(), zero_point.data(), codes.data(),
                                      Element::kFloat32, s.outer, s.channels, s.inner, 0, 15},
                                     threads);
    return {codes, found};
}

TEST(quantize_does_not_depend_on_threads) {
    for (const Shape& shape : kShapes)
        for (const bool nan : {false, true}) {
            const Codes want = codes_of(shape, nan, 1);
            CHECK_EQ(want.nan, nan);
            for (const int threads : kThreads) {
                const Codes got = codes_of(shape, nan, threads);
                CHECK(got.codes == want.codes);
                CHECK_EQ(got.nan, nan);
            }
        }
}

TEST(fake_quantize_does_not_depend_on_threads) {
    for (const Shape& shape : kShapes) {
        const Outputs want = quantize(shape, 1);
        for (const int threads : kThreads) {
            const Outputs got = quantize(shape, threads);
            check_same(got.out, want.out);
            check_same(got.grad_x, want.grad_x);
            check_same(got.grad_step, want.grad_step);
        }
    }
}

TEST(config_cost_does_not_depend_on_threads) {
    constexpr int64_t kConfigs = 5000, kLayers = 3;
    const std::vector<int64_t> macs = {5, 7, 11}, weights = {2, 3, 4};
    std::vector<int64_t> bits;
    for (int64_t i = 0; i < kConfigs * kLayers * 2; ++i) bits.push_back(1 + i % 8);
    const auto bops_on = [&](int threads) {
        std::vector<int64_t> bops(kConfigs), weight_bits(kConfigs);
        cpu::config_cost(
            {bits.data(), macs.data(), weights.data(), bops.data(), weight_bits.data(), kConfigs, kLayers},
            threads);
        bops.insert(bops.end(), weight_bits.begin(), weight_bits.end());
        return bops;
    };
    for (const int threads : kThreads) CHECK(bops_on(threads) == bops_on(1));
}

/// Packs rows of codes and unpacks them again: everything that came out.
std::vector<uint8_t> pack_and_unpack(const std::vector<uint8_t>& codes, int64_t rows, int bits, int threads) {
    const int64_t n = static_cast<int64_t>(codes.size()) / rows, bytes = packed_bytes(n, bits) + 3;
    std::vector<uint8_t> packed(static_cast<size_t>(rows * bytes), 0xa5);
    int64_t invalid = 0;
    cpu::pack_bits({codes.data(), packed.data(), &invalid, rows, n, bytes, bits}, threads);
    CHECK_EQ(invalid, std::numeric_limits<int64_t>::max());
    std::vector<uint8_t> back(codes.size(), 0xa5);
    cpu::unpack_bits({packed.data(), back.data(), &invalid, rows, n, bytes, bits}, threads);
    CHECK_EQ(invalid, std::numeric_limits<int64_t>::max());
    CHECK(back == codes);
    return packed;
}

TEST(packing_does_not_depend_on_threads) {
    std::mt19937 random(3);
    for (const int bits : {1, 3, 8})
        for (const int64_t rows : {1, 7, 40'000}) {
            std::vector<uint8_t> codes(static_cast<size_t>(1'000'003 / rows * rows));
            for (uint8_t& code : codes) code = static_cast<uint8_t>(random() % (1u << bits));
            const std::vector<uint8_t> want = pack_and_unpack(codes, rows, bits, 1);
            for (const int threads : kThreads) CHECK(pack_and_unpack(codes, rows, bits, threads) == want);
        }
}

/// The first of several, whichever thread comes upon it.
TEST(packing_finds_the_first_that_does_not_fit) {
    constexpr int64_t kRows = 3, kCodes = 500'001, kBytes = (kCodes * 3 + 7) / 8;
    std::vector<uint8_t> codes(kRows * kCodes), packed(kRows * kBytes);
    int64_t invalid = 0;
    for (const int64_t bad : {kRows * kCodes - 1, int64_t{700'000}, int64_t{8}, int64_t{0}}) {
        codes[static_cast<size_t>(bad)] = 8;
        for (const int threads : kThreads) {
            cpu::pack_bits({codes.data(), packed.data(), &invalid, kRows, kCodes, kBytes, 3}, threads);
            CHECK_EQ(invalid, bad);
        }
    }
    std::fill(packed.begin(), packed.end(), uint8_t{0});
    for (const int64_t row : {2, 1, 0}) {
        packed[static_cast<size_t>((row + 1) * kBytes - 1)] = 0x80;
        for (const int threads : kThreads) {
            cpu::unpack_bits({packed.data(), codes.data(), &invalid, kRows, kCodes, kBytes, 3}, threads);
            CHECK_EQ(invalid, row);
        }
    }
}

}  // namespace
