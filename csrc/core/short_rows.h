#pragma once

#include <cmath>
#include <cstdint>

#include "core/macros.h"
#include "core/moments.h"
#include "core/step_search.h"

// The error of a short row is a jagged function of the step: piecewise quadratic, with a piece for every
// vector of codes. The codes change only at the breakpoints s = |x_i| / (k + 1/2), so trying the code vector
// just below every breakpoint tries them all, and the best optimum A / B among them is the exact answer.

namespace ribs {

constexpr int64_t kShortRow = 64;

/// A row of at most kShortRow values as doubles; `padded` is n rounded up to 8, filled with zeros.
struct ShortRow {
    const double* values;
    int32_t n;
    int32_t padded;
};

/// A and B of the row for codes clamped to [low, high]. Eight fixed lanes: the same sums on every machine.
RIBS_HD CodeSums row_sums(const ShortRow& row, double step, double low, double high) {
    double product[8] = {}, square[8] = {};
    const double inverse = 1.0 / step;
    for (int32_t i = 0; i < row.padded; i += 8) {
        for (int32_t lane = 0; lane < 8; ++lane) {
            const double x = row.values[i + lane];
            double code = rint(x * inverse);
            code = code < low ? low : code;
            code = code > high ? high : code;
            product[lane] += x * code;
            square[lane] += code * code;
        }
    }
    for (int32_t width = 4; width > 0; width /= 2) {
        for (int32_t lane = 0; lane < width; ++lane) {
            product[lane] += product[lane + width];
            square[lane] += square[lane + width];
        }
    }
    return {product[0], square[0]};
}

/// The part of `extent` beyond the outermost code `code * step`.
RIBS_HD double beyond(double extent, double code, double step) {
    return fmax(extent - code * step, 0.0);
}

/// Improves `best` with the code vectors at one step, over all zero points that could win.
RIBS_HD void try_step(const ShortRow& row, const Totals& all, Codes codes, double step, Candidate& best) {
    const double up = fmax(all.maximum, 0.0), down = fmax(-all.minimum, 0.0);
    const int32_t most = codes.levels;  // beyond the window it does not matter how far
    const ZeroPoints range =
        zero_points(thresholds_inside(up, step, most), thresholds_inside(down, step, most), codes);
    for (int32_t z = range.first; z <= range.last; ++z) {
        const int32_t high = codes.levels - 1 - z;
        const double over = beyond(up, high, step), under = beyond(down, z, step);
        // The winner's clipping shrinks towards the top of its interval, so it passes this test there too.
        if (over * over + under * under > best.error) continue;
        const CodeSums sums = row_sums(row, step, -z, high);
        if (!(sums.square > 0.0 && sums.product > 0.0)) continue;
        const double optimum = float_step(sums.product / sums.square);
        const double error = all.square - optimum * (2.0 * sums.product - optimum * sums.square);
        const Candidate candidate = {error, optimum, codes.symmetric ? 0 : z, best.index};
        if (better(candidate, best)) best = candidate;
    }
}

/// No step below this one can beat `error`: the two ends of the row alone would be clipped by more.
RIBS_HD double smallest_step(const Totals& all, Codes codes, double error) {
    const double reach = sqrt(fmax(error, 0.0));
    const double up = fmax(all.maximum - reach, 0.0), down = fmax(-all.minimum - reach, 0.0);
    if (!codes.symmetric) return (up + down) / (codes.levels - 1);
    const int32_t low = codes.levels / 2, high = low - 1;
    return fmax(high > 0 ? up / high : 0.0, down / low);
}

/// The step just below breakpoint k of a value; both sides of it differ by far less than a float can show.
RIBS_HD double breakpoint(double value, int32_t k) {
    return fabs(value) / (k + 0.5) * (1.0 - 0x1p-40);
}

/// How many breakpoints one value has inside the range of codes.
RIBS_HD int32_t breakpoints(double value, Codes codes) {
    if (!codes.symmetric) return codes.levels - 1;
    return value < 0.0 ? codes.levels / 2 : codes.levels / 2 - 1;
}

}  // namespace ribs
