#include "bits.h"
#include "ops.h"

using namespace ribs;

void bits::run(Output& output) {
    struct Shape {
        int64_t outer, channels, inner;
    };
    for (const Shape& s :
         {Shape{1, 1, 1}, {1, 1, 15}, {1, 1, 70'001}, {3, 5, 1027}, {1, 40, 9}, {70, 5, 31}}) {
        const int64_t count = s.outer * s.channels * s.inner;
        const std::vector<float> weight = hostile(count, 1), alpha = hostile(count, 2),
                                 grad = hostile(count, 4);
        const std::vector<float> step(static_cast<size_t>(s.channels), 0.3f);
        const std::vector<int32_t> zero_point(step.size(), 2);
        for (const float beta : {0.0f, 1.0f, 2.0f, 7.3f, 20.0f}) {
            std::vector<float> out(weight.size()), grad_alpha(weight.size());
            float penalty = -1.0f;
            const float grad_penalty = 0.01f;
            cpu::soft_round({weight.data(), alpha.data(), step.data(), zero_point.data(), out.data(),
                             &penalty, nullptr, s.outer, s.channels, s.inner, -8, 7, &beta},
                            1);
            cpu::soft_round_backward(
                {grad.data(), &grad_penalty, weight.data(), alpha.data(), step.data(), zero_point.data(),
                 grad_alpha.data(), s.outer, s.channels, s.inner, -8, 7, &beta},
                1);
            output.add(out);
            output.add(std::vector<float>{penalty});
            output.add(grad_alpha);
        }
    }
}
