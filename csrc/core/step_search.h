#pragma once

#include <cfloat>
#include <cmath>
#include <cstdint>

#include "core/macros.h"
#include "core/moments.h"

// The squared error of a quantizer with codes [-z, h] around zero is
//   SSE(s) = sum x^2 - 2 s A + s^2 B,   A = sum |x q|,   B = sum q^2,
// and both sums are sums over the thresholds t = (k + 1/2) s that a magnitude has passed: each passed
// threshold adds |x| to A and 2k + 1 to B. So running sums over the positive and the negative thresholds give
// every window of codes, hence every zero point, in O(1).

namespace ribs {

constexpr int32_t kMaxLevels = 256;
constexpr int32_t kLanes = 8;  ///< partial sums over thresholds, so that every machine adds in one order

/// A quantizer with its squared error; `index` is the place of the candidate on the step grid.
struct Candidate {
    double error;
    double step;
    int32_t zero_point;
    int32_t index;
};

/// The best quantizer of one bit-width, and what no quantizer can go below (0 where nothing was proven).
struct Answer {
    Candidate best;
    double lower;
};

/// The tie rule: smaller error, then larger step, then smaller zero point.
RIBS_HD bool better(const Candidate& a, const Candidate& b) {
    if (a.error != b.error) return a.error < b.error;
    if (a.step != b.step) return a.step > b.step;
    return a.zero_point < b.zero_point;
}

/// The codes of a bit-width: how many, and whether zero sits in the middle or anywhere.
struct Codes {
    int32_t levels;
    bool symmetric;

