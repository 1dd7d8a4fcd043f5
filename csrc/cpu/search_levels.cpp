#include <algorithm>
#include <cfloat>
#include <cmath>
#include <vector>

#include "core/levels.h"
#include "ops.h"

// Levels of least squared error, the lowest of them zero: nearest levels cut ascending values into runs, and
// the best level of a run but the first is its mean. So the best runs are found one level after the other,
// for all bit-widths at once, over some thousand groups of values, and then moved value by value until none
// wants to.

namespace ribs::cpu {
namespace {

constexpr int64_t kGroupsEach =
    32;  // groups for each level, and their bounds: more take longer than they help
constexpr int64_t kFewest = 1024, kMost = 4096;
constexpr int kRefinements = 200;

/// Ascending values that each stand for several, as sums of all before each.
struct Runs {
    const double* means;
    std::vector<double> counts{0.0}, sums{0.0};

    explicit Runs(const SearchLevelsParams& p) : means(p.means) {
        for (int64_t i = 0; i < p.n; ++i) {
            counts.push_back(counts.back() + p.counts[i]);
            sums.push_back(sums.back() + p.counts[i] * p.means[i]);
        }
    }
    size_t size() const { return counts.size() - 1; }
    double mean(size_t first, size_t last) const {
        return (sums[last] - sums[first]) / (counts[last] - counts[first]);
    }
    /// What a level at the mean of a run takes off its sum of squares.
    double gain(size_t first, size_t last) const {
        const double sum = sums[last] - sums[first];
        return first == last ? 0.0 : sum * sum / (counts[last] - counts[first]);
    }
    /// The first value that is not below a threshold.
    size_t find(double threshold) const {
        return static_cast<size_t>(std::lower_bound(means, means + size(), threshold) - means);
    }
};

/// Where groups of values begin, and the end. Levels are best spaced as the cube root of the density, so
/// groups get equal shares of its integral.
std::vector<size_t> groups_of(const Runs& runs, const SearchLevelsParams& p, int64_t count) {
    const size_t n = runs.size();
    std::vector<double> weights{0.0};
    for (size_t i = 0; i < n; ++i) {
        const double below = i > 0 ? p.means[i - 1] : 0.0, above = p.means[i + 1 < n ? i + 1 : i];
        const double width = 0.5 * (above - below);
        weights.push_back(weights.back() + std::cbrt(p.counts[i]) * std::cbrt(width) * std::cbrt(width));
    }
    std::vector<size_t> edges;
    double next = 0.0;
    for (size_t i = 0; i < n; ++i)
        if (static_cast<int64_t>(n) <= count || weights[i] >= next) {
            edges.push_back(i);
            next = weights.back() * static_cast<double>(edges.size()) / static_cast<double>(count);
        }
    edges.push_back(n);
    return edges;
}

/// The best runs of groups by dynamic programming. The best begin of the last run does not fall as its end
/// rises, so that each half of the ends has to look at a part of the begins only.
class Programming {
  public:
    Programming(const Runs& runs, std::vector<size_t> edges)
        : runs_(runs), edges_(std::move(edges)), saved_(edges_.size()) {}

    void add_level() {
        before_ = saved_;
        begins_.emplace_back(edges_.size());
        solve(0, edges_.size() - 1, 0, edges_.size() - 1);
    }
    /// The means of the best `levels` runs above the first, without runs of nothing.
    std::vector<double> means(size_t levels) const {
        std::vector<double> found;
        size_t last = edges_.size() - 1;
        for (size_t level = levels; level-- > 0;) {
            const size_t first = begins_[level][last];
            if (first < last) found.push_back(runs_.mean(edges_[first], edges_[last]));
            last = first;
        }
        std::reverse(found.begin(), found.end());
        return found;
    }

