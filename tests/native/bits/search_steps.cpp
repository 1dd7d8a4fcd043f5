#include <algorithm>

#include "bits.h"
#include "ops.h"

using namespace ribs;

void bits::run(Output& output) {
    const std::vector<int32_t> widths = {2, 5, 8};
    for (const int64_t n : {9, 60, 700, 4608, 9001})
        for (const bool symmetric : {true, false}) {
            std::vector<float> x = hostile(2 * n, static_cast<unsigned>(n));
            for (float& value : x)
                if (!(std::abs(value) < 1e3f)) value = 0.0f;
            std::vector<float> step(6), mse(6), lower_bound(6);
            std::vector<int32_t> zero_point(6);
            int64_t nonfinite = 0;
            cpu::search_steps(
                {x.data(), 2, n, widths.data(), 3, symmetric, false, step.data(), zero_point.data(),
                 mse.data(), lower_bound.data(), &nonfinite, nullptr, nullptr},
                1);
            output.add(step);
            output.add(mse);
            output.add(lower_bound);
            output.add(std::vector<float>(zero_point.begin(), zero_point.end()));
        }
}
