#pragma once

#include <cfloat>
#include <cmath>
#include <cstdint>

#include "core/macros.h"
#include "core/moments.h"

// The squared error of a quantizer with codes [-z, h] around zero is
//   SSE(s) = sum x^2 - 2 s A + s^2 B,   A = sum x q,   B = sum q^2,
// and both sums are sums over the thresholds t = (k + 1/2) s that an element has passed: each passed
// threshold adds x to A and 2k + 1 to B. So running sums over the positive and the negative thresholds give
// every window of codes, hence every bit-width and every zero point, in O(1).

namespace ribs {

constexpr int kMaxLevels = 256;

/// A quantizer with its squared error; `index` is the place of the candidate on the step grid.
struct Candidate {
    double error;
    double step;
    int32_t zero_point;
    int32_t index;
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
};

/// The sums A and B over the first k thresholds of one side.
struct CodeSums {
    double product;
    double square;
};

/// Candidates lie on s = 2^(index / 1024), built from constants so that every device has the same ones.
RIBS_HD double grid_step(int32_t index) {
    const double sixteenth[16] = {1.0,
                                  0x1.0b5586cf9890fp+0,
                                  0x1.172b83c7d517bp+0,
                                  0x1.2387a6e756238p+0,
                                  0x1.306fe0a31b715p+0,
                                  0x1.3dea64c123422p+0,
                                  0x1.4bfdad5362a27p+0,
                                  0x1.5ab07dd485429p+0,
                                  0x1.6a09e667f3bcdp+0,
                                  0x1.7a11473eb0187p+0,
                                  0x1.8ace5422aa0dbp+0,
                                  0x1.9c49182a3f090p+0,
                                  0x1.ae89f995ad3adp+0,
                                  0x1.c199bdd85529cp+0,
                                  0x1.d5818dcfba487p+0,
                                  0x1.ea4afa2a490dap+0};
    const double fine[8] = {1.0,
                            0x1.0163da9fb3335p+0,
                            0x1.02c9a3e778061p+0,
                            0x1.04315e86e7f85p+0,
                            0x1.059b0d3158574p+0,
                            0x1.0706b29ddf6dep+0,
                            0x1.0874518759bc8p+0,
                            0x1.09e3ecac6f383p+0};
    const double finest[8] = {1.0,
                              0x1.002c605e2e8cfp+0,
                              0x1.0058c86da1c0ap+0,
                              0x1.0085382faef83p+0,
                              0x1.00b1afa5abcbfp+0,
                              0x1.00de2ed0ee0f5p+0,
                              0x1.010ab5b2cbd11p+0,
                              0x1.0137444c9b5b5p+0};
    const int32_t octave = index >> 10;
    const double mantissa = sixteenth[(index >> 6) & 15] * fine[(index >> 3) & 7] * finest[index & 7];
    return ldexp(mantissa, octave);
}

constexpr int32_t kCoarse = 64;                       ///< sixteen candidates an octave
constexpr int32_t kSmallestIndex = -126 * 1024;       ///< 2^-126, the smallest normal float
constexpr int32_t kLargestIndex = 127 * 1024 + 1023;  ///< just below 2^128

/// The first coarse candidate: above it all codes are zero.
RIBS_HD int32_t top_index(const Totals& all) {
    const double largest = fmax(fabs(all.minimum), fabs(all.maximum));
    int exponent = 0;
    frexp(largest, &exponent);
    const int32_t index = (exponent + 1) * 1024;
    if (index > kLargestIndex) return kLargestIndex & ~(kCoarse - 1);
    return index < kSmallestIndex ? kSmallestIndex : index;
}

/// Rounds a step to a float that is neither denormal nor infinite.
RIBS_HD double float_step(double step) {
    if (!(step >= FLT_MIN)) return FLT_MIN;
    if (step >= FLT_MAX) return FLT_MAX;
    return static_cast<double>(static_cast<float>(step));
}

/// Threshold k on the positive side.
RIBS_HD double threshold(int32_t k, double step) {
    return (k + 0.5) * step;
}

/// What threshold k adds to the sums of the positive side.
template <class Moments>
RIBS_HD CodeSums passed_above(const Moments& m, int32_t k, double step) {
    const Tail tail = m.above(threshold(k, step));
    return {tail.sum, (2 * k + 1) * tail.count};
}

/// What threshold k adds to the sums of the negative side.
template <class Moments>
RIBS_HD CodeSums passed_below(const Moments& m, int32_t k, double step) {
    const Tail tail = m.above(-threshold(k, step));
    return {tail.sum - m.all.sum, (2 * k + 1) * (m.all.count - tail.count)};
}

RIBS_HD CodeSums plus(const CodeSums& a, const CodeSums& b) {
    return {a.product + b.product, a.square + b.square};
}

/// How many thresholds of one side lie inside the data, at most `most`.
RIBS_HD int32_t thresholds_inside(double extent, double step, int32_t most) {
    const double inside = ceil(extent / step - 0.5);
    if (!(inside > 0.0)) return 0;
    return inside >= most ? most : static_cast<int32_t>(inside);
}

/// Running sums of both sides for one step; entry k covers k thresholds.
struct SideSums {
    CodeSums* positive;
    CodeSums* negative;
    int32_t positives;
    int32_t negatives;
};

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

/// The window of codes [-zero_point, levels - 1 - zero_point] at a step, with the step then moved to the
/// optimum A / B of its codes. That can only help, since at the new step the nearest codes are no worse.
RIBS_HD Candidate window_candidate(const SideSums& sums, Codes codes, int32_t zero_point, double square,
                                   double step, int32_t index) {
    const int32_t high = codes.levels - 1 - zero_point;
    const CodeSums p = sums.positive[high < sums.positives ? high : sums.positives];
    const CodeSums n = sums.negative[zero_point < sums.negatives ? zero_point : sums.negatives];
    const double product = p.product + n.product, squares = p.square + n.square;
    const double best = squares > 0.0 && product > 0.0 ? float_step(product / squares) : step;
    const double error = square - best * (2.0 * product - best * squares);
    return {error, best, codes.symmetric ? 0 : zero_point, index};
}

/// A lower bound of the error of every step up to `step`: what its widest windows clip away.
template <class Moments>
RIBS_HD double clipping_bound(const Moments& m, Codes codes, int32_t zero_point, double step) {
    const double high = (codes.levels - 1 - zero_point) * step, low = -zero_point * step;
    return fmax(m.clipped_above(high), 0.0) + fmax(m.clipped_below(low), 0.0);
}

/// Whether no step below `step` can beat `error`.
template <class Moments>
RIBS_HD bool exhausted(const Moments& m, Codes codes, double step, double error) {
    if (codes.symmetric) return clipping_bound(m, codes, codes.levels / 2, step) >= error;
    for (int32_t z = 0; z < codes.levels; ++z)
        if (clipping_bound(m, codes, z, step) < error) return false;
    return true;
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
