#pragma once

#include <vector>

#include "core/step_refine.h"
#include "core/step_search.h"

namespace ribs::cpu {

/// Searches the step grid on one set of moments for many bit-widths; sums of a step serve them all.
template <class Moments>
class GridSearch {
  public:
    GridSearch(const Moments& moments, const Codes* codes, int64_t count)
        : m_(moments), codes_(codes), count_(count) {}

    /// Writes the best candidate of every bit-width.
    void run(Candidate* best) {
        coarse(best);
        for (int64_t b = 0; b < count_; ++b) {
            for (int stage = 0; stage < kStages; ++stage) refine(b, stage, best[b]);
            polish(b, best[b]);
        }
    }

  private:
    void coarse(Candidate* best) {
        std::vector<char> active(static_cast<size_t>(count_), 1);
        const int32_t top = top_index(m_.all);
        for (int64_t b = 0; b < count_; ++b) best[b] = {m_.all.square, grid_step(top), 0, top};
        int64_t left = count_;
        for (int32_t i = top, turn = 1; left > 0 && i >= kSmallestIndex; i -= kCoarse, ++turn) {
            const double step = grid_step(i);
            fill(step, widest(active));
            for (int64_t b = 0; b < count_; ++b)
                if (active[static_cast<size_t>(b)]) try_windows(b, step, i, best[b]);
            if (turn % kExhaustedEvery != 0) continue;
            for (int64_t b = 0; b < count_; ++b) {
                char& on = active[static_cast<size_t>(b)];
                if (!on || !exhausted(m_, codes_[b], step, best[b].error)) continue;
                on = 0;
                --left;
            }
        }
    }

    void refine(int64_t b, int stage, Candidate& best) {
        const Stage s = refinement(stage, static_cast<int64_t>(m_.all.count));
        const int32_t center = best.index;
        for (int32_t i = center - s.radius; i <= center + s.radius; i += s.spacing) {
            if (i < kSmallestIndex || i > kLargestIndex) continue;
            fill(grid_step(i), codes_[b]);
            try_windows(b, grid_step(i), i, best);
        }
    }

    void polish(int64_t b, Candidate& best) {
        for (int i = 0; i < kPolishes; ++i) {
            const Candidate before = best;
            fill(best.step, codes_[b]);
            try_windows(b, best.step, best.index, best);
            if (!better(best, before)) break;
        }
    }

    Codes widest(const std::vector<char>& active) const {
        Codes result{0, true};
        for (int64_t b = 0; b < count_; ++b)
            if (active[static_cast<size_t>(b)] && codes_[b].levels > result.levels) result = codes_[b];
        return result;
    }

    void fill(double step, Codes codes) {
        const int32_t most = codes.levels - 1;
        const int32_t up = codes.symmetric ? most / 2 : most,
                      down = codes.symmetric ? codes.levels / 2 : most;
        sums_.positives = thresholds_inside(m_.all.maximum, step, up);
        sums_.negatives = thresholds_inside(-m_.all.minimum, step, down);
        for (int32_t k = 0; k < sums_.positives; ++k)
            positive_[k + 1] = plus(positive_[k], passed_above(m_, k, step));
        for (int32_t k = 0; k < sums_.negatives; ++k)
            negative_[k + 1] = plus(negative_[k], passed_below(m_, k, step));
    }

    void try_windows(int64_t b, double step, int32_t index, Candidate& best) const {
        const ZeroPoints range = zero_points(sums_.positives, sums_.negatives, codes_[b]);
        for (int32_t z = range.first; z <= range.last; ++z) {
            const Candidate candidate = window_candidate(sums_, codes_[b], z, m_.all.square, step, index);
            if (better(candidate, best)) best = candidate;
        }
    }

    const Moments& m_;
    const Codes* codes_;
    int64_t count_;
    CodeSums positive_[kMaxLevels + 1] = {};
    CodeSums negative_[kMaxLevels + 1] = {};
    SideSums sums_{positive_, negative_, 0, 0};
};

}  // namespace ribs::cpu
