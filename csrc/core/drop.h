#pragma once

#include <cstdint>

#include "core/macros.h"
#include "core/quantize.h"

// QDrop (Wei et al., 2022): each value is quantized with some probability, and left as it is otherwise. Which
// of them are is a function of their place in memory and of a seed, so that a backward pass needs no mask.

namespace ribs {

/// Two words that follow from a seed, and the probability in parts of 2^24.
struct Chance {
    uint32_t first, second;
    int32_t kept;
};

/// Neighbouring seeds have nothing in common (SplitMix64; Steele, Lea and Flood, 2014).
RIBS_HD Chance chance_of(int64_t seed, int32_t kept) {
    uint64_t x = static_cast<uint64_t>(seed) + 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    x ^= x >> 31;
    return {static_cast<uint32_t>(x), static_cast<uint32_t>(x >> 32), kept};
}

/// Spreads the bits of a number over all of them (the multipliers are those of Wellons' lowbias32).
RIBS_HD uint32_t spread(uint32_t x) {
    x = (x ^ (x >> 16)) * 0x7feb352du;
    x = (x ^ (x >> 15)) * 0x846ca68bu;
    return x ^ (x >> 16);
}

/// Whether the value at a place in memory is quantized. low, high: the halves of the place's number.
RIBS_HD bool is_kept(uint32_t low, uint32_t high, const Chance& chance) {
    const uint32_t bits = spread(spread(low ^ chance.first) + high * 0x9e3779b9u + chance.second);
    return static_cast<int32_t>(bits >> 8) < chance.kept;
}

/// Gradients of a value that was quantized or not.
RIBS_HD LsqGradient drop_gradient(float grad, float x, bool kept, const Quantizer& q) {
    const LsqGradient quantized = lsq_gradient(grad, x, q);
    return {kept ? quantized.x : grad, kept ? quantized.step : 0.0f};
}

}  // namespace ribs
