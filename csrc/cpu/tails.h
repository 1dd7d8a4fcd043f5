#pragma once

#include <vector>

#include "core/moments.h"
#include "cpu/sketch.h"

namespace ribs::cpu {

/// Smallest and largest of a run, its sum of squares, and whether all of it is finite.
struct RowScan {
    float minimum, maximum;
    double square;
    bool finite;
};

RowScan scan_row(const float* x, int64_t n);

/// Workspace of one thread for the tails of one row or tensor after another. What it returns points into it.
class Tails {
  public:
    /// The moments of a short row that is not constant.
    BinnedMoments<EvenBins> of_row(const float* x, int64_t n, const RowScan& scan, bool symmetric);
    /// The moments of a sketched tensor that is not constant.
    BinnedMoments<FormatBins> of_sketch(const TensorSketch& sketch);
    /// Sorts values and sums them up.
    SortedMoments of_sorted(const float* x, int64_t n, const RowScan& scan);

  private:
    void load_side(const TensorSketch& sketch, int side, const FormatBins& bins, const OctaveSums* sums,
                   std::vector<Tail>& tails);

    std::vector<Tail> positive_, negative_, both_, entries_;
    std::vector<uint32_t> positions_;
    std::vector<uint64_t> words_;
    std::vector<float> values_;
};

}  // namespace ribs::cpu
