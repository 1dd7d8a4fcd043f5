#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "core/macros.h"

namespace ribs {

/// One quantizer as the element arithmetic wants it: codes relative to the zero point lie in [low, high].
struct Quantizer {
    float step;
    float low;
    float high;
};

/// The step itself when it is positive and finite, NaN otherwise, so that a bad step shows in every output.
RIBS_HD float checked_step(float step) {
    const bool valid = step > 0.0f && step <= std::numeric_limits<float>::max();
    return valid ? step : std::numeric_limits<float>::quiet_NaN();
}

/// A quantizer from a step, a zero point and the range of codes.
RIBS_HD Quantizer make_quantizer(float step, int32_t zero_point, int64_t qmin, int64_t qmax) {
    return {checked_step(step), static_cast<float>(qmin - zero_point), static_cast<float>(qmax - zero_point)};
}

/// The quantizer that gives for x the negative of what this gives for -x.
RIBS_HD Quantizer turned(const Quantizer& q) {
    return {q.step, -q.high, -q.low};
}

/// The quantizer of a channel. learned: the `Learned` of ops.h.
template <class Params>
RIBS_HD Quantizer learned_quantizer(const Params& p, int64_t channel) {
    const int64_t c = p.learned.one_step ? 0 : channel;
    float step = p.step[c];
    if (p.learned.floor != nullptr && step < p.learned.floor[c]) step = p.learned.floor[c];  // NaN stays
    const Quantizer q = make_quantizer(step, p.zero_point[c], p.qmin, p.qmax);
    return p.learned.signs != nullptr && p.learned.signs[channel] < 0.0f ? turned(q) : q;
}

/// Clamps by comparison: fmin and fmax would turn NaN into a bound.
RIBS_HD float clamp_code(float code, float low, float high) {
    const float raised = code < low ? low : code;
    return raised > high ? high : raised;
}

/// The value of x after quantization: rounded half to even, with a true division.
RIBS_HD float fake_quantize(float x, const Quantizer& q) {
    // An integer code has no negative zero; adding +0 removes it.
    const float code = clamp_code(rintf(x / q.step), q.low, q.high) + 0.0f;
    return code * q.step;
}

/// The code of x as a byte, two's complement where qmin is negative: the integer by which fake_quantize
/// multiplies the step, plus the zero point. `levels` is qmax - qmin, at most 255. NaN has no code; it gives
/// qmin.
RIBS_HD uint8_t code_byte(float x, const Quantizer& q, int32_t qmin, int32_t levels) {
    // Counted from the lowest code, which is exact for zero points of up to 2^23. Beyond, low and high are
    // each up to 64 off, and only the minimum keeps codes in their range. The comparison with 0 takes NaN.
    // Integers as soon as possible: compilers narrow them to bytes in fewer instructions than comparisons of
    // floats.
    const float above = clamp_code(rintf(x / q.step), q.low, q.high) - q.low;
    const int32_t code = static_cast<int32_t>(above > 0.0f ? above : 0.0f);
    return static_cast<uint8_t>((code < levels ? code : levels) + qmin);
}

/// The straight-through gradient of x and the share of one element in the gradient of the step.
struct LsqGradient {
    float x;
    float step;
};

/// LSQ gradients of one element: x passes inside the range, the step sees rint(u) - u inside and the bound
/// outside. A NaN input gives a zero gradient of x and, its code being NaN, a NaN gradient of the step.
RIBS_HD LsqGradient lsq_gradient(float grad, float x, const Quantizer& q) {
    const float u = x / q.step;
    // Bounds are integers, so clamping before rounding gives the same code, and tells what was inside.
    const float clamped = clamp_code(u, q.low, q.high);
    const float code = rintf(clamped);
    const bool inside = clamped == u;
    return {inside ? grad : 0.0f, inside ? code - u : code};
}

}  // namespace ribs
