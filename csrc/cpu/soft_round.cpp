#include "core/soft_round.h"

#include <numeric>
#include <vector>

#include "cpu/channels.h"
#include "ops.h"

namespace ribs::cpu {
namespace {

constexpr int kLanes = 16;  // fix the order of sums, and fill vectors of any width

RIBS_CLONES
void values_row(const float* __restrict weight, const float* __restrict alpha, float* __restrict out,
                int64_t count, Quantizer q) {
    for (int64_t i = 0; i < count; ++i) out[i] = soft_value(weight[i], upward(alpha[i]).h, q);
}

/// Writes the values and returns the sum of the penalties.
RIBS_CLONES
double penalised_row(const float* __restrict weight, const float* __restrict alpha, float* __restrict out,
                     int64_t count, Quantizer q, float beta) {
    double lanes[kLanes] = {};
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) {
        for (int lane = 0; lane < kLanes; ++lane) {
            const float h = upward(alpha[i + lane]).h;
            out[i + lane] = soft_value(weight[i + lane], h, q);
            lanes[lane] += static_cast<double>(rounding_penalty(h, beta));
        }
    }
    for (int lane = 0; i < count; ++i, ++lane) {
        const float h = upward(alpha[i]).h;
        out[i] = soft_value(weight[i], h, q);
        lanes[lane] += static_cast<double>(rounding_penalty(h, beta));
    }
    return std::accumulate(lanes, lanes + kLanes, 0.0);
}

RIBS_CLONES
void gradient_row(const float* __restrict grad, const float* __restrict weight, const float* __restrict alpha,
                  float* __restrict grad_alpha, int64_t count, Quantizer q, float grad_penalty, float beta) {
    if (beta > 0.0f)
        for (int64_t i = 0; i < count; ++i)
            grad_alpha[i] = soft_round_gradient(grad[i], grad_penalty, weight[i], alpha[i], q, beta);
    else
        for (int64_t i = 0; i < count; ++i)
            grad_alpha[i] = soft_round_gradient(grad[i], 0.0f, weight[i], alpha[i], q, 0.0f);
}

}  // namespace

void soft_round(const SoftRoundParams& p, int threads) {
    const int64_t pieces = p.outer * p.channels * blocks_of(p.inner);
    const float beta = *p.beta;
    std::vector<double> partials(static_cast<size_t>(pieces));
    for_rows<float>(p, threads, false,
                    [&](BlockWriter<float>& writer, int64_t c, int64_t piece, int64_t at, int64_t n) {
                        float* out = writer.place(p.out + at);
                        if (beta > 0.0f)
                            partials[static_cast<size_t>(piece)] =
                                penalised_row(p.weight + at, p.alpha + at, out, n, quantizer(p, c), beta);
                        else
                            values_row(p.weight + at, p.alpha + at, out, n, quantizer(p, c));
                        writer.write(p.out + at, n);
                    });
    *p.penalty = static_cast<float>(std::accumulate(partials.cbegin(), partials.cend(), 0.0));
}

void soft_round_backward(const SoftRoundBackwardParams& p, int threads) {
    for_rows<float>(
        p, threads, false, [&](BlockWriter<float>& writer, int64_t c, int64_t, int64_t at, int64_t n) {
            gradient_row(p.grad + at, p.weight + at, p.alpha + at, writer.place(p.grad_alpha + at), n,
                         quantizer(p, c), *p.grad_penalty, *p.beta);
            writer.write(p.grad_alpha + at, n);
        });
}

}  // namespace ribs::cpu
