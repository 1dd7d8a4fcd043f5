#include <algorithm>
#include <numeric>
#include <vector>

#include "core/quantize.h"
#include "cpu/channels.h"
#include "cpu/parallel.h"
#include "cpu/stream.h"
#include "ops.h"

namespace ribs::cpu {
namespace {

constexpr int kLanes = 16;  // fix the order of sums, and fill vectors of any width

RIBS_CLONES
void quantize_row(const float* __restrict x, float* __restrict out, int64_t count, Quantizer q) {
    for (int64_t i = 0; i < count; ++i) out[i] = fake_quantize(x[i], q);
}

/// Writes the gradient of x and returns the sum of the step gradient, whose products are exact in double.
RIBS_CLONES
double backward_row(const float* __restrict grad, const float* __restrict x, float* __restrict grad_x,
                    int64_t count, Quantizer q) {
    double lanes[kLanes] = {};
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) {
        for (int lane = 0; lane < kLanes; ++lane) {
            const LsqGradient g = lsq_gradient(grad[i + lane], x[i + lane], q);
            grad_x[i + lane] = g.x;
            lanes[lane] += static_cast<double>(grad[i + lane]) * static_cast<double>(g.step);
        }
    }
    for (int lane = 0; i < count; ++i, ++lane) {
        const LsqGradient g = lsq_gradient(grad[i], x[i], q);
        grad_x[i] = g.x;
        lanes[lane] += static_cast<double>(grad[i]) * static_cast<double>(g.step);
    }
    for (int width = kLanes / 2; width > 0; width /= 2)
        for (int lane = 0; lane < width; ++lane) lanes[lane] += lanes[lane + width];
    return lanes[0];
}

RIBS_CLONES
void quantize_line(const float* __restrict x, float* __restrict out, const Columns& q, int64_t count) {
    for (int64_t c = 0; c < count; ++c) {
        const Quantizer one{q.step[c], q.low[c], q.high[c]};
        out[c] = fake_quantize(x[c], one);
    }
}

RIBS_CLONES
void backward_line(const float* __restrict grad, const float* __restrict x, float* __restrict grad_x,
                   const Columns& q, double* __restrict sums, int64_t count) {
    for (int64_t c = 0; c < count; ++c) {
        const LsqGradient g = lsq_gradient(grad[c], x[c], {q.step[c], q.low[c], q.high[c]});
        grad_x[c] = g.x;
        sums[c] += static_cast<double>(grad[c]) * static_cast<double>(g.step);
    }
}

/// Adds partial sums [n, channels] up in order, so that threads do not matter.
void sum_partials(const std::vector<double>& partials, const FakeQuantizeBackwardParams& p) {
    std::vector<double> sums(partials.cbegin(), partials.cbegin() + p.channels);
    size_t c = 0;
    for (auto partial = partials.cbegin() + p.channels; partial != partials.cend(); ++partial) {
        sums[c] += *partial;
        if (++c == sums.size()) c = 0;
    }
    if (p.learned.one_step) sums = {std::accumulate(sums.cbegin(), sums.cend(), 0.0)};
    std::transform(sums.cbegin(), sums.cend(), p.grad_step,
                   [&](double sum) { return static_cast<float>(sum * p.scale); });
}

/// The arrays of a backward pass.
struct Gradients {
    explicit Gradients(const FakeQuantizeBackwardParams& p)
        : grad(static_cast<const float*>(p.grad)),
          x(static_cast<const float*>(p.x)),
          grad_x(static_cast<float*>(p.grad_x)),
          in_place(grad_x == x || grad_x == grad) {}

    const float* grad;
    const float* x;
    float* grad_x;
    bool in_place;
};

void backward_rows(const FakeQuantizeBackwardParams& p, int threads) {
    const Gradients a(p);
    const int64_t segments = blocks_of(p.inner);
    std::vector<double> partials(static_cast<size_t>(p.outer * p.channels * segments));
    for_rows<float>(
        p, threads, a.in_place,
        [&](BlockWriter<float>& writer, int64_t c, int64_t piece, int64_t at, int64_t n) {
            // Transposed to [outer, segments, channels].
            const int64_t row = piece / segments, segment = piece % segments;
            partials[static_cast<size_t>((row / p.channels * segments + segment) * p.channels + c)] =
                backward_row(a.grad + at, a.x + at, writer.place(a.grad_x + at), n, quantizer(p, c));
            writer.write(a.grad_x + at, n);
        });
    sum_partials(partials, p);
}

void backward_columns(const FakeQuantizeBackwardParams& p, int threads) {
    const Gradients a(p);
    const ColumnPlan plan(p);
    std::vector<double> partials(static_cast<size_t>(plan.groups * p.channels));
    for_columns(p, plan, threads, [&](const Columns& q, int64_t group, int64_t first, int64_t count) {
        BlockWriter<float> writer(plan.total, a.in_place);
        double sums[kColumns];
        std::fill_n(sums, count, 0.0);
        plan.for_lines(group, first, count, [&](int64_t at, int64_t n) {
            backward_line(a.grad + at, a.x + at, writer.place(a.grad_x + at), q, sums, n);
            writer.write(a.grad_x + at, n);
        });
        double* partial = partials.data() + group * p.channels;
        plan.for_channels(first, count, [&](int64_t c, int64_t channel) { partial[channel] += sums[c]; });
    });
    sum_partials(partials, p);
}

}  // namespace

void fake_quantize(const FakeQuantizeParams& p, int threads) {
    const auto* x = static_cast<const float*>(p.x);
    auto* out = static_cast<float*>(p.out);
    const bool in_place = out == x;
    if (p.channels == 1 || p.inner >= kNarrow) {
        for_rows<float>(p, threads, in_place,
                        [&](BlockWriter<float>& writer, int64_t c, int64_t, int64_t at, int64_t n) {
                            quantize_row(x + at, writer.place(out + at), n, quantizer(p, c));
                            writer.write(out + at, n);
                        });
        return;
    }
    const ColumnPlan plan(p);
    for_columns(p, plan, threads, [&](const Columns& q, int64_t group, int64_t first, int64_t count) {
        BlockWriter<float> writer(plan.total, in_place);
        plan.for_lines(group, first, count, [&](int64_t at, int64_t n) {
            quantize_line(x + at, writer.place(out + at), q, n);
            writer.write(out + at, n);
        });
    });
}

void fake_quantize_backward(const FakeQuantizeBackwardParams& p, int threads) {
    if (p.channels == 1 || p.inner >= kNarrow)
        backward_rows(p, threads);
    else
        backward_columns(p, threads);
}

}  // namespace ribs::cpu
