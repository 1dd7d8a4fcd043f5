#include <random>

#include "check.h"
#include "fibers.h"
#include "ops.h"

// The kernels of reconstruction against the loops of csrc/cpu, in every order of blocks and threads.

namespace {

using emulate::Order;
using namespace ribs;

constexpr int kCpuThreads = 2;
constexpr float kUnset = 12345.678f;

struct Shape {
    int64_t outer, channels, inner;
    int64_t count() const { return outer * channels * inner; }
};

const Shape kShapes[] = {{1, 1, 1}, {1, 3, 9}, {1, 1, 1023}, {1, 5, 1024}, {2, 3, 343}, {1, 2, 4099}};

std::vector<float> normal(int64_t count, unsigned seed) {
    std::mt19937 random(seed);
    std::normal_distribution<float> distribution(0.0f, 2.0f);
    std::vector<float> result(static_cast<size_t>(count));
    for (float& value : result) value = random() % 64 == 0 ? 1e30f : distribution(random);
    return result;
}

void check_same(const std::vector<float>& got, const std::vector<float>& want) {
    CHECK_EQ(got.size(), want.size());
    for (size_t i = 0; i < want.size(); ++i) CHECK_BITS(got[i], want[i]);
}

/// What a forward and a backward pass give: values, gradients, and the number that is a sum.
struct Passes {
    std::vector<float> values, gradients;
    float sum = kUnset;
};

Passes soft_round(const Shape& s, float beta, bool on_cpu) {
    const std::vector<float> weight = normal(s.count(), 1), alpha = normal(s.count(), 2),
                             grad = normal(s.count(), 3), step(static_cast<size_t>(s.channels), 0.3f);
    const std::vector<int32_t> zero_point(step.size(), 1);
    Passes got{std::vector<float>(weight.size(), kUnset), std::vector<float>(weight.size(), kUnset)};
    const float grad_penalty = 0.25f;
    std::vector<double> partials(static_cast<size_t>(soft_round_partials(s.count())), 1e300);
    const SoftRoundParams p{weight.data(),
                            alpha.data(),
                            step.data(),
                            zero_point.data(),
                            got.values.data(),
                            &got.sum,
                            partials.data(),
                            s.outer,
                            s.channels,
                            s.inner,
                            -8,
                            7,
                            &beta};
    const SoftRoundBackwardParams back{grad.data(),
                                       &grad_penalty,
                                       weight.data(),
                                       alpha.data(),
                                       step.data(),
                                       zero_point.data(),
                                       got.gradients.data(),
                                       s.outer,
                                       s.channels,
                                       s.inner,
                                       -8,
                                       7,
                                       &beta};
    if (on_cpu) {
        cpu::soft_round(p, kCpuThreads);
        cpu::soft_round_backward(back, kCpuThreads);
    } else {
        cuda::soft_round(p, nullptr);
        cuda::soft_round_backward(back, nullptr);
    }
    return got;
}

Passes drop(int64_t count, bool on_cpu) {
    const std::vector<float> x = normal(count, 1), grad = normal(count, 2);
    const float step = 0.3f;
    const int32_t zero_point = 3;
    const int64_t seed = (int64_t{1} << 40) + 7;
    Passes got{std::vector<float>(x.size(), kUnset), std::vector<float>(x.size(), kUnset)};
    std::vector<double> partials(static_cast<size_t>(drop_partials(count)), 1e300);
    const DropParams p{x.data(), &step, &zero_point, got.values.data(), 1, 1, count, 0, 15, &seed, 1 << 23};
    const DropBackwardParams back{grad.data(),
                                  x.data(),
                                  &step,
                                  &zero_point,
                                  got.gradients.data(),
                                  &got.sum,
                                  partials.data(),
                                  1,
                                  1,
                                  count,
                                  0,
                                  15,
                                  &seed,
                                  1 << 23};
    if (on_cpu) {
        cpu::drop(p, kCpuThreads);
        cpu::drop_backward(back, kCpuThreads);
    } else {
        cuda::drop(p, nullptr);
        cuda::drop_backward(back, nullptr);
    }
    return got;
}

/// The same values and gradients, a sum that is another order's, and not one bit by the order of the threads.
template <class Run>
void check_passes(const Run& run) {
    const Passes want = run(true);
    float first = kUnset;
    for (const Order order : emulate::kOrders) {
        emulate::order = order;
        const Passes got = run(false);
        check_same(got.values, want.values);
        check_same(got.gradients, want.gradients);
        CHECK_NEAR(got.sum, want.sum, 1e-6 * std::abs(want.sum));
        if (first == kUnset) first = got.sum;
        CHECK_BITS(got.sum, first);
    }
}

TEST(soft_rounding_is_that_of_the_cpu) {
    for (const Shape& shape : kShapes)
        for (const float beta : {0.0f, 2.0f, 13.5f})
            check_passes([&](bool on_cpu) { return soft_round(shape, beta, on_cpu); });
}

TEST(drop_is_that_of_the_cpu) {
    for (const int64_t count : {1, 255, 1023, 1024, 1025, 30'000})
        check_passes([&](bool on_cpu) { return drop(count, on_cpu); });
}

}  // namespace
