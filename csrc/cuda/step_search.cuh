#pragma once

#include <cfloat>

#include "core/row_error.h"
#include "core/short_rows.h"
#include "cuda/search_workspace.cuh"

// The search itself: a block for every row and bit-width, a thread for every step that is tried. The steps
// are those of the CPU, in batches that do not depend on each other's answers, so the answers are the same
// bits.

namespace ribs::cuda {
namespace {

constexpr int kWarp = 32;
constexpr int kSearchThreads = 128;

/// What the threads of a search share.
struct Shared {
    Candidate best[kSearchThreads];
    double lower[kSearchThreads], upper[kSearchThreads], closed[kSearchThreads];
    double lanes[kErrorLanes];
    int32_t count, stop;
};

/// Combines a value of every thread in a fixed tree; all threads get the result.
template <class T, class Combine>
__device__ T combined(T own, T* shared, const Combine& combine) {
    shared[threadIdx.x] = own;
    __syncthreads();
    for (unsigned width = blockDim.x / 2; width > 0; width /= 2) {
        if (threadIdx.x < width)
            shared[threadIdx.x] = combine(shared[threadIdx.x], shared[threadIdx.x + width]);
        __syncthreads();
    }
    const T result = shared[0];
    __syncthreads();
    return result;
}

__device__ Candidate best_of(Candidate own, Shared& shared) {
    return combined(own, shared.best,
                    [](const Candidate& a, const Candidate& b) { return better(b, a) ? b : a; });
}

__device__ double least_of(double own, double* shared) {
    return combined(own, shared, [](double a, double b) { return smaller(a, b); });
}

/// A search by one block.
template <class Moments, bool kSlack>
struct BlockSearch {
    const Moments& m;
    Codes codes;
    Shared& shared;
    Candidate best{};
    double lowest = DBL_MAX;

    __device__ Evaluation evaluate(int32_t index) const {
        return evaluate_step<kSlack>(m, codes, grid_step(index), index);
    }

    /// Tries a grid downwards until the clipping rules out the rest; writes its intervals when there is room.
    __device__ int32_t first_grid(int32_t start, int32_t spacing, Interval* intervals) {
        const int threads = static_cast<int>(blockDim.x);
        double above_lower = 0.0;  // of the last step of the round before
        for (int32_t from = 0;; from += threads) {
            const int32_t i = start - (from + static_cast<int32_t>(threadIdx.x)) * spacing;
            Evaluation e{};
            if (i >= kSmallestIndex) e = evaluate(i);
            shared.best[threadIdx.x] = e.best;
            shared.lower[threadIdx.x] = e.lower;
            shared.upper[threadIdx.x] = e.upper;
            __syncthreads();
            if (threadIdx.x == 0) {
                int32_t tried = 0;
                bool stop = false;
                for (; tried < threads && !stop; ++tried) {
                    const int32_t turn = from + tried + 1, index = start - (from + tried) * spacing;
                    if (index < kSmallestIndex) break;
                    if (turn == 1 || better(shared.best[tried], best)) best = shared.best[tried];
                    lowest = turn == 1 ? shared.lower[tried] : smaller(lowest, shared.lower[tried]);
                    stop = turn % kTurn == 0 && exhausted(m, codes, grid_step(index), best.error);
                }
                shared.count = tried;
                shared.stop = stop || start - (from + tried) * spacing < kSmallestIndex ? 1 : 0;
                shared.best[0] = best;
                shared.closed[0] = lowest;
            }
            __syncthreads();
            best = shared.best[0];
            lowest = shared.closed[0];
            const int32_t count = shared.count, place = from + static_cast<int32_t>(threadIdx.x);
            if (intervals != nullptr && static_cast<int32_t>(threadIdx.x) < count && place > 0)
                intervals[place - 1] = {i, spacing, e.lower, e.upper,
                                        threadIdx.x > 0 ? shared.lower[threadIdx.x - 1] : above_lower};
            above_lower = shared.lower[threads - 1];
            const bool stop = shared.stop != 0;
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
            const int32_t k = static_cast<int32_t>(threadIdx.x), i = center - s.radius + k * s.spacing;
            const bool tried = k < steps && i >= kSmallestIndex && i != center;
            shared.best[k] = tried ? evaluate(i).best : best;
            __syncthreads();
            // One after another: of steps with the same codes, hence the same candidate, the first one tried
            // is the center of the next stage.
            if (k == 0) {
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
            for (int32_t k = static_cast<int32_t>(threadIdx.x); k < count;
                 k += static_cast<int32_t>(blockDim.x)) {
                const Interval interval = open[k];
                const double bound = interval.bound(m.all.square);
                int32_t place = static_cast<int32_t>(kOpen);
                if (bound < goal && interval.width > 1 && left > 0) place = atomicAdd(&shared.count, 2);
                if (place + 2 > static_cast<int32_t>(kOpen)) {
                    own_closed = smaller(own_closed, bound);
                    continue;
                }
                const int32_t half = interval.width / 2, middle = interval.index + half;
                const Evaluation e = evaluate(middle);
                if (better(e.best, own)) own = e.best;
                own_lowest = smaller(own_lowest, e.lower);
                next[place] = {interval.index, half, interval.lower_a, interval.upper_a, e.lower};
                next[place + 1] = {middle, half, e.lower, e.upper, interval.lower_b};
            }
            best = best_of(own, shared);
            lowest = least_of(own_lowest, shared.lower);
            closed = least_of(own_closed, shared.closed);
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

    __device__ void polish() {
        if (threadIdx.x == 0) {
            for (int32_t i = 0; i < kPolishes; ++i) {
                const Evaluation e = evaluate_step<kSlack>(m, codes, best.step, best.index);
                if (!better(e.best, best)) break;
                best = e.best;
            }
            shared.best[0] = best;
        }
        __syncthreads();
        best = shared.best[0];
        __syncthreads();
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
    return best_of(best, shared);
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
