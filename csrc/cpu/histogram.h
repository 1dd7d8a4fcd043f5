#pragma once

#include <vector>

#include "core/moments.h"

namespace ribs::cpu {

/// What one pass over finite or non-finite values finds out.
struct Scan {
    float minimum, maximum;
    double square;
    int64_t nan, infinite;
};

/// Scans a run of at least one value; minimum and maximum are meaningless when a value is not finite.
Scan scan(const float* x, int64_t n);

/// The histogram of one row, in exact integers, so that threads may fill it in any order.
class Histogram {
  public:
    /// Reads `n` values in [minimum, maximum], minimum < maximum, and returns their moments, which point
    /// here.
    BinnedMoments load(const float* x, int64_t n, const Scan& range, int threads);

  private:
    void finish(const BinScale& scale);

    std::vector<int64_t> counts_, residuals_;
    std::vector<Tail> tails_;
    std::vector<double> squares_;
};

}  // namespace ribs::cpu
