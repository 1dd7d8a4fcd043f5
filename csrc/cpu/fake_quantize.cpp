#include <algorithm>
#include <vector>

#include "core/quantize.h"
#include "cpu/parallel.h"
#include "ops.h"

namespace ribs {

int64_t fake_quantize_partials(int64_t outer, int64_t channels, int64_t inner) {
    return GradientPlan{outer, channels, inner}.partials();
}

namespace cpu {
namespace {

constexpr int64_t kChunk = 1 << 16;  // elements a task; a multiple keeps the thread start-up below 1 %

RIBS_CLONES
void quantize_run(const float* x, float* out, int64_t count, Quantizer q) {
    for (int64_t i = 0; i < count; ++i) out[i] = fake_quantize(x[i], q);
}

RIBS_CLONES
void quantize_columns(const float* x, float* out, const Quantizer* quantizers, int64_t channels) {
    for (int64_t c = 0; c < channels; ++c) out[c] = fake_quantize(x[c], quantizers[c]);
}

/// The step-gradient sum of a run, and its gradient of x. Eight lanes fix the order of the sum.
RIBS_CLONES
double backward_run(const float* grad, const float* x, float* grad_x, int64_t count, Quantizer q) {
    double lanes[8] = {};
    int64_t i = 0;
    for (; i + 8 <= count; i += 8) {
        for (int64_t lane = 0; lane < 8; ++lane) {
            const LsqGradient g = lsq_gradient(grad[i + lane], x[i + lane], q);
            grad_x[i + lane] = g.x;
            lanes[lane] += static_cast<double>(grad[i + lane]) * static_cast<double>(g.step);
        }
    }
    for (; i < count; ++i) {
        const LsqGradient g = lsq_gradient(grad[i], x[i], q);
        grad_x[i] = g.x;
        lanes[0] += static_cast<double>(grad[i]) * static_cast<double>(g.step);
    }
    return ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));
}

RIBS_CLONES
void backward_columns(const float* grad, const float* x, float* grad_x, const Quantizer* quantizers,
                      double* sums, int64_t channels) {
    for (int64_t c = 0; c < channels; ++c) {
        const LsqGradient g = lsq_gradient(grad[c], x[c], quantizers[c]);
        grad_x[c] = g.x;
        sums[c] += static_cast<double>(grad[c]) * static_cast<double>(g.step);
    }
}

template <class Params>
std::vector<Quantizer> quantizers(const Params& p) {
    std::vector<Quantizer> result(static_cast<size_t>(p.channels));
    for (int64_t c = 0; c < p.channels; ++c)
        result[static_cast<size_t>(c)] = make_quantizer(p.step[c], p.zero_point[c], p.qmin, p.qmax);
    return result;
}

/// One group of rows of a narrow tensor, summed by column.
void backward_group(const FakeQuantizeBackwardParams& p, const std::vector<Quantizer>& q, int64_t group) {
    double* sums = p.partials + group * p.channels;
    std::fill_n(sums, p.channels, 0.0);
    const int64_t last = std::min((group + 1) * GradientPlan::kRows, p.outer);
    for (int64_t row = group * GradientPlan::kRows; row < last; ++row) {
        const int64_t at = row * p.channels * p.inner;
        if (p.inner == 1) {
            backward_columns(p.grad + at, p.x + at, p.grad_x + at, q.data(), sums, p.channels);
            continue;
        }
        for (int64_t c = 0; c < p.channels; ++c) {
            const int64_t start = at + c * p.inner;
            sums[c] += backward_run(p.grad + start, p.x + start, p.grad_x + start, p.inner,
                                    q[static_cast<size_t>(c)]);
        }
    }
}

}  // namespace

void fake_quantize(const FakeQuantizeParams& p, int threads) {
    const std::vector<Quantizer> q = quantizers(p);
    const int64_t total = p.outer * p.channels * p.inner;
    if (p.inner == 1 && p.channels > 1) {
        const int64_t rows = std::max<int64_t>(1, kChunk / p.channels);
        parallel_for((p.outer + rows - 1) / rows, threads, [&](int, int64_t task) {
            for (int64_t row = task * rows; row < std::min((task + 1) * rows, p.outer); ++row)
                quantize_columns(p.x + row * p.channels, p.out + row * p.channels, q.data(), p.channels);
        });
        return;
    }
    parallel_for((total + kChunk - 1) / kChunk, threads, [&](int, int64_t task) {
        const int64_t end = std::min((task + 1) * kChunk, total);
        for (int64_t at = task * kChunk; at < end;) {
            const int64_t row = at / p.inner;
            const int64_t count = std::min((row + 1) * p.inner, end) - at;
            quantize_run(p.x + at, p.out + at, count, q[static_cast<size_t>(row % p.channels)]);
            at += count;
        }
    });
}

void fake_quantize_backward(const FakeQuantizeBackwardParams& p, int threads) {
    const GradientPlan plan{p.outer, p.channels, p.inner};
    const std::vector<Quantizer> q = quantizers(p);
    const int64_t segments = plan.segments(), groups = plan.groups();
    if (plan.narrow()) {
        parallel_for(groups, threads, [&](int, int64_t group) { backward_group(p, q, group); });
    } else {
        const int64_t pieces = plan.partials();
        const int64_t batch = std::max<int64_t>(1, kChunk / std::min(p.inner, GradientPlan::kSegment));
        parallel_for((pieces + batch - 1) / batch, threads, [&](int, int64_t task) {
            for (int64_t piece = task * batch; piece < std::min((task + 1) * batch, pieces); ++piece) {
                const int64_t row = piece / segments;
                const int64_t offset = piece % segments * GradientPlan::kSegment;
                const int64_t at = row * p.inner + offset;
                p.partials[piece] = backward_run(p.grad + at, p.x + at, p.grad_x + at,
                                                 std::min(GradientPlan::kSegment, p.inner - offset),
                                                 q[static_cast<size_t>(row % p.channels)]);
            }
        });
    }
    for (int64_t c = 0; c < p.channels; ++c) {
        double sum = 0.0;
        for (int64_t group = 0; group < groups; ++group)
            for (int64_t k = 0; k < segments; ++k) sum += p.partials[(group * p.channels + c) * segments + k];
        p.grad_step[c] = static_cast<float>(sum);
    }
}

}  // namespace cpu
}  // namespace ribs
