#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

// What a test of the bits of one source file of csrc/cpu consists of; see same_bits in ../CMakeLists.txt.
// Every instruction set has an executable of its own: in one, the linker would take the inline functions of
// any of them.

namespace bits {

/// All that the operators wrote, as bytes.
class Output {
  public:
    void add(const std::vector<uint8_t>& values) { bytes.insert(bytes.end(), values.begin(), values.end()); }

    /// Every NaN is the same: which operand a machine takes its bits from depends on their order.
    void add(std::vector<float> values) {
        for (float& value : values)
            if (std::isnan(value)) value = std::numeric_limits<float>::quiet_NaN();
        const size_t start = bytes.size();
        bytes.resize(start + values.size() * sizeof(float));
        if (!values.empty()) std::memcpy(bytes.data() + start, values.data(), values.size() * sizeof(float));
    }

    std::vector<uint8_t> bytes;
};

/// Floats of every exponent and sign, also denormals, NaN and infinities, between those of usual size.
inline std::vector<float> hostile(int64_t count, unsigned seed) {
    std::mt19937 random(seed);
    std::vector<float> result(static_cast<size_t>(count));
    for (float& value : result) {
        const uint32_t any = static_cast<uint32_t>(random());
        if (random() % 4 == 0)
            std::memcpy(&value, &any, sizeof value);
        else  // up to 16, either sign, many of them ties of a step of 1/4
            value = (static_cast<float>(any % 1024) - 512.0f) / (any % 3 == 0 ? 32.0f : 31.0f);
    }
    return result;
}

/// Calls the operators of one source file. Defined by each test.
void run(Output& output);

}  // namespace bits
