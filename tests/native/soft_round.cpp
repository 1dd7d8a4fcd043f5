#include "core/soft_round.h"

#include <random>

#include "check.h"
#include "core/drop.h"

// The arithmetic of reconstruction against the C library in double precision.

namespace {

using namespace ribs;

TEST(powers_of_two_are_those_of_the_library) {
    std::mt19937 random(1);
    std::uniform_real_distribution<float> anywhere(-126.0f, 127.0f);
    for (int i = 0; i < 1'000'000; ++i) {
        const float x = anywhere(random);
        const double want = std::exp2(static_cast<double>(x));
        CHECK_NEAR(exp2_of(x), want, 3e-7 * want);
    }
    for (int n = -126; n < 128; ++n) CHECK_EQ(exp2_of(static_cast<float>(n)), std::ldexp(1.0f, n));
    CHECK(exp2_of(-1e30f) < 2e-38f && exp2_of(1e30f) > 1e38f && std::isnan(exp2_of(NAN)));
}

TEST(logarithms_are_those_of_the_library) {
    std::mt19937 random(2);
    std::uniform_real_distribution<float> exponent(-125.0f, 125.0f), near(0.5f, 2.0f);
    for (int i = 0; i < 1'000'000; ++i)
        for (const float x : {std::exp2(exponent(random)), near(random)}) {
            const double want = std::log2(static_cast<double>(x));
            CHECK_NEAR(log2_of(x), want, 3e-7 * std::abs(want) + 1e-10);
        }
    CHECK_EQ(log2_of(1.0f), 0.0f);
    CHECK(log2_of(0.0f) < -126.0f);
}

TEST(powers_end_where_they_should) {
    for (const float exponent : {1.0f, 2.0f, 7.3f, 20.0f}) {
        CHECK_EQ(power_of(1.0f, exponent), 1.0f);
        CHECK(power_of(0.0f, exponent) < 2e-38f);
        CHECK(std::isnan(power_of(NAN, exponent)));
        for (int i = 1; i < 1000; ++i) {
            const float x = static_cast<float>(i) / 1000.0f;
            const double want = std::pow(static_cast<double>(x), static_cast<double>(exponent));
            CHECK_NEAR(power_of(x, exponent), want, 1e-5 * want + 1e-30);
        }
    }
}

TEST(rounding_variables_are_those_of_the_formula) {
    for (int i = -20'000; i <= 20'000; ++i) {
        const float alpha = static_cast<float>(i) / 1000.0f;
        const double sigmoid = 1.0 / (1.0 + std::exp(-static_cast<double>(alpha)));
        const double stretched = 1.2 * sigmoid - 0.1;
        const Upward up = upward(alpha);
        CHECK_NEAR(up.h, std::fmin(1.0, std::fmax(0.0, stretched)), 3e-7);
        if (std::abs(stretched) > 1e-6 && std::abs(stretched - 1.0) > 1e-6)
            CHECK_NEAR(up.slope, stretched < 0.0 || stretched > 1.0 ? 0.0 : 1.2 * sigmoid * (1.0 - sigmoid),
                       3e-7);
    }
}

TEST(places_past_the_first_word_are_drawn_anew) {
    const Chance chance{123u, 456u, 1 << 23};
    int same = 0;
    for (uint32_t low = 0; low < 100'000u; ++low) same += is_kept(low, 0, chance) == is_kept(low, 1, chance);
    CHECK_NEAR(same, 50'000, 1000);
}

}  // namespace
