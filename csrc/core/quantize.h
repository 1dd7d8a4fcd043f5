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

/// The straight-through gradient of x and the share of one element in the gradient of the step.
struct LsqGradient {
    float x;
    float step;
};

/// LSQ gradients of one element: x passes inside the range, the step sees rint(u) - u inside and the bound
/// outside. A NaN input gives a zero gradient of x and a NaN gradient of the step.
RIBS_HD LsqGradient lsq_gradient(float grad, float x, const Quantizer& q) {
    const float u = x / q.step;
    const float code = clamp_code(rintf(u), q.low, q.high);
    const bool inside = u >= q.low && u <= q.high;
    const bool outside = u < q.low || u > q.high;
    return {inside ? grad : 0.0f, outside ? code : code - u};
}

/// How the step gradient is summed: fixed pieces, so that neither threads nor launches change the result.
struct GradientPlan {
    static constexpr int64_t kSegment = 4096;
    static constexpr int64_t kRows = 64;
    static constexpr int64_t kNarrow = 32;

    int64_t outer, channels, inner;

    /// Rows shorter than this are summed by column instead, as in channels-last memory.
    RIBS_HD bool narrow() const { return inner < kNarrow; }
    /// Pieces of one row (wide) or 1 (narrow).
    RIBS_HD int64_t segments() const { return narrow() ? 1 : (inner + kSegment - 1) / kSegment; }
    /// Rows (wide) or groups of rows (narrow) of one channel.
    RIBS_HD int64_t groups() const { return narrow() ? (outer + kRows - 1) / kRows : outer; }
    /// Number of partial sums: [groups, channels, segments].
    RIBS_HD int64_t partials() const { return groups() * channels * segments(); }
};

}  // namespace ribs
