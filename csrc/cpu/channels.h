#pragma once

#include <algorithm>
#include <cstdint>

#include "core/quantize.h"
#include "cpu/parallel.h"
#include "cpu/stream.h"
#include "ops.h"

// Memory is [outer, channels, inner]. Long rows are taken in pieces, each with one quantizer. Rows shorter
// than kNarrow, as in channels-last memory, are taken as columns instead: [outer, channels * inner] with a
// quantizer for each column, and several short lines folded into one.

namespace ribs::cpu {

constexpr int64_t kNarrow = 32;
constexpr int64_t kColumns = 512;    // at a time: their quantizers and sums stay in L1 beside the data
constexpr int64_t kTask = 1 << 16;   // elements
constexpr int64_t kShare = 1 << 18;  // elements; to start a thread takes as long as about 100 000 of them

/// Quantizers of neighbouring columns, an array for each field so that loops over columns vectorise.
struct Columns {
    float step[kColumns], low[kColumns], high[kColumns];
};

template <class Params>
Quantizer quantizer(const Params& p, int64_t c) {
    return make_quantizer(p.step[c], p.zero_point[c], p.qmin, p.qmax);
}
inline Quantizer quantizer(const FakeQuantizeParams& p, int64_t c) {
    return learned_quantizer(p, c);
}
inline Quantizer quantizer(const FakeQuantizeBackwardParams& p, int64_t c) {
    return learned_quantizer(p, c);
}

/// Blocks of a row.
inline int64_t blocks_of(int64_t inner) {
    return (inner + kBlock - 1) / kBlock;
}

/// Calls body(writer, channel, piece, at, count) for every piece of a row: `piece` numbers them, `at` is the
/// place of its first element.
template <class Out, class Params, class Body>
void for_rows(const Params& p, int threads, bool in_place, const Body& body) {
    const int64_t rows = p.outer * p.channels, segments = blocks_of(p.inner);
    const int64_t pieces = rows * segments, batch = kTask / std::min(p.inner, kBlock);
    parallel_for(
        (pieces + batch - 1) / batch, shared_by(threads, rows * p.inner, kShare), [&](int, int64_t task) {
            BlockWriter<Out> writer(rows * p.inner, in_place);
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

}  // namespace ribs::cpu
