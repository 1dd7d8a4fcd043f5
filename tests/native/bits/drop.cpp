#include "bits.h"
#include "ops.h"

using namespace ribs;

void bits::run(Output& output) {
    for (const int64_t count : {1, 15, 1027, 70'001}) {
        const std::vector<float> x = hostile(count, 1), grad = hostile(count, 2);
        const float step = 0.3f;
        const int32_t zero_point = 2;
        const int64_t seed = 77;
        for (const int32_t kept : {0, 1 << 22, 1 << 24}) {
            std::vector<float> out(x.size()), grad_x(x.size()), grad_step(1);
            cpu::drop({x.data(), &step, &zero_point, out.data(), 1, 1, count, 0, 15, &seed, kept}, 1);
            cpu::drop_backward({grad.data(), x.data(), &step, &zero_point, grad_x.data(), grad_step.data(),
                                nullptr, 1, 1, count, 0, 15, &seed, kept},
                               1);
            output.add(out);
            output.add(grad_x);
            output.add(grad_step);
        }
    }
}
