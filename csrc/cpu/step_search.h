#pragma once

#include <limits>
#include <vector>

#include "core/step_refine.h"
#include "core/step_search.h"

namespace ribs::cpu {

/// The best quantizer of one bit-width, and what no quantizer can go below (0 where nothing was proven).
struct Answer {
    Candidate best;
    double lower;
};

/// Searches the steps of one bit-width on one set of moments.
template <class Moments, bool kSlack>
class StepSearch {
  public:
    StepSearch(const Moments& moments, Codes codes) : m_(moments), codes_(codes) {}

    /// Looks at a grid that gets finer around the best.
    Answer swift() {
        const int32_t start = swift_start(m_.all, codes_);
        best_ = evaluate(start).best;
        for (int32_t i = start - kSwift, turn = 2; i >= kSmallestIndex; i -= kSwift, ++turn) {
            take(evaluate(i));
            if (turn % kTurn == 0 && exhausted(m_, codes_, grid_step(i), best_.error)) break;
        }
        for (int32_t stage = 0; stage < kStages; ++stage) {
            const Stage s = refinement(stage);
            const int32_t center = best_.index;
            for (int32_t i = center - s.radius; i <= center + s.radius; i += s.spacing)
                if (i >= kSmallestIndex && i != center) take(evaluate(i));
        }
        polish();
        return {best_, 0.0};
    }

    /// Splits intervals until none can hold an error much below the least one found.
    Answer proven(bool exact) {
        std::vector<Interval> open = coarse(), next;
        const double share = tolerance(codes_, exact), slip = rounding(m_.all.square);
        double closed = std::numeric_limits<double>::infinity();
        for (int32_t left = kEvaluations; !open.empty(); open.swap(next)) {
            next.clear();
            const double goal = lowest_ - share * best_.error - slip;
            for (const Interval& interval : open) {
                const double bound = interval.bound(m_.all.square);
                if (bound >= goal || interval.width == 1 || left == 0) {
                    closed = smaller(closed, bound);
                    continue;
                }
                --left;
                const int32_t half = interval.width / 2, middle = interval.index + half;
                const Evaluation e = take(evaluate(middle));
                next.push_back({interval.index, half, interval.lower_a, interval.upper_a, e.lower});
                next.push_back({middle, half, e.lower, e.upper, interval.lower_b});
            }
        }
        polish();
        return {best_, larger(0.0, smaller(smaller(lowest_, closed), best_.error) - slip)};
    }

  private:
    std::vector<Interval> coarse() {
        std::vector<Interval> intervals;
        const int32_t top = top_index(m_.all.largest());
        Evaluation above = evaluate(top);
        best_ = above.best;
        lowest_ = above.lower;
        for (int32_t i = top - kCoarse, turn = 2; i >= kSmallestIndex; i -= kCoarse, ++turn) {
            const Evaluation e = take(evaluate(i));
            intervals.push_back({i, kCoarse, e.lower, e.upper, above.lower});
            above = e;
            if (turn % kTurn == 0 && exhausted(m_, codes_, grid_step(i), best_.error)) break;
        }
        return intervals;
    }

    Evaluation take(const Evaluation& e) {
        if (better(e.best, best_)) best_ = e.best;
        lowest_ = smaller(lowest_, e.lower);
        return e;
    }

    void polish() {
        for (int32_t i = 0; i < kPolishes; ++i) {
            const Evaluation e = evaluate_step(best_.step, best_.index);
            if (!better(e.best, best_)) break;
            best_ = e.best;
        }
    }

    Evaluation evaluate(int32_t index) { return evaluate_step(grid_step(index), index); }

    Evaluation evaluate_step(double step, int32_t index) {
        const int32_t most = codes_.most();
        const int32_t up = thresholds_inside(m_.all.maximum, step, codes_.symmetric ? most - 1 : most);
        const int32_t down = thresholds_inside(-m_.all.minimum, step, most);
        const ZeroPoints zeros = zero_points(up, down, codes_);
        if (codes_.symmetric) {
            CodeSums sums = total(Side::both, std::max(up, std::min(down, most - 1)), step);
            if (down == most) sums = plus(sums, threshold_sums<kSlack>(m_, Side::negative, most - 1, step));
            return evaluate_codes(sums, m_.all.square, step, 0, index);
        }
        if (zeros.first == zeros.last) {
            const CodeSums sums =
                plus(total(Side::positive, std::min(up, codes_.levels - 1 - zeros.first), step),
                     total(Side::negative, std::min(down, zeros.first), step));
            return evaluate_codes(sums, m_.all.square, step, zeros.first, index);
        }
        fill(Side::positive, up, step, positive_);
        fill(Side::negative, down, step, negative_);
        Evaluation result = window(zeros.first, up, down, step, index);
        for (int32_t z = zeros.first + 1; z <= zeros.last; ++z)
            merge(result, window(z, up, down, step, index));
        return result;
    }

    Evaluation window(int32_t zero_point, int32_t up, int32_t down, double step, int32_t index) const {
        const CodeSums sums = plus(positive_[std::min(up, codes_.levels - 1 - zero_point)],
                                   negative_[std::min(down, zero_point)]);
        return evaluate_codes(sums, m_.all.square, step, zero_point, index);
    }

    /// The sums over the first `count` thresholds of a side.
    CodeSums total(Side side, int32_t count, double step) const {
        CodeSums lanes[kLanes] = {};
        int32_t k = 0;
        for (; k + kLanes <= count; k += kLanes)
            for (int32_t lane = 0; lane < kLanes; ++lane)
                lanes[lane] = plus(lanes[lane], threshold_sums<kSlack>(m_, side, k + lane, step));
        for (int32_t lane = 0; k < count; ++k, ++lane)
            lanes[lane] = plus(lanes[lane], threshold_sums<kSlack>(m_, side, k, step));
        return lane_total(lanes);
    }

    /// The running sums of a side; entry k covers k thresholds.
    void fill(Side side, int32_t count, double step, CodeSums* sums) const {
        sums[0] = {0.0, 0.0, 0.0};
        for (int32_t k = 0; k < count; ++k)
            sums[k + 1] = plus(sums[k], threshold_sums<kSlack>(m_, side, k, step));
    }

    const Moments& m_;
    Codes codes_;
    Candidate best_{};
    double lowest_ = std::numeric_limits<double>::infinity();
    CodeSums positive_[kMaxLevels + 1], negative_[kMaxLevels + 1];
};

}  // namespace ribs::cpu
