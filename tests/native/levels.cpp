#include "core/levels.h"

#include <cfloat>
#include <random>

#include "check.h"
#include "ops.h"

namespace {

using namespace ribs;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

Levels make(const std::vector<float>& steps, bool log_sqrt2, int32_t top) {
    Levels table;
    table.top = top;
    fill_levels(table, steps.data(), log_sqrt2, 0, 1);
    fill_thresholds(table, steps.data(), log_sqrt2, 0, 1);
    return table;
}

std::vector<float> random_steps(int bits, std::mt19937& random) {
    std::uniform_real_distribution<float> exponent(-12.0f, 0.0f);
    std::vector<float> steps((size_t{1} << bits) - 1);
    for (float& step : steps) step = std::exp2(exponent(random));
    return steps;
}

int32_t index_of(float x, const Levels& table) {
    return level_index(x, table.threshold, first_half(table.top));
}

TEST(a_threshold_is_the_least_float_of_its_level) {
    std::mt19937 random(1);
    for (int bits = 1; bits <= 8; ++bits) {
        const Levels table = make(random_steps(bits, random), false, (1 << bits) - 1);
        for (int32_t i = 1; i <= table.top; ++i) {
            const auto distance = [&](float x, int32_t level) {
                return std::abs(static_cast<double>(x) - static_cast<double>(table.level[level]));
            };
            const float at = table.threshold[i], below = std::nextafter(at, 0.0f);
            CHECK_EQ(index_of(at, table), i);
            CHECK_EQ(index_of(below, table), i - 1);
            CHECK(distance(at, i) <= distance(at, i - 1));
            CHECK(distance(below, i - 1) <= distance(below, i));
            if (distance(at, i) == distance(at, i - 1)) CHECK_EQ(i % 2, 0);  // a tie is even
            if (distance(below, i) == distance(below, i - 1)) CHECK_EQ(i % 2, 1);
        }
    }
}

TEST(log_thresholds_halve_in_the_logarithm) {
    for (const float step : {1.0f, 0.3f, 1e10f})
        for (int bits = 1; bits <= 6; ++bits) {
            const Levels table = make({step}, true, 1 << bits);
            for (int32_t i = 1; i <= table.top; ++i) {
                const double q = table.top - i, wide = static_cast<double>(step);
                CHECK_NEAR(static_cast<double>(table.level[i]) / (wide * std::exp2(-q / 2)), 1.0, 1e-7);
                const float at = table.threshold[i];
                const auto code = [&](float x) { return -2.0 * std::log2(static_cast<double>(x) / wide); };
                CHECK(code(at) <= q + 0.5 && code(std::nextafter(at, 0.0f)) > q + 0.5);
            }
        }
}

TEST(the_search_counts_thresholds) {
    std::mt19937 random(2);
    std::uniform_real_distribution<float> any(-0.1f, 1.2f);
    for (const bool log_sqrt2 : {false, true})
        for (int bits = 1; bits <= 8; ++bits) {
            std::vector<float> steps = random_steps(bits, random);
            if (log_sqrt2) steps = {1.0f};
            const Levels table = make(steps, log_sqrt2, (1 << bits) - !log_sqrt2);
            for (int k = 0; k < 2000; ++k) {
                const float x = k % 2 == 0 ? any(random) : any(random) * table.level[table.top];
                int32_t count = 0;
                for (int32_t i = 1; i <= table.top; ++i) count += x >= table.threshold[i];
                CHECK_EQ(index_of(x, table), count);
            }
            CHECK_EQ(index_of(kInfinity, table), table.top);
            CHECK_EQ(index_of(-kInfinity, table), 0);
            CHECK_EQ(index_of(kNan, table), 0);
        }
}

TEST(bad_steps_make_all_nan) {
    for (const float bad : {0.0f, -1.0f, kNan, kInfinity, FLT_MAX}) {
        const Levels table = make({FLT_MAX, bad, 1.0f}, false, 3);
        for (const float x : {0.0f, -1.0f, 1.0f, kInfinity}) {
            const int32_t index = index_of(x, table);
            CHECK(std::isnan(level_value(x, table.level[index])));
            const LevelGradient g = level_gradient(1.0f, x, index, table);
            CHECK(x == kInfinity || (g.sum == 0 ? std::isnan(g.share) : std::isnan(table.level[index])));
        }
    }
}

/// The squared error of every way to cut values into runs, the first of which goes to zero.
double least_error(const std::vector<double>& means, const std::vector<double>& counts, int levels) {
    double least = std::numeric_limits<double>::infinity();
    const auto cut = [&](const auto& self, size_t from, int left, double error) -> void {
        if (from == means.size()) least = std::min(least, error);
        if (left == 0) return;
        for (size_t to = from + 1; to <= means.size(); ++to) {
            double count = 0.0, sum = 0.0, square = 0.0;
            for (size_t i = from; i < to; ++i) {
                count += counts[i], sum += counts[i] * means[i];
                square += counts[i] * means[i] * means[i];
            }
            self(self, to, left - 1, error + square - sum * sum / count);
        }
    };
    double zeros = 0.0;
    for (size_t from = 0; from <= means.size(); ++from) {
        cut(cut, from, levels, zeros);
        if (from < means.size()) zeros += counts[from] * means[from] * means[from];
    }
    return least;
}

TEST(the_best_levels_are_found) {
    std::mt19937 random(5);
    const int32_t bits[] = {2, 1, 3};
    for (int trial = 0; trial < 300; ++trial) {
        std::vector<double> means, counts;
        double square = 0.0, last = 0.0;
        for (int i = 0; i < 1 + trial % 9; ++i) {
            means.push_back(last += std::exp2(-static_cast<double>(random() % 8)));
            counts.push_back(static_cast<double>(1 + random() % 5));
            square += counts.back() * last * last;
        }
        std::vector<float> steps(3 * 255);
        double saved[3];
        cpu::search_levels(
            {means.data(), counts.data(), static_cast<int64_t>(means.size()), bits, 3, steps.data(), saved});
        for (int k = 0; k < 3; ++k) {
            const int levels = (1 << bits[k]) - 1;
            CHECK_NEAR(square - saved[k], least_error(means, counts, levels), 1e-6 * square);
            for (int i = 0; i < levels; ++i) CHECK(steps[static_cast<size_t>(k * 255 + i)] > 0.0f);
        }
    }
}

struct Outputs {
    std::vector<float> out, grad_x;
    std::vector<double> sums;
};

Outputs run(int64_t n, bool log_sqrt2, int bits, int threads) {
    std::mt19937 random(4);
    const std::vector<float> steps = random_steps(bits, random);
    std::vector<float> x(static_cast<size_t>(n)), grad(x.size());
    for (size_t i = 0; i < x.size(); ++i) {
        x[i] = static_cast<float>(random() % 4096) / 2048.0f - 0.1f;
        grad[i] = static_cast<float>(random() % 1024) - 511.0f;
    }
    const int32_t top = (1 << bits) - !log_sqrt2;
    Outputs o{std::vector<float>(x.size()), std::vector<float>(x.size()),
              std::vector<double>(static_cast<size_t>(top) + 1)};
    cpu::fake_quantize_levels({x.data(), steps.data(), o.out.data(), Element::kFloat32, log_sqrt2, top, n},
                              threads);
    cpu::fake_quantize_levels_backward({grad.data(), x.data(), steps.data(), o.grad_x.data(), o.sums.data(),
                                        nullptr, Element::kFloat32, log_sqrt2, top, n},
                                       threads);
    return o;
}

TEST(threads_do_not_matter) {
    for (const int64_t n : {1, 65, 1'000'003})
        for (const bool log_sqrt2 : {false, true})
            for (const int bits : {1, 4, 8}) {
                const Outputs want = run(n, log_sqrt2, bits, 1);
                for (const int threads : {2, 5}) {
                    const Outputs got = run(n, log_sqrt2, bits, threads);
                    CHECK(got.out == want.out);
                    CHECK(got.grad_x == want.grad_x);
                    CHECK(got.sums == want.sums);
                }
            }
}

}  // namespace
