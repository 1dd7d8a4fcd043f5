#include "core/cost.h"

#include <random>

#include "check.h"

namespace {

// 128 bits hold every product and sum below, so overflow in 64 bits cannot hide.
__extension__ typedef __int128 Wide;

TEST(is_exact_up_to_the_last_integer) {
    std::mt19937_64 random(1);
    int64_t largest = 0;
    for (int trial = 0; trial < 20'000; ++trial) {
        const int64_t layers = static_cast<int64_t>(random() % 30);
        const int64_t most = layers == 0 ? 0 : std::numeric_limits<int64_t>::max() / (64 * layers);
        std::vector<int64_t> bits, macs, weights;
        Wide bops = 0, weight_bits = 0;
        for (int64_t layer = 0; layer < layers; ++layer) {
            const int64_t w = static_cast<int64_t>(random() % 9), a = static_cast<int64_t>(random() % 9);
            bits.insert(bits.end(), {w, a});
            macs.push_back(static_cast<int64_t>(random() % static_cast<uint64_t>(most + 1)));
            weights.push_back(static_cast<int64_t>(random() % static_cast<uint64_t>(most + 1)));
            bops += static_cast<Wide>(macs.back()) * w * a;
            weight_bits += static_cast<Wide>(weights.back()) * w;
        }
        const ribs::Cost found = ribs::config_cost(bits.data(), macs.data(), weights.data(), layers);
        CHECK(found.bops == bops);
        CHECK(found.weight_bits == weight_bits);
        largest = std::max(largest, found.bops);
    }
    CHECK(largest > std::numeric_limits<int64_t>::max() / 4);  // or the data tried small numbers only
}

TEST(no_layers_cost_nothing) {
    const ribs::Cost found = ribs::config_cost(nullptr, nullptr, nullptr, 0);
    CHECK_EQ(found.bops, 0);
    CHECK_EQ(found.weight_bits, 0);
}

TEST(weights_and_activations_have_their_places) {
    const int64_t bits[] = {2, 8, 4, 3}, macs[] = {10, 100}, weights[] = {1000, 10000};
    const ribs::Cost found = ribs::config_cost(bits, macs, weights, 2);
    CHECK_EQ(found.bops, 10 * 2 * 8 + 100 * 4 * 3);
    CHECK_EQ(found.weight_bits, 1000 * 2 + 10000 * 4);
}

}  // namespace
