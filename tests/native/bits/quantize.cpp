#include "bits.h"
#include "ops.h"

using namespace ribs;

void bits::run(Output& output) {
    struct Shape {
        int64_t outer, channels, inner;
    };
    const Shape shapes[] = {{1, 1, 1},    {1, 1, 15},  {1, 1, 70'001}, {3, 5, 1027},               // rows
                            {1, 1000, 1}, {70, 5, 31}, {700, 3, 1},    {300, 40, 1}, {65, 7, 9}};  // columns
    for (const Shape& s : shapes)
        for (const bool nan : {false, true}) {
            std::vector<float> x = hostile(s.outer * s.channels * s.inner, 1), step = hostile(s.channels, 3);
            for (float& value : x)
                if (!nan && std::isnan(value)) value = 1.0f;
            std::vector<int32_t> zero_point;
            for (size_t c = 0; c < step.size(); ++c) {
                zero_point.push_back(c % 9 == 8 ? std::numeric_limits<int32_t>::min()
                                                : static_cast<int32_t>(c % 16));
                if (c % 4 != 1) step[c] = c % 3 == 0 ? 0.25f : 0.3f;
            }
            std::vector<uint8_t> codes(x.size());
            for (const auto& [qmin, qmax] : {std::pair{0, 255}, {-128, 127}, {3, 12}}) {
                const bool found =
                    cpu::quantize({x.data(), step.data(), zero_point.data(), codes.data(), Element::kFloat32,
                                   s.outer, s.channels, s.inner, qmin, qmax},
                                  1);
                output.add(codes);
                output.add(std::vector<uint8_t>{found});
            }
        }
}
