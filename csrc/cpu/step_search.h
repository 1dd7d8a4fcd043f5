#pragma once

#include <limits>
#include <vector>

#include "core/step_refine.h"
#include "core/step_search.h"

namespace ribs::cpu {

/// Searches the steps of one bit-width on one set of moments.
template <class Moments, bool kSlack>
class StepSearch {
  public:
    StepSearch(const Moments& moments, Codes codes) : m_(moments), codes_(codes) {}

    /// Looks at a grid that gets finer around the best.
    Answer swift() {
        if (only_zero(m_.all, codes_)) return {zero_candidate(m_.all), m_.all.square};
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
        if (only_zero(m_.all, codes_)) return {zero_candidate(m_.all), m_.all.square};
        std::vector<Interval> open = coarse(), next;
        const double share = tolerance(codes_, exact), slip = rounding(m_.all.square);
        double closed = std::numeric_limits<double>::infinity();
        for (int32_t left = kEvaluations; !open.empty(); open.swap(next)) {
            next.clear();
            const double goal = lowest_ - share * best_.error - slip;
            for (const Interval& interval : open) {
                const double bound = interval.bound(m_.all.square);
                if (bound >= goal || interval.width == 1 || left == 0 || next.size() + 2 > kOpen) {
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
            const Evaluation e = evaluate_step<kSlack>(m_, codes_, best_.step, best_.index);
            if (!better(e.best, best_)) break;
            best_ = e.best;
        }
    }

    Evaluation evaluate(int32_t index) const {
        return evaluate_step<kSlack>(m_, codes_, grid_step(index), index);
    }

    const Moments& m_;
    Codes codes_;
    Candidate best_{};
    double lowest_ = std::numeric_limits<double>::infinity();
};

}  // namespace ribs::cpu
