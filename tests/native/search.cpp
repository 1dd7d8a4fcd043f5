#include <algorithm>
#include <random>
#include <vector>

#include "check.h"
#include "core/moments.h"
#include "core/step_refine.h"
#include "core/step_search.h"
#include "cpu/sketch.h"
#include "cpu/tails.h"

// The core of the step search against sums over the values themselves, in long double.

namespace {

using namespace ribs;
using namespace ribs::cpu;

std::vector<float> normal(int64_t count, float shift) {
    std::mt19937 random(5);
    std::normal_distribution<float> distribution(shift, 1.0f);
    std::vector<float> x(static_cast<size_t>(count));
    for (float& value : x) value = distribution(random);
    return x;
}

/// sum of (|x| - t)+ over a side.
long double over(const std::vector<float>& x, Side side, double t) {
    long double sum = 0.0L;
    for (const float value : x) {
        if ((side == Side::positive && value < 0.0f) || (side == Side::negative && value > 0.0f)) continue;
        sum += std::max(0.0L, std::abs(static_cast<long double>(value)) - static_cast<long double>(t));
    }
    return sum;
}

/// Whether what moments say of a threshold encloses the truth: (x - t)+ sums to over, and at most slack more.
template <class Moments>
void check_thresholds(const Moments& m, const std::vector<float>& x, std::initializer_list<Side> sides) {
    std::mt19937 random(6);
    std::uniform_real_distribution<double> threshold(1e-4, 1.1 * m.all.largest());
    for (int i = 0; i < 300; ++i) {
        const double t = threshold(random);
        for (const Side side : sides) {
            const Passed passed = m.template passed<true>(side, t);
            const long double got = static_cast<long double>(passed.sum - t * passed.count),
                              want = over(x, side, t);
            const long double slip = 1e-9L * over(x, side, 0.0);
            CHECK(got <= want + slip);
            CHECK(want <= got + static_cast<long double>(passed.slack) + slip);
        }
    }
}

TEST(moments_enclose_the_truth) {
    for (const float shift : {0.0f, 2.0f}) {
        const std::vector<float> x = normal(9000, shift);
        Tails tails;
        const int64_t n = static_cast<int64_t>(x.size());
        const RowScan scan = scan_row(x.data(), n);
        const TensorSketch sketched = sketch(x.data(), n, 1);
        check_thresholds(tails.of_sketch(sketched), x, {Side::positive, Side::negative, Side::both});
        check_thresholds(tails.of_sorted(x.data(), n, scan), x, {Side::positive, Side::negative, Side::both});
        check_thresholds(tails.of_row(x.data(), n, scan, true), x, {Side::negative, Side::both});
        check_thresholds(tails.of_row(x.data(), n, scan, false), x, {Side::positive, Side::negative});
    }
}

/// The squared error of the best codes at a step.
double least_error(const std::vector<float>& x, double step, Codes codes) {
    double least = INFINITY;
    for (int32_t z = codes.symmetric ? codes.levels / 2 : 0;
         z < (codes.symmetric ? codes.levels / 2 + 1 : codes.levels); ++z) {
        double error = 0.0;
        for (const float value : x) {
            const double code = std::clamp(std::rint(value / step), static_cast<double>(-z),
                                           static_cast<double>(codes.levels - 1 - z));
            error += (value - code * step) * (value - code * step);
        }
        least = std::min(least, error);
    }
    return least;
}

TEST(evaluations_enclose_the_error_of_a_step) {
    const std::vector<float> x = normal(9000, 0.3f);
    Tails tails;
    const auto m = tails.of_sketch(sketch(x.data(), 9000, 1));
    for (const Codes codes : {Codes{4, true}, Codes{16, true}, Codes{4, false}, Codes{16, false}})
        for (int32_t index = -4 * kOctave; index < 2 * kOctave; index += kOctave / 3) {
            const Evaluation e = evaluate_step<true>(m, codes, grid_step(index), index);
            const double want = least_error(x, grid_step(index), codes), slip = rounding(m.all.square);
            CHECK(e.lower <= want + slip);
            CHECK(e.upper >= want - slip);
            CHECK(e.best.error <= e.upper + slip);
            CHECK(least_error(x, e.best.step, codes) <= e.best.error + slip);
        }
}

TEST(no_step_inside_an_interval_is_below_its_bound) {
    const std::vector<float> x = normal(200, 0.0f);
    double square = 0.0;
    for (const float value : x) square += static_cast<double>(value) * static_cast<double>(value);
    std::mt19937 random(8);
    for (const Codes codes : {Codes{8, true}, Codes{8, false}})
        for (int i = 0; i < 200; ++i) {
            const int32_t index = -3 * kOctave + static_cast<int32_t>(random() % (4 * kOctave));
            const int32_t width = 1 + static_cast<int32_t>(random() % (kOctave / 4));
            const double at_a = least_error(x, grid_step(index), codes),
                         at_b = least_error(x, grid_step(index + width), codes);
            const double bound = Interval{index, width, at_a, at_a, at_b}.bound(square);
            for (int32_t k = 0; k <= 20; ++k) {
                const double step = grid_step(index + static_cast<int32_t>(int64_t{width} * k / 20));
                CHECK(least_error(x, step, codes) >= bound - 1e-9 * square);
            }
        }
}

TEST(the_grid_is_a_power_of_two_everywhere) {
    for (int32_t index = -130 * kOctave; index < 130 * kOctave; index += 7'654'321) {
        const double want = std::exp2(static_cast<double>(index) / kOctave);
        CHECK_NEAR(grid_step(index) / want, 1.0, 1e-14);
    }
}

}  // namespace
