#include <algorithm>
#include <vector>

#include "core/quantize.h"
#include "cpu/parallel.h"
#include "cpu/stream.h"
#include "ops.h"

// Memory is [outer, channels, inner]. Long rows are taken in pieces, each with one quantizer. Rows shorter
// than kNarrow, as in channels-last memory, are taken as columns instead: [outer, channels * inner] with a
// quantizer for each column, and several short lines folded into one.

namespace ribs::cpu {
namespace {

constexpr int64_t kNarrow = 32;
constexpr int64_t kColumns = 512;    // at a time: their quantizers and sums stay in L1 beside the data
constexpr int64_t kTask = 1 << 16;   // elements
constexpr int64_t kShare = 1 << 18;  // elements; to start a thread takes as long as about 100 000 of them
constexpr int kLanes = 16;           // fix the order of sums, and fill vectors of any width

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

/// Quantizers of neighbouring columns, an array for each field so that loops over columns vectorise.
struct Columns {
    float step[kColumns], low[kColumns], high[kColumns];
};

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

template <class Params>
Quantizer quantizer(const Params& p, int64_t c) {
    return make_quantizer(p.step[c], p.zero_point[c], p.qmin, p.qmax);
}

/// Blocks of a row.
int64_t blocks_of(int64_t inner) {
    return (inner + kBlock - 1) / kBlock;
}

/// Calls body(writer, channel, piece, at, count) for every piece of a row: `piece` numbers them, `at` is the
/// place of its first element.
template <class Params, class Body>
void for_rows(const Params& p, int threads, bool in_place, const Body& body) {
    const int64_t rows = p.outer * p.channels, segments = blocks_of(p.inner);
    const int64_t pieces = rows * segments, batch = kTask / std::min(p.inner, kBlock);
    parallel_for(
        (pieces + batch - 1) / batch, shared_by(threads, rows * p.inner, kShare), [&](int, int64_t task) {
            BlockWriter writer(rows * p.inner, in_place);
            for (int64_t piece = task * batch; piece < std::min((task + 1) * batch, pieces); ++piece) {
                const int64_t row = piece / segments, offset = piece % segments * kBlock;
                body(writer, row % p.channels, piece, row * p.inner + offset,
                     std::min(kBlock, p.inner - offset));
            }
        });
}

/// How columns are cut: `period` columns make a line of memory; a task takes `block` columns of some lines.
struct ColumnPlan {
    int64_t channels, inner, total, period, lines, block, blocks, group, groups;

    template <class Params>
    explicit ColumnPlan(const Params& p)
        : channels(p.channels), inner(p.inner), total(p.outer * p.channels * p.inner) {
        const int64_t width = channels * inner;
        period = width * std::clamp<int64_t>(kColumns / width, 1, p.outer);
        lines = (total + period - 1) / period;
        block = std::min(period, kColumns / inner * inner);  // whole channels
        blocks = (period + block - 1) / block;
        group = kTask / block;
        groups = (lines + group - 1) / group;
    }

    /// Calls body(column, channel) for `count` columns from `first` on, where a channel begins.
    template <class Body>
    void for_channels(int64_t first, int64_t count, const Body& body) const {
        int64_t channel = first / inner % channels;
        for (int64_t c = 0; c < count; c += inner) {
            for (int64_t k = 0; k < inner; ++k) body(c + k, channel);
            if (++channel == channels) channel = 0;
        }
    }

    /// Calls body(at, count) for the lines of a group, cut to a block of columns.
    template <class Body>
    void for_lines(int64_t group_index, int64_t first, int64_t count, const Body& body) const {
        const int64_t end = std::min((group_index + 1) * group, lines);
        for (int64_t line = group_index * group; line < end; ++line) {
            const int64_t at = line * period + first;
            if (at < total) body(at, std::min(count, total - at));
        }
    }
};

/// Calls body(columns, group, first, count) for every group of lines and block of columns.
template <class Params, class Body>
void for_columns(const Params& p, const ColumnPlan& plan, int threads, const Body& body) {
    parallel_for(plan.groups * plan.blocks, shared_by(threads, plan.total, kShare), [&](int, int64_t task) {
        const int64_t first = task % plan.blocks * plan.block,
                      count = std::min(plan.block, plan.period - first);
        Columns q;
        plan.for_channels(first, count, [&](int64_t c, int64_t channel) {
            const Quantizer one = quantizer(p, channel);
            q.step[c] = one.step, q.low[c] = one.low, q.high[c] = one.high;
        });
        body(q, task / plan.blocks, first, count);
    });
}

/// Adds partial sums [n, channels] up in order, so that threads do not matter.
void sum_partials(const std::vector<double>& partials, int64_t channels, float* grad_step) {
    std::vector<double> sums(partials.cbegin(), partials.cbegin() + channels);
    size_t c = 0;
    for (auto partial = partials.cbegin() + channels; partial != partials.cend(); ++partial) {
        sums[c] += *partial;
        if (++c == sums.size()) c = 0;
    }
    std::transform(sums.cbegin(), sums.cend(), grad_step, [](double sum) { return static_cast<float>(sum); });
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
    for_rows(p, threads, a.in_place,
             [&](BlockWriter& writer, int64_t c, int64_t piece, int64_t at, int64_t n) {
                 // Transposed to [outer, segments, channels].
                 const int64_t row = piece / segments, segment = piece % segments;
                 partials[static_cast<size_t>((row / p.channels * segments + segment) * p.channels + c)] =
                     backward_row(a.grad + at, a.x + at, writer.place(a.grad_x + at), n, quantizer(p, c));
                 writer.write(a.grad_x + at, n);
             });
    sum_partials(partials, p.channels, p.grad_step);
}

void backward_columns(const FakeQuantizeBackwardParams& p, int threads) {
    const Gradients a(p);
    const ColumnPlan plan(p);
    std::vector<double> partials(static_cast<size_t>(plan.groups * p.channels));
    for_columns(p, plan, threads, [&](const Columns& q, int64_t group, int64_t first, int64_t count) {
        BlockWriter writer(plan.total, a.in_place);
        double sums[kColumns];
        std::fill_n(sums, count, 0.0);
        plan.for_lines(group, first, count, [&](int64_t at, int64_t n) {
            backward_line(a.grad + at, a.x + at, writer.place(a.grad_x + at), q, sums, n);
            writer.write(a.grad_x + at, n);
        });
        double* partial = partials.data() + group * p.channels;
        plan.for_channels(first, count, [&](int64_t c, int64_t channel) { partial[channel] += sums[c]; });
    });
    sum_partials(partials, p.channels, p.grad_step);
}

}  // namespace

void fake_quantize(const FakeQuantizeParams& p, int threads) {
    const auto* x = static_cast<const float*>(p.x);
    auto* out = static_cast<float*>(p.out);
    const bool in_place = out == x;
    if (p.channels == 1 || p.inner >= kNarrow) {
        for_rows(p, threads, in_place, [&](BlockWriter& writer, int64_t c, int64_t, int64_t at, int64_t n) {
            quantize_row(x + at, writer.place(out + at), n, quantizer(p, c));
            writer.write(out + at, n);
        });
        return;
    }
    const ColumnPlan plan(p);
    for_columns(p, plan, threads, [&](const Columns& q, int64_t group, int64_t first, int64_t count) {
        BlockWriter writer(plan.total, in_place);
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
