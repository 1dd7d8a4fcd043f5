#include <algorithm>
#include <random>

#include "check.h"
#include "fibers.h"
#include "ops.h"

// The kernels of csrc/cuda against the loops of csrc/cpu, in every order of blocks and threads.

namespace {

using emulate::Order;
using namespace ribs;

constexpr int kCpuThreads = 2;
constexpr Order kOrders[] = {Order::forward, Order::backward, Order::shuffled};
constexpr float kUnset = 12345.678f;

struct Shape {
    int64_t outer, channels, inner;
    int64_t count() const { return outer * channels * inner; }
};

const Shape kShapes[] = {
    {1, 1, 1},      {1, 1, 31},  {1, 1, 255},  {1, 1, 256},  {1, 1, 257},  {1, 1, 9000},  // per tensor
    {2, 3, 100},    {3, 5, 32},  {2, 2, 4096}, {1, 3, 4097}, {1, 2, 8500},                // wide rows
    {1, 300, 1},    {300, 5, 1}, {64, 7, 3},   {65, 2, 31},  {129, 1, 2},                 // narrow rows
    {1, 1, 300'000}                                                                       // many blocks
};

/// Values from far inside the codes to far outside, and some that are hostile.
std::vector<float> values(int64_t count, std::mt19937& random, bool hostile) {
    const float special[] = {0.0f, -0.0f, 0.5f, -0.5f, 1.5f, 1e-40f, 1e30f, -1e30f, INFINITY, -INFINITY, NAN};
    std::normal_distribution<float> normal(0.0f, 2.0f);
    std::vector<float> result(static_cast<size_t>(count));
    for (float& value : result)
        value = hostile && random() % 16 == 0 ? special[random() % 11] : normal(random);
    return result;
}

/// One case: its inputs, and what the CPU says.
struct Quantization {
    Shape shape;
    std::vector<float> x, grad, step;
    std::vector<int32_t> zero_point;

    Quantization(const Shape& shape_, bool hostile) : shape(shape_) {
        std::mt19937 random(7);
        x = values(shape.count(), random, hostile);
        grad = values(shape.count(), random, false);
        for (int64_t c = 0; c < shape.channels; ++c) {
            step.push_back(0.05f + 0.3f * static_cast<float>(random() % 1000) / 1000.0f);
            zero_point.push_back(static_cast<int32_t>(random() % 16));
        }
    }
    FakeQuantizeParams forward(std::vector<float>& out) const {
        out.assign(x.size(), kUnset);
        return {x.data(),    step.data(),    zero_point.data(), out.data(), Element::kFloat32,
                shape.outer, shape.channels, shape.inner,       0,          15};
    }
    FakeQuantizeBackwardParams backward(std::vector<float>& grad_x, std::vector<float>& grad_step,
                                        std::vector<double>& partials) const {
        grad_x.assign(x.size(), kUnset);
        grad_step.assign(step.size(), kUnset);
        partials.assign(static_cast<size_t>(fake_quantize_partials(shape.outer, shape.channels, shape.inner)),
                        static_cast<double>(kUnset));
        return {grad.data(),
                x.data(),
                step.data(),
                zero_point.data(),
                grad_x.data(),
                grad_step.data(),
                partials.data(),
                Element::kFloat32,
                shape.outer,
                shape.channels,
                shape.inner,
                0,
                15};
    }
};

void check_same(const std::vector<float>& got, const std::vector<float>& want) {
    CHECK_EQ(got.size(), want.size());
    for (size_t i = 0; i < want.size(); ++i) CHECK_BITS(got[i], want[i]);
}

TEST(fake_quantize_is_that_of_the_cpu_bit_for_bit) {
    for (const Shape& shape : kShapes) {
        const Quantization q(shape, true);
        std::vector<float> want, got;
        cpu::fake_quantize(q.forward(want), kCpuThreads);
        for (const Order order : kOrders) {
            emulate::order = order;
            cuda::fake_quantize(q.forward(got), nullptr);
            check_same(got, want);
        }
    }
}

TEST(gradients_are_those_of_the_cpu) {
    for (const bool hostile : {false, true})
        for (const Shape& shape : kShapes) {
            const Quantization q(shape, hostile);
            std::vector<float> want_x, want_step, got_x, got_step, first_step;
            std::vector<double> partials;
            cpu::fake_quantize_backward(q.backward(want_x, want_step, partials), kCpuThreads);
            for (const Order order : kOrders) {
                emulate::order = order;
                cuda::fake_quantize_backward(q.backward(got_x, got_step, partials), nullptr);
                check_same(got_x, want_x);
                for (size_t c = 0; c < got_step.size(); ++c) {
                    // Another order of a sum of `terms` numbers; a float is what is left of the double.
                    const double terms = static_cast<double>(shape.outer * shape.inner);
                    CHECK_NEAR(got_step[c], want_step[c],
                               1e-6 * (1.0 + std::abs(want_step[c])) + 1e-12 * terms);
                }
                if (order == Order::forward) first_step = got_step;
                check_same(got_step, first_step);  // the tree is fixed: not one bit may depend on the order
            }
        }
}

TEST(config_cost_is_that_of_the_cpu) {
    std::mt19937_64 random(9);
    for (const int64_t configs : {0, 1, 255, 256, 1000})
        for (const int64_t layers : {0, 1, 21}) {
            std::vector<int64_t> bits(static_cast<size_t>(configs * layers * 2)),
                macs(static_cast<size_t>(layers)), weights(macs.size());
            for (int64_t& each : bits) each = static_cast<int64_t>(1 + random() % 8);
            for (size_t i = 0; i < macs.size(); ++i) {
                macs[i] = static_cast<int64_t>(random() >> 14);
                weights[i] = static_cast<int64_t>(random() >> 14);
            }
            const size_t count = static_cast<size_t>(configs);
            std::vector<int64_t> want_bops(count), want_bits(count);
            const auto params = [&](std::vector<int64_t>& bops, std::vector<int64_t>& weight_bits) {
                return ConfigCostParams{bits.data(),        macs.data(), weights.data(), bops.data(),
                                        weight_bits.data(), configs,     layers};
            };
            cpu::config_cost(params(want_bops, want_bits), kCpuThreads);
            for (const Order order : kOrders) {
                emulate::order = order;
                std::vector<int64_t> bops(count, -1), weight_bits(count, -1);
                cuda::config_cost(params(bops, weight_bits), nullptr);
                CHECK(bops == want_bops);
                CHECK(weight_bits == want_bits);
            }
        }
}

}  // namespace
