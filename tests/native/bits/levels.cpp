#include "bits.h"
#include "ops.h"

using namespace ribs;

void bits::run(Output& output) {
    for (const int64_t n : {1, 63, 70'001})
        for (const bool log_sqrt2 : {false, true})
            for (const int width : {1, 4, 5, 8}) {
                const std::vector<float> x = hostile(n, 1), grad = hostile(n, 2);
                const std::vector<float> steps((size_t{1} << width) - 1, 0.3f);
                const int32_t top = (1 << width) - !log_sqrt2;
                std::vector<float> out(x.size()), grad_x(x.size());
                std::vector<double> sums(static_cast<size_t>(top) + 1);
                cpu::fake_quantize_levels(
                    {x.data(), steps.data(), out.data(), Element::kFloat32, log_sqrt2, top, n}, 1);
                cpu::fake_quantize_levels_backward(
                    {grad.data(), x.data(), steps.data(), grad_x.data(), sums.data(), nullptr,
                     Element::kFloat32, log_sqrt2, top, n},
                    1);
                output.add(out);
                output.add(grad_x);
                output.add(std::vector<float>(sums.begin(), sums.end()));
            }
}
