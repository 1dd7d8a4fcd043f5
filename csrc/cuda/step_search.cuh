#pragma once

#include <cfloat>

#include "core/row_error.h"
#include "core/short_rows.h"
#include "cuda/search_workspace.cuh"

// The search itself: a block for every row and bit-width, and in it a team of threads for every step that is
// tried, a thread for every lane of its sums. The steps are those of the CPU, in batches that do not depend
// on each other's answers, so the answers are the same bits.

namespace ribs::cuda {
namespace {

constexpr int kWarp = 32;
constexpr int kTeams = 64;  ///< the most of a block
constexpr int kSearchThreads = kTeams * kLanes;
constexpr int kRowThreads = 16 * kLanes;  ///< of blocks for short searches, of which there are many
static_assert(kWarp % kLanes == 0, "a team is within a warp");

/// What the threads of a search share.
struct Shared {
    Candidate best[kTeams];
    double lower[kTeams], upper[kTeams], clips[kTeams];
    double lanes[kErrorLanes];
    int32_t count, stop;
};

/// The threads that evaluate a step together; all of them must, with the same arguments, and get the same
/// result.
struct Team {
    unsigned members;  ///< lanes of the warp
    int32_t lane;

    __device__ static Team own() {
        const unsigned first = threadIdx.x % kWarp / kLanes * kLanes;
        return {((1u << kLanes) - 1) << first, static_cast<int32_t>(threadIdx.x % kLanes)};
    }
    __device__ double from(double value, int32_t lane_) const {
        return __shfl_sync(members, value, lane_, kLanes);
    }
    __device__ int32_t from(int32_t value, int32_t lane_) const {
        return __shfl_sync(members, value, lane_, kLanes);
    }
    __device__ CodeSums from(const CodeSums& sums, int32_t lane_) const {
        return {from(sums.product, lane_), from(sums.square, lane_), from(sums.slack, lane_)};
    }
    __device__ Candidate from(const Candidate& c, int32_t lane_) const {
        return {from(c.error, lane_), from(c.step, lane_), from(c.zero_point, lane_), from(c.index, lane_)};
    }
    __device__ double least(double value) const {
        for (int32_t width = kLanes / 2; width > 0; width /= 2)
            value = smaller(value, from(value, lane ^ width));
        return value;
    }

    template <class Term>
    __device__ CodeSums total(int32_t count, const Term& term) const {
        CodeSums sums = {};
        for (int32_t k = lane; k < count; k += kLanes) sums = plus(sums, term(k));
        // The tree of lane_total: a sum of two is the same from either side.
        for (int32_t width = kLanes / 2; width > 0; width /= 2) sums = plus(sums, from(sums, lane ^ width));
        return sums;
    }
    template <class ChangeOf, class Evaluate>
    __device__ void walk(int32_t first, int32_t last, CodeSums sums, const ChangeOf& change,
                         const Evaluate& evaluate, Evaluation& result) const {
        for (int32_t start = first; start <= last; start += kLanes) {
            const int32_t z = start + lane;
            Change own = {};
            if (z <= last) own = change(z);
            CodeSums at = sums;
            for (int32_t i = 0; i < kLanes; ++i) {
                sums = plus(minus(sums, from(own.lost, i)), from(own.gained, i));
                if (i == lane) at = sums;
            }
            if (z <= last) merge(result, evaluate(at, z));
        }
        for (int32_t width = kLanes / 2; width > 0; width /= 2)
            merge(result, {from(result.best, lane ^ width), from(result.upper, lane ^ width),
                           from(result.lower, lane ^ width)});
    }
};

/// Combines a value of every team in a fixed tree; all threads get the result.
template <class T, class Combine>
__device__ T combined(const Team& team, T own, T* shared, const Combine& combine) {
    const unsigned place = threadIdx.x / kLanes;
    if (team.lane == 0) shared[place] = own;
    __syncthreads();
    for (unsigned width = blockDim.x / kLanes / 2; width > 0; width /= 2) {
        if (team.lane == 0 && place < width) shared[place] = combine(shared[place], shared[place + width]);
        __syncthreads();
    }
    const T result = shared[0];
    __syncthreads();
    return result;
}

__device__ Candidate best_of(const Team& team, Candidate own, Shared& shared) {
    return combined(team, own, shared.best,
                    [](const Candidate& a, const Candidate& b) { return better(b, a) ? b : a; });
}

__device__ double least_of(const Team& team, double own, double* shared) {
    return combined(team, own, shared, [](double a, double b) { return smaller(a, b); });
}

/// A search by one block.
template <class Moments, bool kSlack>
struct BlockSearch {
    const Moments& m;
    Codes codes;
    Shared& shared;
    Team team = Team::own();
    int32_t place = static_cast<int32_t>(threadIdx.x / kLanes);  ///< of the team
    int32_t teams = static_cast<int32_t>(blockDim.x / kLanes);
    Candidate best{};
    double lowest = DBL_MAX;

