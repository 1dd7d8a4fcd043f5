#include "core/levels.h"

#include <algorithm>
#include <vector>

#include "cpu/channels.h"
#include "cpu/parallel.h"
#include "cpu/stream.h"
#include "ops.h"

namespace ribs::cpu {
namespace {

constexpr int64_t kLanes = 64;    // values whose levels are searched side by side
constexpr int32_t kCounted = 16;  // levels up to which comparing with all thresholds beats a search
constexpr int64_t kCopies = 4;  // of each sum, so that neighbours in one interval do not wait for each other

template <class Params>
Levels levels_of(const Params& p) {
    Levels table;
    table.top = p.top;
    fill_levels(table, p.steps, p.log_sqrt2, 0, 1);
    fill_thresholds(table, p.steps, p.log_sqrt2, 0, 1);
    return table;
}

/// The indices of the levels of kLanes values.
RIBS_CLONES
void find_lanes(const float* __restrict x, int32_t* __restrict index, const Levels& table) {
    for (int64_t lane = 0; lane < kLanes; ++lane) index[lane] = 0;
    if (table.top <= kCounted) {
        for (int32_t i = 1; i <= table.top; ++i)
            for (int64_t lane = 0; lane < kLanes; ++lane) index[lane] += x[lane] >= table.threshold[i];
        return;
    }
    for (int32_t half = first_half(table.top); half > 0; half /= 2)
        for (int64_t lane = 0; lane < kLanes; ++lane)
            index[lane] += x[lane] >= table.threshold[index[lane] + half] ? half : 0;
}

/// The indices of the levels of a block.
void find(const float* x, int32_t* index, int64_t count, const Levels& table) {
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) find_lanes(x + i, index + i, table);
    for (const int32_t half = first_half(table.top); i < count; ++i)
        index[i] = level_index(x[i], table.threshold, half);
}

/// Calls body(task, at, count) for pieces of n elements that do not depend on the threads.
template <class Body>
void for_tasks(int64_t n, int threads, const Body& body) {
    parallel_for((n + kTask - 1) / kTask, shared_by(threads, n, kShare),
                 [&](int, int64_t task) { body(task, task * kTask, std::min(kTask, n - task * kTask)); });
}

}  // namespace

void fake_quantize_levels(const LevelsParams& p, int threads) {
    const auto* x = static_cast<const float*>(p.x);
    auto* out = static_cast<float*>(p.out);
    const Levels table = levels_of(p);
    for_tasks(p.n, threads, [&](int64_t, int64_t at, int64_t count) {
        BlockWriter<float> writer(p.n, false);
        int32_t index[kBlock];
        for (int64_t end = at + count; at < end; at += kBlock) {
            const int64_t n = std::min(kBlock, end - at);
            find(x + at, index, n, table);
            float* to = writer.place(out + at);
            for (int64_t i = 0; i < n; ++i) to[i] = level_value(x[at + i], table.level[index[i]]);
            writer.write(out + at, n);
        }
    });
}

void fake_quantize_levels_backward(const LevelsBackwardParams& p, int threads) {
    const auto* x = static_cast<const float*>(p.x);
    const auto* grad = static_cast<const float*>(p.grad);
    auto* grad_x = static_cast<float*>(p.grad_x);
    const Levels table = levels_of(p);
    const int64_t sums = p.top + 1;
    std::vector<double> partials(static_cast<size_t>((p.n + kTask - 1) / kTask * sums));
    for_tasks(p.n, threads, [&](int64_t task, int64_t at, int64_t count) {
        BlockWriter<float> writer(p.n, false);
        int32_t index[kBlock];
        double copies[kLevels][kCopies] = {};
        for (int64_t end = at + count; at < end; at += kBlock) {
            const int64_t n = std::min(kBlock, end - at);
            find(x + at, index, n, table);
            float* to = writer.place(grad_x + at);
            for (int64_t i = 0; i < n; ++i) {
                const LevelGradient g = level_gradient(grad[at + i], x[at + i], index[i], table);
                to[i] = g.x;
                copies[g.sum][i % kCopies] += g.share;
            }
            writer.write(grad_x + at, n);
        }
        for (int64_t i = 0; i < sums; ++i)
            partials[static_cast<size_t>(task * sums + i)] =
                (copies[i][0] + copies[i][1]) + (copies[i][2] + copies[i][3]);
    });
    std::fill_n(p.sums, sums, 0.0);
    for (size_t i = 0; i < partials.size(); ++i) p.sums[i % static_cast<size_t>(sums)] += partials[i];
}

}  // namespace ribs::cpu