    /// The most thresholds of one side that any window has.
    RIBS_HD int32_t most() const { return symmetric ? levels / 2 : levels - 1; }
};

/// The sums A and B, and by how much half of 2 A / s could be larger.
struct CodeSums {
    double product;
    double square;
    double slack;
};

/// Candidates lie on s = 2^(index / 2^20), built from constants so that every device has the same ones.
constexpr int32_t kOctaveBits = 20;
constexpr int32_t kOctave = 1 << kOctaveBits;
constexpr int32_t kSmallestIndex = -126 * kOctave;  ///< 2^-126, the smallest normal float

RIBS_HD double grid_step(int32_t index) {
    // 2^(i / 16), 2^(i / 256), ..., 2^(i / 2^20), each rounded once.
    const double roots[5][16] = {
        {1.0, 0x1.0b5586cf9890fp+0, 0x1.172b83c7d517bp+0, 0x1.2387a6e756238p+0, 0x1.306fe0a31b715p+0,
         0x1.3dea64c123422p+0, 0x1.4bfdad5362a27p+0, 0x1.5ab07dd485429p+0, 0x1.6a09e667f3bcdp+0,
         0x1.7a11473eb0187p+0, 0x1.8ace5422aa0dbp+0, 0x1.9c49182a3f090p+0, 0x1.ae89f995ad3adp+0,
         0x1.c199bdd85529cp+0, 0x1.d5818dcfba487p+0, 0x1.ea4afa2a490dap+0},
        {1.0, 0x1.00b1afa5abcbfp+0, 0x1.0163da9fb3335p+0, 0x1.02168143b0281p+0, 0x1.02c9a3e778061p+0,
         0x1.037d42e11bbccp+0, 0x1.04315e86e7f85p+0, 0x1.04e5f72f654b1p+0, 0x1.059b0d3158574p+0,
         0x1.0650a0e3c1f89p+0, 0x1.0706b29ddf6dep+0, 0x1.07bd42b72a836p+0, 0x1.0874518759bc8p+0,
         0x1.092bdf66607e0p+0, 0x1.09e3ecac6f383p+0, 0x1.0a9c79b1f3919p+0},
        {1.0, 0x1.000b175effdc7p+0, 0x1.00162f3904052p+0, 0x1.0021478e11ce6p+0, 0x1.002c605e2e8cfp+0,
         0x1.003779a95f959p+0, 0x1.0042936faa3d8p+0, 0x1.004dadb113da0p+0, 0x1.0058c86da1c0ap+0,
         0x1.0063e3a559473p+0, 0x1.006eff583fc3dp+0, 0x1.007a1b865a8cap+0, 0x1.0085382faef83p+0,
         0x1.00905554425d4p+0, 0x1.009b72f41a12bp+0, 0x1.00a6910f3b6fdp+0},
        {1.0, 0x1.0000b17255776p+0, 0x1.000162e525ee0p+0, 0x1.0002145871645p+0, 0x1.0002c5cc37da9p+0,
         0x1.0003774079512p+0, 0x1.000428b535c85p+0, 0x1.0004da2a6d408p+0, 0x1.00058ba01fba0p+0,
         0x1.00063d164d351p+0, 0x1.0006ee8cf5b22p+0, 0x1.0007a00419318p+0, 0x1.0008517bb7b38p+0,
         0x1.000902f3d1387p+0, 0x1.0009b46c65c0bp+0, 0x1.000a65e5754cap+0},
        {1.0, 0x1.00000b1721bd0p+0, 0x1.0000162e43f50p+0, 0x1.0000214566a7fp+0, 0x1.00002c5c89d5fp+0,
         0x1.00003773ad7eep+0, 0x1.0000428ad1a2ep+0, 0x1.00004da1f641dp+0, 0x1.000058b91b5bdp+0,
         0x1.000063d040f0cp+0, 0x1.00006ee76700bp+0, 0x1.000079fe8d8bap+0, 0x1.00008515b491ap+0,
         0x1.0000902cdc129p+0, 0x1.00009b44040e8p+0, 0x1.0000a65b2c857p+0},
    };
    const int32_t octave = index >> kOctaveBits;
    double step = power_of_two(octave);
    for (int32_t i = 0; i < 5; ++i) step *= roots[i][index >> (16 - 4 * i) & 15];
    return step;
}

/// The first index of a search: from there on up all codes are zero. A multiple of kOctave.
RIBS_HD int32_t top_index(double largest) {
    int exponent = 0;
    frexp(largest, &exponent);
    return (exponent + 1 > -126 ? exponent + 1 : -126) * kOctave;
}

/// Rounds a step to a float that is neither denormal nor infinite.
RIBS_HD double float_step(double step) {
    if (!(step >= FLT_MIN)) return FLT_MIN;
    if (step >= FLT_MAX) return FLT_MAX;
    return static_cast<double>(static_cast<float>(step));
}

/// What threshold k of a side adds to the sums.
template <bool kSlack, class Moments>
RIBS_HD CodeSums threshold_sums(const Moments& m, Side side, int32_t k, double step) {
    const Passed passed = m.template passed<kSlack>(side, (k + 0.5) * step);
    return {passed.sum, (2 * k + 1) * passed.count, passed.slack};
}

RIBS_HD CodeSums plus(const CodeSums& a, const CodeSums& b) {
    return {a.product + b.product, a.square + b.square, a.slack + b.slack};
}

RIBS_HD CodeSums minus(const CodeSums& a, const CodeSums& b) {
    return {a.product - b.product, a.square - b.square, a.slack - b.slack};
}

/// Adds up the lanes in a fixed tree.
RIBS_HD CodeSums lane_total(const CodeSums* lanes) {
    return plus(plus(plus(lanes[0], lanes[4]), plus(lanes[2], lanes[6])),
                plus(plus(lanes[1], lanes[5]), plus(lanes[3], lanes[7])));
}

/// How many thresholds of one side lie inside the data, at most `most`.
RIBS_HD int32_t thresholds_inside(double extent, double step, int32_t most) {
    const double inside = ceil(extent / step - 0.5);
    if (!(inside > 0.0)) return 0;
    return inside >= most ? most : static_cast<int32_t>(inside);
}

/// Zero points worth trying: inside [first, last], all others give the same error as one of them or more.
struct ZeroPoints {
    int32_t first;
    int32_t last;
};

RIBS_HD ZeroPoints zero_points(int32_t positives, int32_t negatives, Codes codes) {
    const int32_t most = codes.levels - 1;
    if (codes.symmetric) return {codes.levels / 2, codes.levels / 2};
    if (positives + negatives <= most) return {negatives, negatives};
    return {positives >= most ? 0 : most - positives, negatives < most ? negatives : most};
}

/// What one step on the grid is worth: the best quantizer found from it, and bounds of the least error that
/// the step itself allows.
struct Evaluation {
    Candidate best;
    double upper;
    double lower;
};

/// Codes with these sums at a step; `best` is their own optimal step A / B, where their error can only be
/// less.
RIBS_HD Evaluation evaluate_codes(const CodeSums& sums, double square, double step, int32_t zero_point,
                                  int32_t index) {
    const double error = square - step * (2.0 * sums.product - step * sums.square);
    const double best =
        sums.square > 0.0 && sums.product > 0.0 ? float_step(sums.product / sums.square) : step;
    const double moved = square - best * (2.0 * sums.product - best * sums.square);
    return {{moved, best, zero_point, index}, error, error - 2.0 * step * sums.slack};
}

/// Takes another zero point of the same step into account.
RIBS_HD void merge(Evaluation& into, const Evaluation& other) {
    if (better(other.best, into.best)) into.best = other.best;
    into.upper = smaller(into.upper, other.upper);
    into.lower = smaller(into.lower, other.lower);
}

/// By how much the sums of a window of codes change when it moves to the next zero point.
struct Change {
    CodeSums lost, gained;
};

/// One thread that evaluates a step by itself, lane after lane. A GPU has a team with a thread for each lane.
struct Alone {
    /// The sum of term(k) for all k below `count`, lane by lane.
    template <class Term>
    RIBS_HD CodeSums total(int32_t count, const Term& term) const {
        CodeSums lanes[kLanes] = {};
        int32_t k = 0;
        for (; k + kLanes <= count; k += kLanes)
            for (int32_t lane = 0; lane < kLanes; ++lane) lanes[lane] = plus(lanes[lane], term(k + lane));
        for (int32_t lane = 0; k < count; ++k, ++lane) lanes[lane] = plus(lanes[lane], term(k));
        return lane_total(lanes);
    }
    /// Merges evaluate(sums, z) for all z from `first` to `last`, where change(z) leads from the sums of z
    /// - 1.
    template <class ChangeOf, class Evaluate>
    RIBS_HD void walk(int32_t first, int32_t last, CodeSums sums, const ChangeOf& change,
                      const Evaluate& evaluate, Evaluation& result) const {
        for (int32_t z = first; z <= last; ++z) {
            const Change next = change(z);
            sums = plus(minus(sums, next.lost), next.gained);
            merge(result, evaluate(sums, z));
        }
    }
};

/// Evaluates a step over all zero points worth trying.
template <bool kSlack, class Moments, class Team = Alone>
RIBS_HD Evaluation evaluate_step(const Moments& m, Codes codes, double step, int32_t index,
                                 const Team& team = Team()) {
    const int32_t most = codes.most();
    const int32_t up = thresholds_inside(m.all.maximum, step, codes.symmetric ? most - 1 : most);
    const int32_t down = thresholds_inside(-m.all.minimum, step, most);
    const auto threshold = [&](Side side, int32_t k) { return threshold_sums<kSlack>(m, side, k, step); };
    const auto side_sums = [&](Side side, int32_t count) {
        return team.total(count, [&](int32_t k) { return threshold(side, k); });
    };
    if (codes.symmetric) {
        const int32_t below = down < most - 1 ? down : most - 1;
        CodeSums sums = side_sums(Side::both, up > below ? up : below);
        if (down == most) sums = plus(sums, threshold(Side::negative, most - 1));
        return evaluate_codes(sums, m.all.square, step, 0, index);
    }
    const ZeroPoints zeros = zero_points(up, down, codes);
    const int32_t high = codes.levels - 1 - zeros.first;
    const CodeSums sums = plus(side_sums(Side::positive, up < high ? up : high),
                               side_sums(Side::negative, down < zeros.first ? down : zeros.first));
    const auto evaluate = [&](const CodeSums& of, int32_t z) {
        return evaluate_codes(of, m.all.square, step, z, index);
    };
    const auto change = [&](int32_t z) {  // one code fewer above zero, one more below
        Change result = {};
        if (codes.levels - 1 - z < up) result.lost = threshold(Side::positive, codes.levels - 1 - z);
        if (z - 1 < down) result.gained = threshold(Side::negative, z - 1);
        return result;
    };
    Evaluation result = evaluate(sums, zeros.first);
    team.walk(zeros.first + 1, zeros.last, sums, change, evaluate, result);
    return result;
}

/// The steps between two evaluated ones.
struct Interval {
    int32_t index;  ///< of the smaller step
    int32_t width;  ///< in indices
    double lower_a, upper_a, lower_b;