  private:
    void solve(size_t low, size_t high, size_t from, size_t to) {
        const size_t end = low + (high - low) / 2;
        size_t best = from;
        double most = -1.0;
        for (size_t begin = from; begin <= std::min(end, to); ++begin) {
            const double saved = before_[begin] + runs_.gain(edges_[begin], edges_[end]);
            if (saved > most) most = saved, best = begin;
        }
        saved_[end] = most;
        begins_.back()[end] = static_cast<uint16_t>(best);
        if (low < end) solve(low, end - 1, from, best);
        if (end < high) solve(end + 1, high, best, to);
    }

    const Runs& runs_;
    const std::vector<size_t> edges_;
    std::vector<double> saved_, before_;
    std::vector<std::vector<uint16_t>> begins_;  // by level, then by end
};

/// Moves levels to the means of what is nearest to them, until nothing changes (Lloyd).
void refine(const Runs& runs, std::vector<double>& levels) {
    std::vector<size_t> begins(levels.size() + 1), before;
    begins.back() = runs.size();
    for (int k = 0; k < kRefinements && begins != before; ++k) {
        before = begins;
        for (size_t i = 0; i < levels.size(); ++i)
            begins[i] = runs.find(0.5 * ((i > 0 ? levels[i - 1] : 0.0) + levels[i]));
        for (size_t i = 0; i < levels.size(); ++i)
            if (begins[i] < begins[i + 1]) levels[i] = runs.mean(begins[i], begins[i + 1]);
    }
}

/// `count` positive steps to the levels. Where these are fewer, the widest steps are halved, which makes no
/// error larger; without any, steps are 1.
std::vector<float> steps_to(const std::vector<double>& levels, size_t count) {
    std::vector<float> steps;
    double sum = 0.0;
    for (const double level : levels) {
        const float step = static_cast<float>(level - sum);
        if (step < FLT_MIN) continue;
        steps.push_back(step);
        sum += static_cast<double>(step);
    }
    if (steps.empty()) steps.assign(count, 1.0f);
    while (steps.size() < count) {
        const auto widest = std::max_element(steps.begin(), steps.end());
        *widest = std::max(*widest / 2.0f, FLT_MIN);
        steps.insert(widest, *widest);
    }
    return steps;
}

/// What the levels of these steps take off the sum of squares.
double saved_by(const std::vector<float>& steps, const Runs& runs) {
    Levels table;
    table.top = static_cast<int32_t>(steps.size());
    fill_levels(table, steps.data(), false, 0, 1);
    fill_thresholds(table, steps.data(), false, 0, 1);
    double saved = 0.0;
    for (int32_t i = 1; i <= table.top; ++i) {
        const size_t first = runs.find(static_cast<double>(table.threshold[i]));
        const size_t last =
            i < table.top ? runs.find(static_cast<double>(table.threshold[i + 1])) : runs.size();
        const double level = static_cast<double>(table.level[i]);
        saved += level * (2.0 * (runs.sums[last] - runs.sums[first]) -
                          level * (runs.counts[last] - runs.counts[first]));
    }
    return saved;
}

}  // namespace

void search_levels(const SearchLevelsParams& p) {
    const Runs runs(p);
    const int32_t most = *std::max_element(p.bits, p.bits + p.bits_count);
    const size_t tops = (size_t{1} << most) - 1;
    Programming programming(runs,
                            groups_of(runs, p, std::clamp<int64_t>(kGroupsEach << most, kFewest, kMost)));
    for (size_t level = 0; level < tops; ++level) programming.add_level();
    for (int64_t k = 0; k < p.bits_count; ++k) {
        const size_t top = (size_t{1} << p.bits[k]) - 1;
        std::vector<double> levels = programming.means(top);
        refine(runs, levels);
        const std::vector<float> steps = steps_to(levels, top);
        std::copy(steps.begin(), steps.end(), p.steps + k * (kLevels - 2));
        p.saved[k] = saved_by(steps, runs);
    }
}

}  // namespace ribs::cpu
