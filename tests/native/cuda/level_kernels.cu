#include <algorithm>
#include <cmath>
#include <random>

#include "check.h"
#include "cuda/elements.cuh"

// The kernels of rounding to levels against the loops of csrc/cpu, in every order of blocks and threads. Half
// and bfloat16 have no loops on the CPU: there the float result is rounded once.

namespace {

using emulate::Order;
using namespace ribs;

/// One case, its values exact in every element type.
struct Case {
    int64_t n;
    bool log_sqrt2;
    int32_t top;
    std::vector<float> x, grad, steps;

    Case(int64_t n_, bool log_sqrt2_, int bits, bool bad) : n(n_), log_sqrt2(log_sqrt2_) {
        std::mt19937 random(7);
        top = (1 << bits) - (log_sqrt2 ? 0 : 1);
        for (int i = 0; i < (1 << bits); ++i)
            steps.push_back(0.01f + static_cast<float>(random() % 64) / 640.0f);
        if (bad) steps[0] = -1.0f;
        const float special[] = {0.0f, -0.0f, INFINITY, -INFINITY, NAN, -1.0f};
        for (int64_t i = 0; i < n; ++i) {
            x.push_back(i < 6 ? special[i] : static_cast<float>(random() % 128) / 64.0f);
            grad.push_back(static_cast<float>(random() % 128) - 63.0f);
        }
    }
};

template <class T>
constexpr Element kElement = std::is_same_v<T, float>    ? Element::kFloat32
                             : std::is_same_v<T, __half> ? Element::kFloat16
                                                         : Element::kBfloat16;

template <class T>
std::vector<T> to_elements(const std::vector<float>& values) {
    std::vector<T> result(values.size());
    std::transform(values.begin(), values.end(), result.begin(), cuda::from_float<T>);
    return result;
}

template <class T>
void check_same(const std::vector<T>& got, const std::vector<float>& want) {
    const std::vector<T> rounded = to_elements<T>(want);
    for (size_t i = 0; i < want.size(); ++i) CHECK_BITS(cuda::to_float(got[i]), cuda::to_float(rounded[i]));
}

void check_sums(const std::vector<double>& got, const std::vector<double>& want) {
    for (size_t i = 0; i < want.size(); ++i) {
        CHECK_EQ(std::isnan(got[i]), std::isnan(want[i]));
        if (!std::isnan(want[i])) CHECK_NEAR(got[i], want[i], 1e-9 * (1.0 + std::abs(want[i])));
    }
}

/// `offset` elements after an address for packs.
template <class T>
void check_case(const Case& one, int offset) {
    const size_t n = one.x.size(), sums = static_cast<size_t>(one.top) + 1;
    std::vector<float> want(n), want_x(n);
    std::vector<double> want_sums(sums), first;
    cpu::fake_quantize_levels(
        {one.x.data(), one.steps.data(), want.data(), Element::kFloat32, one.log_sqrt2, one.top, one.n}, 1);
    cpu::fake_quantize_levels_backward(
        {one.grad.data(), one.x.data(), one.steps.data(), want_x.data(), want_sums.data(), nullptr,
         Element::kFloat32, one.log_sqrt2, one.top, one.n},
        1);
    std::vector<T> x = to_elements<T>(one.x);
    const std::vector<T> grad = to_elements<T>(one.grad);
    x.insert(x.begin(), static_cast<size_t>(offset), T());
    for (const Order order : emulate::kOrders) {
        emulate::order = order;
        std::vector<T> out(n), grad_x(n);
        std::vector<double> got(sums),
            partials(static_cast<size_t>(fake_quantize_levels_partials(one.n, one.top)));
        cuda::fake_quantize_levels(
            {x.data() + offset, one.steps.data(), out.data(), kElement<T>, one.log_sqrt2, one.top, one.n},
            nullptr);
        check_same(out, want);
        cuda::fake_quantize_levels_backward(
            {grad.data(), x.data() + offset, one.steps.data(), grad_x.data(), got.data(), partials.data(),
             kElement<T>, one.log_sqrt2, one.top, one.n},
            nullptr);
        check_same(grad_x, want_x);
        check_sums(got, want_sums);
        if (first.empty()) first = got;
        for (size_t i = 0; i < sums; ++i)  // not one bit may depend on the order
            CHECK(got[i] == first[i] || (std::isnan(got[i]) && std::isnan(first[i])));
    }
}

TEST(kernels_are_the_loops_of_the_cpu) {
    for (const int64_t n : {1, 31, 2005})
        for (const bool log_sqrt2 : {false, true})
            for (const Element element : {Element::kFloat32, Element::kFloat16, Element::kBfloat16})
                cuda::with_element(element, [&](auto type) {
                    check_case<decltype(type)>(Case(n, log_sqrt2, 3, false), n == 31 ? 1 : 0);
                });
}

TEST(every_width_has_its_table) {
    for (const bool log_sqrt2 : {false, true})
        for (const int bits : {1, 2, 8}) check_case<float>(Case(257, log_sqrt2, bits, false), 0);
}

TEST(bad_steps_make_all_nan) {
    for (const bool log_sqrt2 : {false, true}) check_case<float>(Case(257, log_sqrt2, 3, true), 0);
}

}  // namespace