    __device__ Evaluation evaluate(int32_t index) const {
        return evaluate_step<kSlack>(m, codes, grid_step(index), index, team);
    }

    /// What any window clips away at least, as `exhausted` compares it.
    __device__ double clips(double step) const {
        if (codes.symmetric) return symmetric_clips(m, codes, step);
        const ZeroPoints windows = clipping_windows(m.all, codes);
        double least = DBL_MAX;
        for (int32_t z = windows.first + team.lane; z <= windows.last; z += kLanes)
            least = smaller(least, window_clips(m, codes, z, step));
        return team.least(least);
    }

    /// Tries a grid downwards until the clipping rules out the rest; writes its intervals when there is room.
    __device__ int32_t first_grid(int32_t start, int32_t spacing, Interval* intervals) {
        double above_lower = 0.0;  // of the last step of the round before
        for (int32_t from = 0;; from += teams) {
            const int32_t i = start - (from + place) * spacing;
            Evaluation e{};
            double clipping = 0.0;
            if (i >= kSmallestIndex) {
                e = evaluate(i);
                if ((from + place + 1) % kTurn == 0) clipping = clips(grid_step(i));
            }
            if (team.lane == 0) {
                shared.best[place] = e.best;
                shared.lower[place] = e.lower;
                shared.upper[place] = e.upper;
                shared.clips[place] = clipping;
            }
            __syncthreads();
            const double above = place > 0 ? shared.lower[place - 1] : above_lower;
            above_lower = shared.lower[teams - 1];
            __syncthreads();
            if (threadIdx.x == 0) {
                int32_t tried = 0;
                bool stop = false;
                for (; tried < teams && !stop; ++tried) {
                    const int32_t turn = from + tried + 1;
                    if (start - (from + tried) * spacing < kSmallestIndex) break;
                    if (turn == 1 || better(shared.best[tried], best)) best = shared.best[tried];
                    lowest = turn == 1 ? shared.lower[tried] : smaller(lowest, shared.lower[tried]);
                    stop = turn % kTurn == 0 && shared.clips[tried] >= best.error;
                }
                shared.count = tried;
                shared.stop = stop || start - (from + tried) * spacing < kSmallestIndex ? 1 : 0;
                shared.best[0] = best;
                shared.lower[0] = lowest;
            }
            __syncthreads();
            best = shared.best[0];
            lowest = shared.lower[0];
            const int32_t count = shared.count;
            const bool stop = shared.stop != 0;
            if (intervals != nullptr && team.lane == 0 && place < count && from + place > 0)
                intervals[from + place - 1] = {i, spacing, e.lower, e.upper, above};
            __syncthreads();
            if (stop) return from + count - 1;
        }
    }

    /// As StepSearch::swift of the CPU.
    __device__ void swift() {
        first_grid(swift_start(m.all, codes), kSwift, nullptr);
        for (int32_t stage = 0; stage < kStages; ++stage) {
            const Stage s = refinement(stage);
            const int32_t center = best.index, steps = 2 * (s.radius / s.spacing) + 1;
            const int32_t i = center - s.radius + place * s.spacing;
            const bool tried = place < steps && i >= kSmallestIndex && i != center;
            const Candidate own = tried ? evaluate(i).best : best;
            if (team.lane == 0) shared.best[place] = own;
            __syncthreads();
            // One after another: of steps with the same codes, hence the same candidate, the first one tried
            // is the center of the next stage.
            if (threadIdx.x == 0) {
                for (int32_t j = 0; j < steps; ++j)
                    if (better(shared.best[j], best)) best = shared.best[j];
                shared.best[0] = best;
            }
            __syncthreads();
            best = shared.best[0];
            __syncthreads();
        }
        polish();
    }

