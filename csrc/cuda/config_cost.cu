#include "core/cost.h"
#include "cuda/launch.cuh"

namespace ribs::cuda {
namespace {

__global__ void config_cost_kernel(ConfigCostParams p) {
    const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
    for (int64_t c = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; c < p.configs;
         c += stride) {
        const Cost cost = ribs::config_cost(p.bits + c * p.layers * 2, p.macs, p.weights, p.layers);
        p.bops[c] = cost.bops;
        p.weight_bits[c] = cost.weight_bits;
    }
}

}  // namespace

void config_cost(const ConfigCostParams& p, Stream stream) {
    if (p.configs == 0) return;
    config_cost_kernel<<<blocks(p.configs, kThreads), kThreads, 0, handle(stream)>>>(p);
    check_launch("config_cost");
}

}  // namespace ribs::cuda
