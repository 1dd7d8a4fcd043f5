#include "bits.h"
#include "ops.h"

using namespace ribs;

void bits::run(Output& output) {
    struct Shape {
        int64_t outer, channels, inner;
    };
    const Shape shapes[] = {{1, 1, 1},    {1, 1, 15},  {1, 1, 70'001}, {3, 5, 1027},               // rows
                            {1, 1000, 1}, {70, 5, 31}, {700, 3, 1},    {300, 40, 1}, {65, 7, 9}};  // columns
    for (const Shape& s : shapes) {
        const int64_t count = s.outer * s.channels * s.inner;
        const std::vector<float> x = hostile(count, 1), grad = hostile(count, 2);
        std::vector<float> out(x.size()), grad_x(x.size()), step = hostile(s.channels, 3);
        std::vector<float> grad_step(step.size());
        std::vector<int32_t> zero_point;
        for (size_t c = 0; c < step.size(); ++c) {
            zero_point.push_back(static_cast<int32_t>(c % 16));
            if (c % 4 != 1) step[c] = c % 3 == 0 ? 0.25f : 0.3f;
        }
        for (const bool tame : {false, true}) {  // or almost every sum would be NaN
            std::vector<float> used = grad;
            for (float& value : used)
                if (tame && !(std::abs(value) < 1e30f)) value = 1.0f;
            cpu::fake_quantize({x.data(), step.data(), zero_point.data(), out.data(), Element::kFloat32,
                                s.outer, s.channels, s.inner, 0, 15},
                               1);
            cpu::fake_quantize_backward(
                {used.data(), x.data(), step.data(), zero_point.data(), grad_x.data(), grad_step.data(),
                 nullptr, Element::kFloat32, s.outer, s.channels, s.inner, 0, 15},
                1);
            output.add(out);
            output.add(grad_x);
            output.add(grad_step);
        }
    }
}
