#pragma once

#include <cstdint>
#include <limits>

#include "core/quantize.h"
#include "core/sketch.h"

// Levels at unequal distances above zero. A table has, for each of them, the least float that is rounded to
// it or above: a value is looked up by comparisons alone, so no arithmetic of a device can show in its level.

namespace ribs {

constexpr int32_t kLevels = 257;     ///< at most: zero and 2^8 of log-sqrt2
constexpr int32_t kLevelRoom = 512;  ///< a power of two beyond them, so that a search needs no bounds

/// Levels 0..top, ascending. Thresholds beyond the top are NaN, which no value reaches.
struct Levels {
    int32_t top;
    float level[kLevels];
    float threshold[kLevelRoom];  ///< the first is not used
};

/// The least float that is at least `value`, or above it unless `itself` counts.
RIBS_HD float least_float(double value, bool itself) {
    const float near = static_cast<float>(value);
    const double back = static_cast<double>(near);
    return back < value || (back == value && !itself) ? float_of(float_bits(near) + 1) : near;
}

/// 2^(-q / 2), or the value between it and the next lower one by their logarithms.
RIBS_HD double half_octaves(int32_t q, bool between) {
    const double even = between ? 0.8408964152537145 : 1.0;               // 2^(-1/4)
    const double odd = between ? 1.189207115002721 : 1.4142135623730951;  // 2^(1/4), 2^(1/2)
    return (q % 2 == 0 ? even : odd) * power_of_two(-((q + 1) / 2));
}

/// Fills in levels first, first + stride, ... of a table whose top is set. nuLSQ: sums of `top` steps, added
/// up in double. Log-sqrt2: the step times powers of the root of a half.
RIBS_HD void fill_levels(Levels& table, const float* steps, bool log_sqrt2, int32_t first, int32_t stride) {
    double sum = 0.0;
    int32_t added = 0;
    for (int32_t i = first; i <= table.top; i += stride) {
        if (log_sqrt2) {
            const double step = static_cast<double>(checked_step(*steps));
            table.level[i] = i > 0 ? static_cast<float>(step * half_octaves(table.top - i, false)) : 0.0f;
        } else {
            while (added < i) sum += static_cast<double>(checked_step(steps[added++]));
            table.level[i] = static_cast<float>(sum);
        }
    }
}

/// Fills in thresholds, once all levels are there: midpoints, which themselves go to the level of even index,
/// or those of the logarithm. Of steps that are not positive and finite, or add up to more than a float,
/// every value becomes NaN.
RIBS_HD void fill_thresholds(Levels& table, const float* steps, bool log_sqrt2, int32_t first,
                             int32_t stride) {
    const bool valid = table.level[table.top] <= std::numeric_limits<float>::max();
    for (int32_t i = first; i < kLevelRoom; i += stride) {
        if (i == 0 && !valid) table.level[0] = std::numeric_limits<float>::quiet_NaN();
        if (i == 0 || i > table.top || !valid) {
            table.threshold[i] = std::numeric_limits<float>::quiet_NaN();
        } else if (log_sqrt2) {
            table.threshold[i] =
                least_float(static_cast<double>(*steps) * half_octaves(table.top - i, true), true);
        } else {
            const double below = static_cast<double>(table.level[i - 1]);
            table.threshold[i] = least_float(0.5 * (below + static_cast<double>(table.level[i])), i % 2 == 0);
        }
    }
}

/// The largest power of two that is not above the index of the top level: where a search begins.
RIBS_HD int32_t first_half(int32_t top) {
    int32_t half = 1;
    while (2 * half <= top) half *= 2;
    return half;
}

/// The index of the level of x, 0 for NaN; half is first_half(top).
RIBS_HD int32_t level_index(float x, const float* threshold, int32_t half) {
    int32_t index = 0;
    for (; half > 0; half /= 2) index += x >= threshold[index + half] ? half : 0;
    return index;
}

/// The value of x after quantization, given the level found for it: NaN stays NaN.
RIBS_HD float level_value(float x, float level) {
    return x == x ? level : x;
}

/// The straight-through gradient of x, and what one element adds to which sum. Sum 0 counts in the gradient
/// of every step, sum i, divided by step i, in that of step i.
struct LevelGradient {
    float x;
    int32_t sum;
    double share;
};

/// nuLSQ gradients of one element: x passes from zero to the top; the step of the interval in which x lies
/// sees the rounding error, and beyond the top every step sees 1. A NaN input gives a zero gradient of x and
/// NaN gradients of the steps.
RIBS_HD LevelGradient level_gradient(float grad, float x, int32_t index, const Levels& table) {
    const float level = table.level[index], top = table.level[table.top];
    const double wide = static_cast<double>(grad);
    if (x >= 0.0f && x <= top)
        return {grad, x > level ? index + 1 : index,
                wide * (static_cast<double>(level) - static_cast<double>(x))};
    if (x > top) return {0.0f, 0, wide};
    return {0.0f, 0,
            wide * static_cast<double>(x < 0.0f ? table.level[0] : std::numeric_limits<float>::quiet_NaN())};
}

}  // namespace ribs
