#pragma once

#include <cstdint>

#include "core/macros.h"
#include "core/quantize.h"
#include "core/sketch.h"

// AdaRound (Nagel et al., Up or Down?, 2020): weights are rounded down, plus h in [0, 1], which is learned.
// exp and log are written out, since those of the C library neither vectorise nor agree between devices; the
// polynomials are those of Moshier's Cephes library for single precision.

namespace ribs {

constexpr float kStretch = 1.2f;  ///< h leaves [0, 1] by a tenth on each side before it is clipped
constexpr float kMargin = 0.1f;

/// 2^x for -126 <= x <= 127, and beyond what it is there; NaN stays.
RIBS_HD float exp2_of(float x) {
    const float kept = clamp_code(x, -126.0f, 127.0f);
    // 1.5 * 2^23 leaves no room for a fraction, and the whole number in the lowest bits.
    const float shifted = kept + 12582912.0f;
    const float rest = kept - (shifted - 12582912.0f);
    float p = 1.535336188319500e-4f;
    p = p * rest + 1.339887440266574e-3f;
    p = p * rest + 9.618437357674640e-3f;
    p = p * rest + 5.550332471162809e-2f;
    p = p * rest + 2.402264791363012e-1f;
    p = p * rest + 6.931472028550421e-1f;
    return (p * rest + 1.0f) * float_of((float_bits(shifted) + 127u) << kMantissaBits);
}

/// log2(x) for x > 0, and a number below -126 for 0.
RIBS_HD float log2_of(float x) {
    constexpr uint32_t kLowest = 0x3f3504f3u;  // of 1/sqrt(2): what is near 1 keeps its digits
    const uint32_t above = float_bits(x) - kLowest;
    const float exponent = static_cast<float>(static_cast<int32_t>(above) >> kMantissaBits);
    const float m = float_of((above & 0x7fffffu) + kLowest) - 1.0f;
    float p = 7.0376836292e-2f;
    p = p * m - 1.1514610310e-1f;
    p = p * m + 1.1676998740e-1f;
    p = p * m - 1.2420140846e-1f;
    p = p * m + 1.4249322787e-1f;
    p = p * m - 1.6668057665e-1f;
    p = p * m + 2.0000714765e-1f;
    p = p * m - 2.4999993993e-1f;
    p = p * m + 3.3333331174e-1f;
    const float square = m * m;
    return (m + (p * m * square - 0.5f * square)) * 1.44269504089f + exponent;
}

/// x^exponent for 0 <= x <= 1 and exponent >= 0; NaN stays.
RIBS_HD float power_of(float x, float exponent) {
    return exp2_of(exponent * log2_of(x)) + (x - x);
}

/// How much a weight is rounded up, and how that changes with alpha: not at all where it is clipped.
struct Upward {
    float h, slope;
};

RIBS_HD Upward upward(float alpha) {
    const float sigmoid = 1.0f / (1.0f + exp2_of(alpha * -1.44269504089f));
    const float stretched = kStretch * sigmoid - kMargin;
    const float h = clamp_code(stretched, 0.0f, 1.0f);
    return {h, h == stretched ? kStretch * sigmoid * (1.0f - sigmoid) : 0.0f};
}

/// floor(w / step) + h as a code relative to the zero point, before it is clamped.
RIBS_HD float soft_code(float weight, float h, const Quantizer& q) {
    return floorf(weight / q.step) + h;
}

/// The value of a weight between its two neighbours.
RIBS_HD float soft_value(float weight, float h, const Quantizer& q) {
    return (clamp_code(soft_code(weight, h, q), q.low, q.high) + 0.0f) * q.step;
}

/// 1 - |2h - 1|^beta: 0 where h is 0 or 1.
RIBS_HD float rounding_penalty(float h, float beta) {
    return 1.0f - power_of(fabsf(2.0f * h - 1.0f), beta);
}

/// Its derivative by h.
RIBS_HD float rounding_penalty_slope(float h, float beta) {
    const float side = 2.0f * h - 1.0f, size = 2.0f * beta * power_of(fabsf(side), beta - 1.0f);
    return side > 0.0f ? -size : side < 0.0f ? size : side * size;
}

/// The gradient of alpha, given those of the value and of the penalty; beta = 0 is no penalty.
RIBS_HD float soft_round_gradient(float grad, float grad_penalty, float weight, float alpha,
                                  const Quantizer& q, float beta) {
    const Upward up = upward(alpha);
    const float code = soft_code(weight, up.h, q);
    const bool inside = code >= q.low && code <= q.high;
    const float of_value = inside ? grad * q.step : 0.0f;
    const float of_penalty = beta > 0.0f ? grad_penalty * rounding_penalty_slope(up.h, beta) : 0.0f;
    // The sum first: NaN of a gradient must reach alpha also where h is clipped, as it does in torch.
    return (of_value + of_penalty) * up.slope;
}

}  // namespace ribs
