#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "core/macros.h"
#include "core/moments.h"
#include "core/step_search.h"

// Which steps a search looks at. The number of values decides how. Up to kExactRow: every vector of codes. Up
// to kShortRow: a fine grid, by the values themselves. Up to kSwiftRow: a grid that gets finer around the
// best, by bins; the error of so few values is jagged, and a proof that nothing better hides in it takes far
// longer than finding it. More, or exact: intervals between evaluated steps are split until a bound rules the
// rest out.

namespace ribs {

constexpr int64_t kExactRow = 32;
constexpr int64_t kShortRow = 64;
constexpr int64_t kSwiftRow = 8192;

constexpr int32_t kCoarse = kOctave / 16;  ///< spacing of the first grid of a proof
constexpr int32_t kSwift = kOctave / 8;    ///< spacing of the first grid of a swift search
constexpr int32_t kTurn = 4;               ///< first candidates between two looks at what is clipped
constexpr int32_t kPolishes = 8;
constexpr int32_t kEvaluations = 1 << 16;  ///< where a proof gives up and returns the bound it has
constexpr size_t kOpen = 1 << 14;          ///< intervals that a proof can have open at once

/// How far below the least error a bound must come to close an interval, as a share of that error.
RIBS_HD double tolerance(Codes codes, bool exact) {
    if (exact) return 0x1p-20;
    return codes.levels > 128 ? 0x1p-9 : codes.levels > 64 ? 0x1p-10 : 0x1p-12;
}

/// What a sum of squares in doubles may be wrong by.
RIBS_HD double rounding(double square) {
    return square * 0x1p-44;
}

/// Where a swift search starts: a little above the step whose codes just span the data.
RIBS_HD int32_t swift_start(const Totals& all, Codes codes) {
    const int32_t low = codes.levels / 2, high = low > 1 ? low - 1 : 1;
    const double span = codes.symmetric ? larger(all.up() / high, all.down() / low)
                                        : (all.up() + all.down()) / (codes.levels - 1);
    int exponent = 0;
    const double mantissa = frexp(span, &exponent);
    int32_t eighth = 0;  // of an octave, rounded up
    while (eighth < 8 && grid_step(eighth * kSwift - kOctave) < mantissa) ++eighth;
    const int32_t index = (exponent - 1) * kOctave + (eighth + 1) * kSwift;
    return index > kSmallestIndex ? index : kSmallestIndex;
}

/// Candidates from `radius` below to `radius` above the best one, `spacing` apart.
struct Stage {
    int32_t radius;
    int32_t spacing;
};

constexpr int32_t kStages = 2;

RIBS_HD Stage refinement(int32_t stage) {
    return stage == 0 ? Stage{3 * kOctave / 32, kOctave / 32} : Stage{7 * kOctave / 256, kOctave / 256};
}

}  // namespace ribs
