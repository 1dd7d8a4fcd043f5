#pragma once

#include <cstdint>

#include "core/macros.h"

namespace ribs {

/// What one configuration costs.
struct Cost {
    int64_t bops;
    int64_t weight_bits;
};

/// Adds up a configuration: bits is [layers, 2] of (weight bits, activation bits).
RIBS_HD Cost config_cost(const int64_t* bits, const int64_t* macs, const int64_t* weights, int64_t layers) {
    Cost total = {0, 0};
    for (int64_t layer = 0; layer < layers; ++layer) {
        const int64_t weight = bits[2 * layer];
        total.bops += macs[layer] * weight * bits[2 * layer + 1];
        total.weight_bits += weights[layer] * weight;
    }
    return total;
}

}  // namespace ribs
