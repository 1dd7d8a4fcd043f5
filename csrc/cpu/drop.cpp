#include "core/drop.h"

#include <numeric>
#include <vector>

#include "cpu/channels.h"
#include "ops.h"

namespace ribs::cpu {
namespace {

constexpr int kLanes = 16;  // fix the order of sums, and fill vectors of any width

/// Places of a block: a block never crosses a multiple of 2^32.
struct Places {
    explicit Places(int64_t at) : low(static_cast<uint32_t>(at)), high(static_cast<uint32_t>(at >> 32)) {}
    uint32_t low, high;
};

RIBS_CLONES
void forward_block(const float* __restrict x, float* __restrict out, int64_t count, Places at, Chance chance,
                   Quantizer q) {
    for (int64_t i = 0; i < count; ++i) {
        const bool kept = is_kept(at.low + static_cast<uint32_t>(i), at.high, chance);
        out[i] = kept ? fake_quantize(x[i], q) : x[i];
    }
}

/// Writes the gradient of x and returns the sum of the step gradient, whose products are exact in double.
RIBS_CLONES
double backward_block(const float* __restrict grad, const float* __restrict x, float* __restrict grad_x,
                      int64_t count, Places at, Chance chance, Quantizer q) {
    double lanes[kLanes] = {};
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) {
        for (int lane = 0; lane < kLanes; ++lane) {
            const int64_t k = i + lane;
            const bool kept = is_kept(at.low + static_cast<uint32_t>(k), at.high, chance);
            const LsqGradient g = drop_gradient(grad[k], x[k], kept, q);
            grad_x[k] = g.x;
            lanes[lane] += static_cast<double>(grad[k]) * static_cast<double>(g.step);
        }
    }
    for (int lane = 0; i < count; ++i, ++lane) {
        const bool kept = is_kept(at.low + static_cast<uint32_t>(i), at.high, chance);
        const LsqGradient g = drop_gradient(grad[i], x[i], kept, q);
        grad_x[i] = g.x;
        lanes[lane] += static_cast<double>(grad[i]) * static_cast<double>(g.step);
    }
    return std::accumulate(lanes, lanes + kLanes, 0.0);
}

template <class Params>
Chance chance(const Params& p) {
    return chance_of(*p.seed, p.kept);
}

}  // namespace

void drop(const DropParams& p, int threads) {
    for_rows<float>(
        p, threads, false, [&](BlockWriter<float>& writer, int64_t, int64_t, int64_t at, int64_t n) {
            forward_block(p.x + at, writer.place(p.out + at), n, Places(at), chance(p), quantizer(p, 0));
            writer.write(p.out + at, n);
        });
}

void drop_backward(const DropBackwardParams& p, int threads) {
    std::vector<double> partials(static_cast<size_t>(blocks_of(p.inner)));
    for_rows<float>(p, threads, false,
                    [&](BlockWriter<float>& writer, int64_t, int64_t piece, int64_t at, int64_t n) {
                        partials[static_cast<size_t>(piece)] =
                            backward_block(p.grad + at, p.x + at, writer.place(p.grad_x + at), n, Places(at),
                                           chance(p), quantizer(p, 0));
                        writer.write(p.grad_x + at, n);
                    });
    *p.grad_step = static_cast<float>(std::accumulate(partials.cbegin(), partials.cend(), 0.0));
}

}  // namespace ribs::cpu
