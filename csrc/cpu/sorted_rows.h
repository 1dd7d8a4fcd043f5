#pragma once

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "core/moments.h"

namespace ribs::cpu {

/// Workspace of one thread to sort a row and sum it up.
class SortedRow {
  public:
    /// Sorts `n` finite values and returns their moments, which point into this object.
    SortedMoments load(const float* x, int64_t n) {
        const size_t size = static_cast<size_t>(n);
        values_.assign(x, x + n);
        n > 256 ? radix_sort() : std::sort(values_.begin(), values_.end());
        tails_.resize(size + 1);
        squares_.resize(size + 1);
        tails_[size] = {0.0, 0.0};
        squares_[size] = 0.0;
        for (size_t i = size; i-- > 0;) {
            const double value = static_cast<double>(values_[i]);
            tails_[i] = {tails_[i + 1].count + 1.0, tails_[i + 1].sum + value};
            squares_[i] = squares_[i + 1] + value * value;
        }
        const Totals all = {static_cast<double>(n), tails_[0].sum, squares_[0],
                            static_cast<double>(values_.front()), static_cast<double>(values_.back())};
        return index(all, n);
    }

  private:
    SortedMoments index(const Totals& all, int64_t n) {
        SortedMoments m{all, values_.data(), tails_.data(), squares_.data(), nullptr, 0.0, n};
        if (n <= 16 || all.maximum == all.minimum) return m;
        m.bucket_scale = static_cast<double>(n) / (all.maximum - all.minimum);
        buckets_.resize(static_cast<size_t>(n) + 1);
        size_t next = 0;
        for (size_t i = 0; i < values_.size(); ++i) {
            const double place = (static_cast<double>(values_[i]) - all.minimum) * m.bucket_scale;
            const size_t bucket = std::min(static_cast<size_t>(place), static_cast<size_t>(n - 1));
            while (next <= bucket) buckets_[next++] = static_cast<int32_t>(i);
        }
        while (next <= static_cast<size_t>(n)) buckets_[next++] = static_cast<int32_t>(n);
        m.buckets = buckets_.data();
        return m;
    }

    void radix_sort() {
        const size_t n = values_.size();
        keys_.resize(n);
        spare_.resize(n);
        uint32_t counts[3][2048] = {};
        for (size_t i = 0; i < n; ++i) {
            uint32_t key;
            std::memcpy(&key, &values_[i], 4);
            key ^= key >> 31 ? 0xffffffffu : 0x80000000u;  // integer order is now float order
            keys_[i] = key;
            ++counts[0][key & 2047];
            ++counts[1][key >> 11 & 2047];
            ++counts[2][key >> 22];
        }
        for (int pass = 0; pass < 3; ++pass) {
            uint32_t start = 0;
            for (uint32_t& count : counts[pass]) start += std::exchange(count, start);
            for (const uint32_t key : keys_) spare_[counts[pass][key >> 11 * pass & 2047]++] = key;
            keys_.swap(spare_);
        }
        for (size_t i = 0; i < n; ++i) {
            const uint32_t bits = keys_[i] ^ (keys_[i] >> 31 ? 0x80000000u : 0xffffffffu);
            std::memcpy(&values_[i], &bits, 4);
        }
    }

    std::vector<float> values_;
    std::vector<Tail> tails_;
    std::vector<double> squares_;
    std::vector<int32_t> buckets_;
    std::vector<uint32_t> keys_, spare_;
};

}  // namespace ribs::cpu
