#pragma once

#include <cstdint>

#include "core/macros.h"
#include "core/quantize.h"
#include "core/step_search.h"

namespace ribs {

constexpr int32_t kErrorLanes = 32;  ///< a warp; lane l takes the values l, l + 32, ...

/// The quantizer of a candidate.
RIBS_HD Quantizer quantizer_of(const Candidate& c, Codes codes) {
    const int32_t qmin = codes.symmetric ? -codes.levels / 2 : 0;
    return make_quantizer(static_cast<float>(c.step), c.zero_point, qmin, qmin + codes.levels - 1);
}

/// What fake_quantize makes of a value, as a squared error.
RIBS_HD double squared_error(float x, const Quantizer& q) {
    const float code = clamp_code(rintf(x / q.step), q.low, q.high);
    const double error = static_cast<double>(x) - static_cast<double>(code) * static_cast<double>(q.step);
    return error * error;
}

}  // namespace ribs
