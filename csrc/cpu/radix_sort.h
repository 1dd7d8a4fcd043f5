#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

namespace ribs::cpu {

/// Sorts finite floats.
inline void radix_sort(std::vector<float>& values) {
    if (values.size() <= 256) {
        std::sort(values.begin(), values.end());
        return;
    }
    std::vector<uint32_t> keys(values.size()), spare(values.size());
    std::vector<size_t> counts(3 * 2048);
    for (size_t i = 0; i < values.size(); ++i) {
        uint32_t key;
        std::memcpy(&key, &values[i], 4);
        key ^= key >> 31 ? 0xffffffffu : 0x80000000u;  // integer order is now float order
        keys[i] = key;
        for (int pass = 0; pass < 3; ++pass)
            ++counts[static_cast<size_t>(pass << 11 | (key >> 11 * pass & 2047))];
    }
    for (int pass = 0; pass < 3; ++pass) {
        size_t* const places = counts.data() + (pass << 11);
        size_t start = 0;
        for (int digit = 0; digit < 2048; ++digit) start += std::exchange(places[digit], start);
        for (const uint32_t key : keys) spare[places[key >> 11 * pass & 2047]++] = key;
        keys.swap(spare);
    }
    for (size_t i = 0; i < values.size(); ++i) {
        const uint32_t bits = keys[i] ^ (keys[i] >> 31 ? 0x80000000u : 0xffffffffu);
        std::memcpy(&values[i], &bits, 4);
    }
}

}  // namespace ribs::cpu
