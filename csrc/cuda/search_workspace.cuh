#pragma once

#include "core/step_refine.h"
#include "core/step_search.h"
#include "cuda/launch.cuh"

namespace ribs::cuda {

constexpr int64_t kKeys = int64_t{kOctaves} << kSketchBits;  ///< bins of one side of a sketch

/// What the kernels of a search know of a row.
struct RowState {
    Totals all;
    int32_t usable;       ///< 0: not finite, 1: constant, 2: to be searched
    int32_t first, last;  ///< octaves that a sketched search keeps
};

/// What the sketch of a row finds before its bins are known.
struct RowExtremes {
    unsigned highest, lowest, largest;  ///< as Extremes of the CPU: words, and the largest magnitude
    int positive;
    unsigned long long zeros;
};

/// How rows of n values are searched.
enum class Way { values, even_bins, format_bins, sorted };

inline Way way_of(int64_t n, bool exact) {
    if (n <= kExactRow || (n <= kShortRow && !exact)) return Way::values;
    if (exact) return Way::sorted;
    return n <= kSwiftRow ? Way::even_bins : Way::format_bins;
}

/// The pieces of the workspace, as offsets into one allocation. `rows` of each; null where the way has none.
struct Workspace {
    RowState* state = nullptr;
    int64_t entries = 0;    ///< tails of one side of a row
    Tail* tails = nullptr;  ///< [rows, 3, entries]: positive, negative, both
    RowExtremes* extremes = nullptr;
    OctaveSums* octaves = nullptr;            ///< [rows, 2 * kOctaves]
    unsigned long long* counts = nullptr;     ///< [rows, 2, kKeys]
    unsigned long long* residuals = nullptr;  ///< [rows, 2, kKeys]
    long long* squares = nullptr;             ///< [rows, kSquareCells]
    Interval* intervals = nullptr;            ///< [rows, widths, 2, kOpen]
    int64_t bytes = 0;

    Workspace() = default;
    Workspace(void* memory, int64_t rows, int64_t n, bool exact, int64_t widths) {
        const Way way = way_of(n, exact);
        const bool sketched = way == Way::format_bins, proven = sketched || way == Way::sorted;
        entries = way == Way::even_bins ? (int64_t{1} << RowScale::kBinBits) + 2
                  : sketched            ? kKeys + 3
                  : way == Way::sorted  ? n + 2
                                        : 0;
        char* next = static_cast<char*>(memory);
        const auto take = [&](auto*& piece, int64_t count) {
            using T = std::remove_reference_t<decltype(*piece)>;
            piece = count > 0 ? reinterpret_cast<T*>(next + bytes) : nullptr;
            bytes += (count * static_cast<int64_t>(sizeof(T)) + 255) / 256 * 256;
        };
        take(counts, sketched ? rows * 2 * kKeys : 0);  // first: zeroed together
        take(residuals, sketched ? rows * 2 * kKeys : 0);
        take(squares, sketched ? rows * kSquareCells : 0);
        take(state, rows);
        take(tails, rows * entries * (way == Way::sorted ? 1 : 3));
        take(extremes, sketched ? rows : 0);
        take(octaves, sketched ? rows * 2 * kOctaves : 0);
        take(intervals, proven ? rows * widths * 2 * static_cast<int64_t>(kOpen) : 0);
    }
    __device__ Tail* side(int64_t row, int side) const { return tails + (row * 3 + side) * entries; }
    __host__ __device__ int64_t cleared() const {
        return reinterpret_cast<char*>(state) - reinterpret_cast<char*>(counts);
    }
};

}  // namespace ribs::cuda