    /// As StepSearch::proven of the CPU; returns the lower bound. `open` has room for 2 * kOpen intervals.
    __device__ double proven(bool exact, Interval* open) {
        const double share = tolerance(codes, exact), slip = rounding(m.all.square);
        int32_t count = first_grid(top_index(m.all.largest()), kCoarse, open);
        Interval* next = open + kOpen;
        double closed = DBL_MAX;
        int32_t left = kEvaluations;
        while (count > 0) {
            const double goal = lowest - share * best.error - slip;
            Candidate own = best;
            double own_lowest = lowest, own_closed = closed;
            if (threadIdx.x == 0) shared.count = 0;
            __syncthreads();
            for (int32_t k = place; k < count; k += teams) {
                const Interval interval = open[k];
                const double bound = interval.bound(m.all.square);
                int32_t at = static_cast<int32_t>(kOpen);
                if (bound < goal && interval.width > 1 && left > 0) {
                    if (team.lane == 0) at = atomicAdd(&shared.count, 2);
                    at = team.from(at, 0);
                }
                if (at + 2 > static_cast<int32_t>(kOpen)) {
                    own_closed = smaller(own_closed, bound);
                    continue;
                }
                const int32_t half = interval.width / 2, middle = interval.index + half;
                const Evaluation e = evaluate(middle);
                if (better(e.best, own)) own = e.best;
                own_lowest = smaller(own_lowest, e.lower);
                if (team.lane == 0) {
                    next[at] = {interval.index, half, interval.lower_a, interval.upper_a, e.lower};
                    next[at + 1] = {middle, half, e.lower, e.upper, interval.lower_b};
                }
            }
            best = best_of(team, own, shared);
            lowest = least_of(team, own_lowest, shared.lower);
            closed = least_of(team, own_closed, shared.upper);
            count = shared.count < static_cast<int32_t>(kOpen) ? shared.count : static_cast<int32_t>(kOpen);
            left -= count / 2;
            Interval* const spent = open;
            open = next;
            next = spent;
            __syncthreads();
        }
        polish();
        return larger(0.0, smaller(smaller(lowest, closed), best.error) - slip);
    }

    /// By every team alike.
    __device__ void polish() {
        for (int32_t i = 0; i < kPolishes; ++i) {
            const Evaluation e = evaluate_step<kSlack>(m, codes, best.step, best.index, team);
            if (!better(e.best, best)) break;
            best = e.best;
        }
    }
};

/// The best codes of a short row: every thread tries some steps.
__device__ Candidate search_short(const float* x, const Totals& all, Codes codes, Shared& shared,
                                  ShortRow& row) {
    const int32_t n = static_cast<int32_t>(all.count), threads = static_cast<int32_t>(blockDim.x);
    for (int32_t i = static_cast<int32_t>(threadIdx.x); i < n; i += threads)
        row.values[i] = static_cast<double>(x[i]);
    if (threadIdx.x == 0) row.n = n;
    __syncthreads();
    Candidate best = zero_candidate(all);
    if (only_zero(all, codes)) return best;
    double most = 1.0 / smallest_step(all, codes, best.error);
    const auto attempt = [&](double inverse) {
        StepBatch<1> batch;
        batch.inverse[0] = inverse;
        if (inverse <= most && batch.improve(row, all, codes, best))
            most = 1.0 / smallest_step(all, codes, best.error);
    };
    if (tries_all(n, codes)) {
        for (int32_t place = static_cast<int32_t>(threadIdx.x); place < n * codes.levels; place += threads) {
            const int32_t i = place % n, k = place / n;
            if (k < breakpoints(row.values[i], codes))
                attempt((2 * k + 1) * inverse_breakpoint(row.values[i]));
        }
    } else {
        const int32_t start = swift_start(all, codes);
        for (int32_t place = static_cast<int32_t>(threadIdx.x);; place += threads) {
            const double inverse = inverse_grid_step(start, place, codes);
            if (!(inverse <= most)) break;
            attempt(inverse);
        }
    }
    const Team team = Team::own();
    for (int32_t width = kLanes / 2; width > 0; width /= 2) {
        const Candidate other = team.from(best, team.lane ^ width);
        if (better(other, best)) best = other;
    }
    return best_of(team, best, shared);
}

/// The squared error of a row, by the first warp; valid in thread 0.
__device__ double row_error(const float* x, int64_t n, const Quantizer& q, Shared& shared) {
    if (threadIdx.x < kErrorLanes) {
        double sum = 0.0;
        for (int64_t i = threadIdx.x; i < n; i += kErrorLanes) sum += squared_error(x[i], q);
        shared.lanes[threadIdx.x] = sum;
    }
    __syncthreads();
    for (int width = kErrorLanes / 2; width > 0; width /= 2) {
        if (static_cast<int>(threadIdx.x) < width)
            shared.lanes[threadIdx.x] += shared.lanes[threadIdx.x + width];
        __syncthreads();
    }
    return shared.lanes[0];
}

}  // namespace
}  // namespace ribs::cuda
