#include "core/cost.h"
#include "cpu/parallel.h"
#include "ops.h"

namespace ribs::cpu {

void config_cost(const ConfigCostParams& p, int threads) {
    constexpr int64_t kBatch = 1024;
    parallel_for((p.configs + kBatch - 1) / kBatch, threads, [&](int, int64_t task) {
        for (int64_t c = task * kBatch; c < std::min((task + 1) * kBatch, p.configs); ++c) {
            const Cost cost = ribs::config_cost(p.bits + c * p.layers * 2, p.macs, p.weights, p.layers);
            p.bops[c] = cost.bops;
            p.weight_bits[c] = cost.weight_bits;
        }
    });
}

}  // namespace ribs::cpu
