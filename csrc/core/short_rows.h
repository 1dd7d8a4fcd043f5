#pragma once

#include <cfloat>
#include <cmath>
#include <cstdint>

#include "core/macros.h"
#include "core/moments.h"
#include "core/step_refine.h"
#include "core/step_search.h"

// The error of a short row is a jagged function of the step: a piece of a parabola for every vector of codes.
// The codes change only at the breakpoints s = |x_i| / (k + 1/2), so trying the codes just below every
// breakpoint tries them all, and the best of their optima A / B is the exact answer.

namespace ribs {

/// A row of at most kShortRow values.
struct ShortRow {
    double values[kShortRow];
    int32_t n;
};

/// Steps, by their inverses, that are tried together: vector registers of them on a CPU, one on a GPU.
template <int kSteps>
struct StepBatch {
    double inverse[kSteps];

    /// Improves `best` with the codes of every step, over all zero points that could win; whether it did.
    RIBS_HD bool improve(const ShortRow& row, const Totals& all, Codes codes, Candidate& best) const {
        double least = inverse[0], most = inverse[0];
        for (int j = 1; j < kSteps; ++j) {
            least = smaller(least, inverse[j]);
            most = larger(most, inverse[j]);
        }
        const double up = all.up(), down = all.down(), largest = 1.0 / least;
        const ZeroPoints first = window_range(up, down, codes, least),
                         last = window_range(up, down, codes, most);
        bool improved = false;
        for (int32_t z = first.first < last.first ? first.first : last.first; z <= last.last; ++z) {
            const double over = larger(up - (codes.levels - 1 - z) * largest, 0.0);
            const double under = larger(down - z * largest, 0.0);
            // Saves time only: what fails here would not count.
            if (over * over + under * under <= best.error + rounding(all.square))
                improved |= improve_window(row, all, codes, z, best);
        }
        return improved;
    }

  private:
    /// Whether a candidate counts, by itself: if it were by the rest of its batch or by what was tried
    /// before, devices would differ. A winner's clipping shrinks towards the top of its interval, so it
    /// counts there.
    RIBS_HD static bool counts(const Totals& all, Codes codes, double inverse, const Candidate& candidate,
                               int32_t z) {
        const ZeroPoints own = window_range(all.up(), all.down(), codes, inverse);
        const double step = 1.0 / inverse;
        const double over = larger(all.up() - (codes.levels - 1 - z) * step, 0.0);
        const double under = larger(all.down() - z * step, 0.0);
        return own.first <= z && z <= own.last &&
               over * over + under * under <= candidate.error + rounding(all.square);
    }

    /// Codes beyond the window all count alike, so `levels` of them are enough.
    RIBS_HD static ZeroPoints window_range(double up, double down, Codes codes, double inverse) {
        if (codes.symmetric) return zero_points(0, 0, codes);
        return zero_points(thresholds_inside(up * inverse, 1.0, codes.levels),
                           thresholds_inside(down * inverse, 1.0, codes.levels), codes);
    }

    RIBS_HD bool improve_window(const ShortRow& row, const Totals& all, Codes codes, int32_t z,
                                Candidate& best) const {
        const double low = -z, high = codes.levels - 1 - z;
        double product[kSteps] = {}, square[kSteps] = {};
        for (int32_t i = 0; i < row.n; ++i) {
            const double x = row.values[i];
            for (int j = 0; j < kSteps; ++j) {
                double code = rint(x * inverse[j]);
                code = code < low ? low : code;
                code = code > high ? high : code;
                product[j] += x * code;
                square[j] += code * code;
            }
        }
        // The error at the optimum is all.square - product^2 / square; few get past this, so few divide.
        const double gain = all.square - best.error - rounding(all.square);
        int hits = 0;
        for (int j = 0; j < kSteps; ++j) hits += product[j] * product[j] >= gain * square[j] ? 1 : 0;
        if (hits == 0) return false;
        bool improved = false;
        for (int j = 0; j < kSteps; ++j) {
            if (!(product[j] > 0.0 && product[j] * product[j] >= gain * square[j])) continue;
            const double optimum = float_step(product[j] / square[j]);
            const double error = all.square - optimum * (2.0 * product[j] - optimum * square[j]);
            const Candidate candidate = {error, optimum, codes.symmetric ? 0 : z, best.index};
            if (!better(candidate, best) || !counts(all, codes, inverse[j], candidate, z)) continue;
            best = candidate;
            improved = true;
        }
        return improved;
    }
};

/// No step below this one can beat `error`: the two ends of the row alone would be clipped by more.
RIBS_HD double smallest_step(const Totals& all, Codes codes, double error) {
    // Twice what the test of a candidate allows, so that rounding does not rule out what passes that.
    const double reach = sqrt(larger(error, 0.0) + 2.0 * rounding(all.square));
    const double up = larger(all.maximum - reach, 0.0), down = larger(-all.minimum - reach, 0.0);
    const double least = codes.symmetric ? larger(codes.levels > 2 ? up / (codes.levels / 2 - 1) : 0.0,
                                                  down / (codes.levels / 2))
                                         : (up + down) / (codes.levels - 1);
    return larger(least, static_cast<double>(FLT_MIN));
}

/// One over the step just below the breakpoint at 1/2 of a value; that of breakpoint k is 2 k + 1 times it.
/// Both sides of a breakpoint differ by far less than a float can show.
RIBS_HD double inverse_breakpoint(double value) {
    return 0.5 / fabs(value) * (1.0 + 0x1p-40);
}

/// How many breakpoints one value has inside the range of codes.
RIBS_HD int32_t breakpoints(double value, Codes codes) {
    if (!codes.symmetric) return codes.levels - 1;
    return value < 0.0 ? codes.levels / 2 : codes.levels / 2 - 1;
}

/// Whether all code vectors of a row are tried, rather than those at the steps of a fine grid.
RIBS_HD bool tries_all(int64_t n, Codes codes) {
    return n <= kExactRow || n * codes.levels <= 1024;
}

/// The spacing of that grid, finer than breakpoints lie apart.
RIBS_HD int32_t short_spacing(Codes codes) {
    return kOctave / (3 * codes.levels);
}

/// One over step `place` of that grid, from the largest down.
RIBS_HD double inverse_grid_step(int32_t start, int32_t place, Codes codes) {
    return grid_step(place * short_spacing(codes) - start);
}

}  // namespace ribs