    /// No step of the interval has an error below this. The least error is a minimum of parabolas in the
    /// step; less the curvature of the widest it is concave, so it lies above its chord. That curvature is
    /// sum q^2, and |q| s <= |x| + |x - q s| as vectors, where the codes of the smaller step bound the last
    /// term.
    RIBS_HD double bound(double square) const {
        const double a = grid_step(index), b = grid_step(index + width), w = b - a;
        const double reach = (sqrt(square) + sqrt(larger(upper_a, 0.0))) * b / (a * a);
        const double curvature = reach * reach, slope = (lower_b - lower_a) / w;
        const double vertex = 0.5 * (w - slope / curvature);
        const double at = vertex < 0.0 ? 0.0 : vertex > w ? w : vertex;
        return lower_a + at * (slope - curvature * (w - at));
    }
};

/// A lower bound of the squared error of clipping one side to t: by Cauchy's inequality, octave by octave.
template <class Moments>
RIBS_HD double clipped(const Moments& m, Side side, double t, double extent) {
    double total = 0.0;
    Passed here = m.template passed<false>(side, t);
    for (double low = t, high = t > 0.0 ? 2.0 * t : extent * 0x1p-10; low < extent; low = high, high *= 2.0) {
        const Passed above = high < extent ? m.template passed<false>(side, high) : Passed{0.0, 0.0, 0.0};
        const double count = here.count - above.count, over = here.sum - above.sum - t * count;
        if (count > 0.0 && over > 0.0) total += over * over / count;
        here = above;
    }
    return total;
}

/// What the window of codes [-zero_point, levels - 1 - zero_point] clips away at least, at all steps up to
/// `step`.
template <class Moments>
RIBS_HD double window_clips(const Moments& m, Codes codes, int32_t zero_point, double step) {
    return clipped(m, Side::positive, (codes.levels - 1 - zero_point) * step, m.all.up()) +
           clipped(m, Side::negative, zero_point * step, m.all.down());
}

/// The zero points whose windows could clip away the least.
RIBS_HD ZeroPoints clipping_windows(const Totals& all, Codes codes) {
    int32_t first = 0, last = codes.levels - 1;  // one-sided data wants all codes on its side
    if (all.up() == 0.0) first = last;
    if (all.down() == 0.0) last = first;
    return {first, last};
}

/// What symmetric codes clip away at least, at all steps up to `step`: both sides reach to the lowest code at
/// most.
template <class Moments>
RIBS_HD double symmetric_clips(const Moments& m, Codes codes, double step) {
    return clipped(m, Side::both, codes.levels / 2 * step, m.all.largest());
}

/// Whether no step below `step` can beat `error`, by what the windows clip away.
template <class Moments>
RIBS_HD bool exhausted(const Moments& m, Codes codes, double step, double error) {
    if (codes.symmetric) return symmetric_clips(m, codes, step) >= error;
    const ZeroPoints windows = clipping_windows(m.all, codes);
    for (int32_t z = windows.first; z <= windows.last; ++z)
        if (window_clips(m, codes, z, step) < error) return false;
    return true;
}

/// The quantizer that gives up: all codes zero.
RIBS_HD Candidate zero_candidate(const Totals& all) {
    return {all.square, float_step(2.0 * all.largest()), 0, 0};
}

/// Whether no code but zero can serve the data: -1 and 0 for values that are not negative.
RIBS_HD bool only_zero(const Totals& all, Codes codes) {
    return codes.symmetric && codes.levels == 2 && all.down() == 0.0;
}

/// The answer for data that is one value: that value itself is the step, and 1 when it is zero.
RIBS_HD Candidate constant_candidate(const Totals& all, Codes codes) {
    const double value = all.minimum;
    if (value == 0.0) return {0.0, 1.0, 0, 0};
    const double step = float_step(fabs(value));
    const bool reachable = !codes.symmetric || value < 0.0 || codes.levels > 2;
    const double code = reachable ? rint(value / step) : 0.0;
    const double rest = value - code * step;
    return {rest * rest * all.count, step, !codes.symmetric && value < 0.0 ? 1 : 0, 0};
}

}  // namespace ribs
