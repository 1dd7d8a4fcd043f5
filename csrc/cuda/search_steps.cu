#include <cfloat>

#include "cuda/sketch.cuh"
#include "cuda/step_search.cuh"
#include "cuda/tails.cuh"

namespace ribs {

int64_t search_steps_workspace(int64_t rows, int64_t n, bool exact) {
    constexpr int64_t kWidths = 8;
    return cuda::Workspace(nullptr, rows, n, exact, kWidths).bytes;
}

namespace cuda {
namespace {

/// The answer of a block.
__device__ Answer search_row(const SearchStepsParams& p, const Workspace& work, Way way, int64_t row,
                             Codes codes, Shared& shared, ShortRow& values, Interval* open) {
    const RowState& state = work.state[row];
    const bool zero = only_zero(state.all, codes);
    if (way == Way::values) {
        const Candidate best = search_short(p.x + row * p.n, state.all, codes, shared, values);
        const double proven = zero ? state.all.square : larger(0.0, best.error - rounding(state.all.square));
        return {best, zero || tries_all(p.n, codes) ? proven : 0.0};
    }
    if (zero) return {zero_candidate(state.all), state.all.square};
    if (way == Way::even_bins) {
        RowScale scale{};
        frexp(state.all.largest(), &scale.exponent);
        const BinnedMoments<EvenBins> m = {state.all,
                                           {scale.bins_per_unit(), 1 << RowScale::kBinBits},
                                           work.side(row, 0),
                                           work.side(row, 1),
                                           work.side(row, 2)};
        BlockSearch<BinnedMoments<EvenBins>, false> search{m, codes, shared};
        search.swift();
        return {search.best, 0.0};
    }
    if (way == Way::format_bins) {
        const BinnedMoments<FormatBins> m = {state.all, FormatBins::of_octaves(state.first, state.last),
                                             work.side(row, 0), work.side(row, 1), work.side(row, 2)};
        BlockSearch<BinnedMoments<FormatBins>, true> search{m, codes, shared};
        const double lower = search.proven(false, open);
        return {search.best, lower};
    }
    const SortedMoments m = {state.all, p.sorted + row * p.n, work.tails + row * work.entries};
    BlockSearch<SortedMoments, true> search{m, codes, shared};
    const double lower = search.proven(true, open);
    return {search.best, lower};
}

/// Grid: (rows, bit-widths). `widths` holds a bit-width in each byte.
__global__ void __launch_bounds__(kSearchThreads)
    search_kernel(SearchStepsParams p, Workspace work, Way way, unsigned long long widths) {
    __shared__ Shared shared;
    __shared__ ShortRow values;
    const int64_t level = blockIdx.y, bits = static_cast<int64_t>(widths >> 8 * level & 255);
    const Codes codes = {1 << bits, p.symmetric};
    for (int64_t row = blockIdx.x; row < p.rows; row += gridDim.x) {
        const RowState& state = work.state[row];
        const double n = static_cast<double>(p.n);
        const int64_t at = level * p.rows + row;
        if (state.usable == 0) {
            if (threadIdx.x == 0) {
                p.step[at] = p.mse[at] = p.lower_bound[at] = nanf("");
                p.zero_point[at] = 0;
            }
            continue;
        }
        Answer found;
        double error;
        if (state.usable == 1) {
            found.best = constant_candidate(state.all, codes);
            found.lower = error = found.best.error;
        } else {
            Interval* const open =
                work.intervals + (row * gridDim.y + level) * 2 * static_cast<int64_t>(kOpen);
            found = search_row(p, work, way, row, codes, shared, values, open);
            error = found.best.error;
            if (p.n <= kSwiftRow || p.exact) {
                const Quantizer q = quantizer_of(found.best, codes);
                error = row_error(p.x + row * p.n, p.n, q, shared);
            }
        }
        if (threadIdx.x == 0) {
            p.step[at] = static_cast<float>(found.best.step);
            p.zero_point[at] = found.best.zero_point;
            p.mse[at] = static_cast<float>(larger(error, 0.0) / n);
            p.lower_bound[at] = static_cast<float>(smaller(found.lower, larger(error, 0.0)) / n);
        }
        __syncthreads();
    }
}

void fill_tails(const SearchStepsParams& p, const Workspace& work, Way way, cudaStream_t stream) {
    const unsigned rows = blocks(p.rows, 1);
    const dim3 octaves(2 * kOctaves, blocks(p.rows, 1, kMaxBlocks)), sides(2, blocks(p.rows, 1, kMaxBlocks));
    if (way == Way::format_bins) {
        if (cudaMemsetAsync(work.counts, 0, static_cast<size_t>(work.cleared()), stream) != cudaSuccess)
            check_launch("search_steps");
        sketch_rows(p, work, stream);
        octaves_kernel<<<octaves, kTailThreads, 0, stream>>>(p, work);
        state_kernel<<<rows, kTailThreads, 0, stream>>>(p, work);
        format_kernel<<<sides, kTailThreads, 0, stream>>>(p, work);
        both_kernel<<<rows, kTailThreads, 0, stream>>>(p, work);
    } else {
        scan_kernel<<<rows, 32, 0, stream>>>(p, work);
    }
    if (way == Way::even_bins) {
        const int bytes = (2 << RowScale::kBinBits) * static_cast<int>(sizeof(unsigned long long));
        if (cudaFuncSetAttribute(even_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes) !=
            cudaSuccess)
            check_launch("search_steps");
        even_kernel<<<rows, kTailThreads, static_cast<size_t>(bytes), stream>>>(p, work);
    }
    if (way == Way::sorted) sorted_kernel<<<rows, kTailThreads, 0, stream>>>(p, work);
    check_launch("search_steps");
}

/// The rest of a sketch, by one thread.
__global__ void finish_kernel(SketchParams out, int64_t n) {
    const RowExtremes& e = *static_cast<const RowExtremes*>(out.workspace);
    const float2 ends = ends_of(e);
    out.extremes[0] = ends.x;
    out.extremes[1] = ends.y;
    out.totals[0] = n;
    out.totals[1] = static_cast<int64_t>(e.zeros);
    SquareCells{out.squares}.carry();
}

}  // namespace

void sketch(const float* x, int64_t n, const SketchParams& out, Stream opaque) {
    static_assert(sizeof(RowExtremes) <= 64, "the workspace of a sketch");
    SearchStepsParams p{};
    p.x = x;
    p.rows = 1;
    p.n = n;
    Workspace work;
    work.counts = reinterpret_cast<unsigned long long*>(out.counts);
    work.residuals = reinterpret_cast<unsigned long long*>(out.residuals);
    work.squares = reinterpret_cast<long long*>(out.squares);
    work.extremes = static_cast<RowExtremes*>(out.workspace);
    sketch_rows(p, work, handle(opaque));
    finish_kernel<<<1, 1, 0, handle(opaque)>>>(out, n);
    check_launch("sketch");
}

void search_steps(const SearchStepsParams& p, Stream opaque) {
    const cudaStream_t stream = handle(opaque);
    const Way way = way_of(p.n, p.exact);
    // Eight widths a launch: their numbers travel in one word.
    const Workspace work(p.workspace, p.rows, p.n, p.exact, std::min<int64_t>(p.bits_count, 8));
    fill_tails(p, work, way, stream);
    for (int64_t first = 0; first < p.bits_count; first += 8) {
        const int64_t count = std::min<int64_t>(8, p.bits_count - first);
        unsigned long long widths = 0;
        for (int64_t i = 0; i < count; ++i)
            widths |= static_cast<unsigned long long>(p.bits[first + i]) << 8 * i;
        SearchStepsParams part = p;
        part.step += first * p.rows;
        part.zero_point += first * p.rows;
        part.mse += first * p.rows;
        part.lower_bound += first * p.rows;
        const int threads = way == Way::format_bins || way == Way::sorted ? kSearchThreads : kRowThreads;
        search_kernel<<<dim3(blocks(p.rows, 1), static_cast<unsigned>(count)), threads, 0, stream>>>(
            part, work, way, widths);
        check_launch("search_steps");
    }
}

}  // namespace cuda
}  // namespace ribs
