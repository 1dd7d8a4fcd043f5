#include "core/quantize.h"

#include <cfloat>
#include <random>

#include "check.h"

namespace {

using namespace ribs;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kDenormal = std::numeric_limits<float>::denorm_min();

/// Floats of every exponent, also NaN and infinities.
float any_float(std::mt19937& random) {
    const uint32_t bits = static_cast<uint32_t>(random());
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

/// A step and an x that is up to 100 steps of it, either sign.
std::pair<float, float> step_and_x(std::mt19937& random) {
    std::uniform_real_distribution<float> exponent(-20.0f, 20.0f), codes(-100.0f, 100.0f);
    const float step = std::exp2(exponent(random));
    return {step, codes(random) * step};
}

TEST(ties_go_to_the_even_code) {
    for (const float step : {1.0f, 0.25f, 1024.0f}) {
        const Quantizer q = make_quantizer(step, 0, -1000, 1000);
        for (int k = -900; k < 900; ++k) {
            const int even = k % 2 == 0 ? k : k + 1;
            CHECK_EQ(fake_quantize((static_cast<float>(k) + 0.5f) * step, q),
                     static_cast<float>(even) * step);
        }
    }
}

/// A double holds enough digits that its quotient, rounded to float, is the float quotient.
TEST(divides_truly) {
    std::mt19937 random(1);
    int reciprocal_differs = 0;
    for (int i = 0; i < 1'000'000; ++i) {
        const auto [step, x] = step_and_x(random);
        const float quotient = static_cast<float>(static_cast<double>(x) / static_cast<double>(step));
        const float code = static_cast<float>(std::nearbyint(static_cast<double>(quotient)));
        CHECK_EQ(fake_quantize(x, make_quantizer(step, 0, -1000, 1000)), code * step);
        reciprocal_differs += std::nearbyint(x * (1.0f / step)) != code;
    }
    CHECK(reciprocal_differs > 0);  // or the data could not tell
}

TEST(clamps_to_the_codes) {
    const Quantizer q = make_quantizer(0.5f, 3, 0, 15);  // -3 .. 12 steps
    for (const float x : {6.0f, 6.1f, 1e30f, FLT_MAX, kInfinity}) CHECK_EQ(fake_quantize(x, q), 6.0f);
    for (const float x : {-1.5f, -1.6f, -1e30f, -FLT_MAX, -kInfinity}) CHECK_EQ(fake_quantize(x, q), -1.5f);
}

TEST(nan_stays_nan) {
    CHECK(std::isnan(fake_quantize(kNan, make_quantizer(1.0f, 0, -8, 7))));
}

TEST(zero_has_no_sign) {
    for (const auto& [low, high] : {std::pair{-8, 7}, {0, 15}, {-1, 0}, {0, 0}}) {
        const Quantizer q = make_quantizer(1.0f, 0, low, high);
        for (const float x : {-0.0f, 0.0f, -0.25f, -0.5f, -1e-40f}) CHECK_BITS(fake_quantize(x, q), 0.0f);
    }
}

TEST(a_bad_step_makes_everything_nan) {
    for (const float step : {0.0f, -0.0f, -1.0f, -kDenormal, kInfinity, -kInfinity, kNan}) {
        const Quantizer q = make_quantizer(step, 0, -8, 7);
        for (const float x : {0.0f, 1.0f, -1e30f, kInfinity}) {
            CHECK(std::isnan(fake_quantize(x, q)));
            CHECK(std::isnan(lsq_gradient(1.0f, x, q).step));
        }
    }
    for (const float step : {kDenormal, FLT_MIN, 1.0f, FLT_MAX}) CHECK_EQ(checked_step(step), step);
}

TEST(what_is_quantized_stays) {
    std::mt19937 random(2);
    for (int i = 0; i < 200'000; ++i) {
        const float step = step_and_x(random).first, x = any_float(random);
        const Quantizer q = make_quantizer(step, 5, -100, 155);
        const float once = fake_quantize(x, q);
        CHECK_BITS(fake_quantize(once, q), once);
    }
}

TEST(codes_are_those_of_the_values) {
    std::mt19937 random(4);
    for (int i = 0; i < 500'000; ++i) {
        const float step = step_and_x(random).first;
        const float x = i % 2 == 0 ? any_float(random) : step * static_cast<float>(i % 600 - 300) / 2.0f;
        const int bits = 1 + i % 8, zero = static_cast<int>(random() % 600) - 200;
        const int qmin = i % 3 == 0 ? 0 : -(1 << (bits - 1)), qmax = qmin + (1 << bits) - 1;
        const Quantizer q = make_quantizer(step, zero, qmin, qmax);
        const uint8_t byte = code_byte(x, q, qmin, qmax - qmin);
        const int code = qmin < 0 ? static_cast<int8_t>(byte) : byte;
        CHECK(code >= qmin && code <= qmax);
        if (std::isnan(x))
            CHECK_EQ(code, qmin);
        else
            CHECK_EQ(static_cast<float>(code - zero) * step, fake_quantize(x, q));
    }
}

TEST(codes_stay_in_their_range_whatever_the_quantizer) {
    for (const float step : {0.0f, kNan, kDenormal, 1e-3f, FLT_MAX, kInfinity})
        for (const int32_t zero : {std::numeric_limits<int32_t>::min(), -(1 << 25) - 1, 1 << 24, 1 << 30,
                                   std::numeric_limits<int32_t>::max()})
            for (const float x : {-kInfinity, -FLT_MAX, -1.0f, 0.0f, 1.0f, FLT_MAX, kInfinity, kNan}) {
                const uint8_t code = code_byte(x, make_quantizer(step, zero, 3, 12), 3, 9);
                CHECK(code >= 3 && code <= 12);
            }
}

/// LSQ in double: u inside the bounds gives rint(u) - u, outside the bound.
TEST(step_gradient_is_that_of_lsq) {
    std::mt19937 random(3);
    for (int i = 0; i < 200'000; ++i) {
        const auto [step, x] = step_and_x(random);
        const Quantizer q = make_quantizer(step, 10, -20, 40);  // -30 .. 30
        const double u = static_cast<double>(x) / static_cast<double>(step);
        if (std::abs(std::abs(u) - 30.0) < 1e-4) continue;  // double and float may disagree on the side
        if (std::abs(std::abs(u - std::floor(u)) - 0.5) < 1e-4) continue;
        const double want = u < -30.0 ? -30.0 : u > 30.0 ? 30.0 : std::nearbyint(u) - u;
        CHECK_NEAR(static_cast<double>(lsq_gradient(1.0f, x, q).step), want, 1e-5);
    }
}

/// Outside the codes the output is bound * step, so its slope in the step is the bound.
TEST(step_gradient_outside_is_a_finite_difference) {
    for (const float x : {100.0f, -100.0f}) {
        const auto at = [&](float step) { return fake_quantize(x, make_quantizer(step, 0, -8, 7)); };
        CHECK_EQ(lsq_gradient(1.0f, x, make_quantizer(1.0f, 0, -8, 7)).step, (at(1.25f) - at(0.75f)) / 0.5f);
    }
}

/// Seen over whole steps a quantizer has the slope 1 inside its codes and 0 outside.
TEST(input_gradient_is_a_finite_difference_over_steps) {
    const Quantizer q = make_quantizer(0.5f, 0, -8, 7);
    for (float x = -9.0f; x < 9.0f; x += 0.1875f) {
        if (std::abs(x + 4.0f) < 0.75f || std::abs(x - 3.5f) < 0.75f)
            continue;  // a difference across a bound
        const float slope = (fake_quantize(x + 0.5f, q) - fake_quantize(x - 0.5f, q)) / 1.0f;
        CHECK_EQ(lsq_gradient(3.0f, x, q).x, 3.0f * slope);
    }
}

TEST(gradients_at_the_bounds_and_of_hostile_values) {
    const Quantizer q = make_quantizer(1.0f, 0, -8, 7);
    for (const float x : {-8.0f, 7.0f}) {  // the bounds are inside
        CHECK_EQ(lsq_gradient(2.0f, x, q).x, 2.0f);
        CHECK_EQ(lsq_gradient(2.0f, x, q).step, 0.0f);
    }
    CHECK_EQ(lsq_gradient(2.0f, std::nextafter(7.0f, 8.0f), q).x, 0.0f);
    CHECK_EQ(lsq_gradient(2.0f, std::nextafter(-8.0f, -9.0f), q).step, -8.0f);
    CHECK_EQ(lsq_gradient(2.0f, kInfinity, q).step, 7.0f);
    CHECK_EQ(lsq_gradient(2.0f, -kInfinity, q).step, -8.0f);
    CHECK_EQ(lsq_gradient(2.0f, kNan, q).x, 0.0f);
    CHECK(std::isnan(lsq_gradient(2.0f, kNan, q).step));
}

}  // namespace
