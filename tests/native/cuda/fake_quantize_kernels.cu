#include <algorithm>
#include <array>
#include <random>

#include "check.h"
#include "cuda/elements.cuh"

// The kernels of fake quantization against the loops of csrc/cpu, in every order of blocks and threads. Half
// and bfloat16 have no loops on the CPU: there the float result is rounded once.

namespace {

using emulate::Order;
using namespace ribs;

constexpr int kCpuThreads = 2;
constexpr float kUnset = 12345.678f;

struct Shape {
    int64_t outer, channels, inner;
    int64_t count() const { return outer * channels * inner; }
};

const Shape kShapes[] = {// Per tensor: below and above a pack, a warp, a segment; many blocks.
                         {1, 1, 1},
                         {1, 1, 31},
                         {1, 1, 257},
                         {1, 1, 1023},
                         {1, 1, 1024},
                         {1, 1, 4099},
                         {1, 1, 30'000},
                         // Wide rows, of whole packs and not, also of float but not of half.
                         {2, 3, 100},
                         {3, 5, 32},
                         {1, 3, 4097},
                         {63, 2, 129},
                         {64, 2, 1024},
                         {130, 1, 40},
                         // Columns: short rows, and those of many lines; a last group of lines that is short.
                         {64, 7, 3},
                         {65, 2, 31},
                         {64, 3, 40},
                         {129, 2, 500},
                         {66, 3, 101},
                         // Channels last.
                         {1, 33, 1},
                         {300, 5, 1},
                         {129, 16, 1},
                         {65, 17, 1}};

/// As many elements as a test asks for, the first of them `offset` elements after an address for packs.
/// Nothing follows the last, for AddressSanitizer to see what a kernel touches there.
template <class T>
class Memory {
  public:
    Memory(const std::vector<float>& values, int offset) : memory_(values.size() + offset), offset_(offset) {
        CHECK(cuda::aligned(memory_.data()));
        std::transform(values.begin(), values.end(), data(), cuda::from_float<T>);
    }
    T* data() { return memory_.data() + offset_; }
    std::vector<float> floats() const {
        std::vector<float> result;
        for (size_t i = static_cast<size_t>(offset_); i < memory_.size(); ++i)
            result.push_back(cuda::to_float(memory_[i]));
        return result;
    }

  private:
    std::vector<T> memory_;
    int offset_;
};

template <class T>
constexpr Element kElement = std::is_same_v<T, float>    ? Element::kFloat32
                             : std::is_same_v<T, __half> ? Element::kFloat16
                                                         : Element::kBfloat16;

/// Rounds to the element type.
template <class T>
std::vector<float> rounded(const std::vector<float>& values) {
    return Memory<T>(values, 0).floats();
}

/// Values from far inside the codes to far outside, and some that are hostile.
std::vector<float> values(int64_t count, std::mt19937& random, bool hostile) {
    const float special[] = {0.0f, -0.0f, 0.5f, -0.5f, 1.5f, 1e-40f, 1e30f, -1e30f, INFINITY, -INFINITY, NAN};
    std::normal_distribution<float> normal(0.0f, 2.0f);
    std::vector<float> result(static_cast<size_t>(count));
    for (float& value : result)
        value = hostile && random() % 16 == 0 ? special[random() % 11] : normal(random);
    return result;
}

/// What a backward pass gives.
struct Gradients {
    std::vector<float> x, step;
};

/// One case: its inputs, and what the CPU says.
template <class T>
struct Case {
    Shape shape;
    std::vector<float> x, grad, step;
    std::vector<int32_t> zero_point;
    std::vector<float> floor, signs;
    Learned learned;
    double scale = 1.0;

    Case(const Shape& shape_, bool hostile) : shape(shape_) {
        std::mt19937 random(7);
        x = rounded<T>(values(shape.count(), random, hostile));
        grad = rounded<T>(values(shape.count(), random, false));
        for (int64_t c = 0; c < shape.channels; ++c) {
            step.push_back(0.05f + 0.3f * static_cast<float>(random() % 1000) / 1000.0f);
            zero_point.push_back(static_cast<int32_t>(random() % 16));
        }
        if (hostile) step[step.size() / 2] = shape.channels % 2 == 0 ? 0.0f : 1e-40f;
    }
    /// Some steps below their floor, some channels turned around; one step for all, or one for each.
    void learn(bool one_step) {
        for (size_t c = 0; c < step.size(); ++c) {
            floor.push_back(c % 2 == 0 ? 0.2f : 0.01f);
            signs.push_back(c % 3 == 1 ? -0.5f : c % 3 == 2 ? -0.0f : 2.0f);
        }
        if (one_step) step.resize(1), zero_point.resize(1), floor.resize(1);
        learned = {floor.data(), signs.data(), one_step};
        scale = 0.125;
    }
    FakeQuantizeParams forward(const void* from, void* to, Element element) const {
        return {from,        step.data(),    zero_point.data(), to, element,
                shape.outer, shape.channels, shape.inner,       0,  15,
                learned};
    }
    FakeQuantizeBackwardParams backward(const void* of_out, const void* of, void* grad_x, float* grad_step,
                                        double* partials, Element element) const {
        return {of_out,      of,       step.data(), zero_point.data(), grad_x,
                grad_step,   partials, element,     shape.outer,       shape.channels,
                shape.inner, 0,        15,          learned,           scale};
    }

    std::vector<float> wanted() const {
        std::vector<float> out(x.size(), kUnset);
        cpu::fake_quantize(forward(x.data(), out.data(), Element::kFloat32), kCpuThreads);
        return rounded<T>(out);
    }
    Gradients wanted_gradients() const {
        Gradients want{std::vector<float>(x.size(), kUnset), std::vector<float>(step.size(), kUnset)};
        cpu::fake_quantize_backward(
            backward(grad.data(), x.data(), want.x.data(), want.step.data(), nullptr, Element::kFloat32),
            kCpuThreads);
        return want;
    }
};

void check_same(const std::vector<float>& got, const std::vector<float>& want) {
    CHECK_EQ(got.size(), want.size());
    for (size_t i = 0; i < want.size(); ++i) CHECK_BITS(got[i], want[i]);
}

/// Calls body with a value of each element type.
template <class Body>
void for_each_type(const Body& body) {
    for (const Element element : {Element::kFloat32, Element::kFloat16, Element::kBfloat16})
        cuda::with_element(element, body);
}

/// Calls body with a case of every type and shape.
template <class Body>
void for_each_case(bool hostile, const Body& body) {
    for_each_type([&](auto element) {
        for (const Shape& shape : kShapes) body(Case<decltype(element)>(shape, hostile), element);
    });
}

template <class T>
std::vector<float> run_forward(const Case<T>& one, int x_offset, int out_offset) {
    Memory<T> x(one.x, x_offset), out(std::vector<float>(one.x.size(), kUnset), out_offset);
    cuda::fake_quantize(one.forward(x.data(), out.data(), kElement<T>), nullptr);
    check_same(x.floats(), one.x);
    return out.floats();
}

TEST(outputs_are_those_of_the_cpu_bit_for_bit) {
    for_each_case(true, [](const auto& one, auto) {
        const std::vector<float> want = one.wanted();
        for (const Order order : emulate::kOrders) {
            emulate::order = order;
            check_same(run_forward(one, 0, 0), want);
        }
        // Addresses that no pack may be read from, or written to.
        check_same(run_forward(one, 1, 0), want);
        check_same(run_forward(one, 0, 3), want);
    });
}

TEST(outputs_may_overwrite_their_input) {
    for_each_case(true, [](const auto& one, auto element) {
        using T = decltype(element);
        Memory<T> x(one.x, 0);
        cuda::fake_quantize(one.forward(x.data(), x.data(), kElement<T>), nullptr);
        check_same(x.floats(), one.wanted());
    });
}

/// The codes of one case, the first of them `offset` bytes after an address for packs.
template <class T>
std::vector<uint8_t> run_codes(const Case<T>& one, int x_offset, int offset) {
    Memory<T> x(one.x, x_offset);
    std::vector<uint8_t> codes(one.x.size() + static_cast<size_t>(offset), 77);
    cuda::quantize(one.forward(x.data(), codes.data() + offset, kElement<T>), nullptr);
    check_same(x.floats(), one.x);
    return {codes.begin() + offset, codes.end()};
}

TEST(codes_are_those_of_the_cpu) {
    for_each_case(true, [](const auto& one, auto) {
        std::vector<uint8_t> want(one.x.size(), 78);
        cpu::quantize(one.forward(one.x.data(), want.data(), Element::kFloat32), kCpuThreads);
        for (const Order order : emulate::kOrders) {
            emulate::order = order;
            CHECK(run_codes(one, 0, 0) == want);
        }
        CHECK(run_codes(one, 1, 0) == want);
        CHECK(run_codes(one, 0, 3) == want);
    });
}

/// Where the gradient of x goes.
enum class Target { apart, grad, x };

template <class T>
Gradients run_backward(const Case<T>& one, const int (&offsets)[3], Target target = Target::apart) {
    Memory<T> grad(one.grad, offsets[0]), x(one.x, offsets[1]);
    Memory<T> apart(std::vector<float>(one.x.size(), kUnset), offsets[2]);
    Memory<T>& grad_x = target == Target::apart ? apart : target == Target::grad ? grad : x;
    const Shape& s = one.shape;
    std::vector<double> partials(static_cast<size_t>(fake_quantize_partials(s.outer, s.channels, s.inner)),
                                 static_cast<double>(kUnset));
    std::vector<float> step(one.step.size(), kUnset);
    cuda::fake_quantize_backward(
        one.backward(grad.data(), x.data(), grad_x.data(), step.data(), partials.data(), kElement<T>),
        nullptr);
    if (target != Target::grad) check_same(grad.floats(), one.grad);
    if (target != Target::x) check_same(x.floats(), one.x);
    return {grad_x.floats(), step};
}

template <class T>
void check_gradients(const Case<T>& one) {
    const Gradients want = one.wanted_gradients();
    // Another order of a sum of `terms` numbers; a float is what is left of the double.
    const double terms = static_cast<double>(one.shape.count());
    std::vector<float> first;
    const auto check = [&](const Gradients& got) {
        check_same(got.x, want.x);
        for (size_t c = 0; c < got.step.size(); ++c)
            CHECK_NEAR(got.step[c], want.step[c], 1e-6 * (1.0 + std::abs(want.step[c])) + 1e-12 * terms);
    };
    for (const Order order : emulate::kOrders) {
        emulate::order = order;
        const Gradients got = run_backward(one, {0, 0, 0});
        check(got);
        if (first.empty()) first = got.step;
        check_same(got.step, first);  // the tree is fixed: not one bit may depend on the order
    }
    for (const auto& offsets : {std::array{1, 0, 0}, std::array{0, 2, 0}, std::array{0, 0, 3}})
        check(run_backward(one, {offsets[0], offsets[1], offsets[2]}));
}

void check_gradients(bool hostile) {
    for_each_case(hostile, [](const auto& one, auto) { check_gradients(one); });
}

TEST(gradients_are_those_of_the_cpu) {
    check_gradients(false);
    check_gradients(true);  // most sums of these are NaN
}

TEST(learned_steps_have_floors_and_signs_as_on_the_cpu) {
    for_each_case(false, [](const auto& plain, auto) {
        for (const bool one_step : {false, true}) {
            auto one = plain;
            one.learn(one_step);
            check_same(run_forward(one, 0, 0), one.wanted());
            check_gradients(one);
        }
    });
}

TEST(gradients_may_overwrite_their_inputs) {
    for_each_case(false, [](const auto& one, auto) {
        const Gradients want = run_backward(one, {0, 0, 0});
        for (const Target target : {Target::grad, Target::x}) {
            const Gradients got = run_backward(one, {0, 0, 0}, target);
            check_same(got.x, want.x);
            check_same(got.step, want.step);
        }
    });
}

/// Walks the pieces of a plan as the kernels do, and counts how often each element is met, and by whom.
void check_plan(const cuda::Plan& plan, int pack) {
    const int64_t width = plan.width();
    std::vector<int> met(static_cast<size_t>(plan.outer * width));
    const auto meet = [&](int64_t at, int64_t channel) {
        CHECK_EQ(at / plan.inner % plan.channels, channel);
        ++met.at(static_cast<size_t>(at));
    };
    if (plan.columns()) {
        for (int64_t piece = 0; piece < plan.groups() * (width / pack); ++piece) {
            const cuda::Strip at(plan, piece, width / pack, pack);
            CHECK(at.group < plan.groups());
            for (int64_t line = at.first; line < at.last; ++line)
                for (int64_t k = at.column; k < at.column + pack; ++k) meet(line * width + k, k / plan.inner);
        }
    } else {
        for (int64_t piece = 0; piece < plan.partials(); ++piece) {
            const cuda::Segment at(plan, piece);
            for (int64_t i = at.start; i < at.start + at.count; ++i) meet(i, at.channel);
        }
    }
    CHECK(std::all_of(met.begin(), met.end(), [](int times) { return times == 1; }));
}

TEST(plan_meets_every_element_once) {
    for (const int64_t outer : {1, 2, 64, 65})
        for (const int64_t channels : {1, 3, 8})
            for (const int64_t inner : {1, 31, 32, 33, 1023, 1024, 1025})
                for (const int pack : {1, 4, 8})
                    if (const cuda::Plan plan{outer, channels, inner}; plan.whole(pack))
                        check_plan(plan, pack);
    check_plan({1, 1, 1'000'003}, 4);
}

}  // namespace
