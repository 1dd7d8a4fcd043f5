#pragma once

#include <cstdint>

// The whole native interface: plain parameters, one launch function an operation and backend. Pointers are
// dense and of the stated type; Python has validated them, allocated every output and keeps them alive.

namespace ribs {

/// A CUDA stream handle, as an opaque pointer so that this header needs no CUDA.
using Stream = void*;

/// Of x, its gradient and outputs; the CPU takes float32 only. Steps and their gradients are always float32.
enum class Element : int32_t { kFloat32, kFloat16, kBfloat16 };

/// What learned steps need besides. floor: like step, the least that is used, or null. signs: [channels], or
/// null: where one is negative, the result is the negative of that for -x. one_step: all channels have one
/// step, zero point and floor.
struct Learned {
    const float* floor = nullptr;
    const float* signs = nullptr;
    bool one_step = false;
};

/// x and out are [outer, channels, inner] in memory order; per tensor, outer and channels are 1. `out` is
/// like x and may be x itself, and `grad_x` may be grad or x. For quantize, `out` is apart and holds a byte a
/// code.
struct FakeQuantizeParams {
    const void* x;
    const float* step;
    const int32_t* zero_point;
    void* out;
    Element element;
    int64_t outer, channels, inner;
    int64_t qmin, qmax;
    Learned learned = {};
};

/// As above; `partials` holds fake_quantize_partials() doubles of workspace, on CUDA only, and `grad_step` is
/// multiplied by `scale`.
struct FakeQuantizeBackwardParams {
    const void* grad;
    const void* x;
    const float* step;
    const int32_t* zero_point;
    void* grad_x;
    float* grad_step;
    double* partials;
    Element element;
    int64_t outer, channels, inner;
    int64_t qmin, qmax;
    Learned learned = {};
    double scale = 1.0;
};

/// x and out are n elements in any order, apart; levels are 0..top, `steps` being `top` of them, or one where
/// log_sqrt2. See core/levels.h.
struct LevelsParams {
    const void* x;
    const float* steps;
    void* out;
    Element element;
    bool log_sqrt2;
    int32_t top;
    int64_t n;
};

/// As above; `sums` receives the top + 1 sums of LevelGradient, and `partials` holds
/// fake_quantize_levels_partials() doubles of workspace, on CUDA only.
struct LevelsBackwardParams {
    const void* grad;
    const void* x;
    const float* steps;
    void* grad_x;
    double* sums;
    double* partials;
    Element element;
    bool log_sqrt2;
    int32_t top;
    int64_t n;
};

/// n ascending values above zero, each of which stands for several. For each bit-width, a row of `steps`
/// [bits_count, 255] receives 2^bits - 1 of them, and `saved` what their levels take off the sum of squares.
struct SearchLevelsParams {
    const double* means;
    const double* counts;
    int64_t n;
    const int32_t* bits;
    int64_t bits_count;
    float* steps;
    double* saved;
};

/// All but step and zero_point, which are [channels], are [outer, channels, inner] in memory order. `penalty`
/// is one number, the sum of the penalties, and so is beta; beta = 0 is no penalty. `partials` holds
/// soft_round_partials() doubles of workspace, on CUDA only.
struct SoftRoundParams {
    const float* weight;
    const float* alpha;
    const float* step;
    const int32_t* zero_point;
    float* out;
    float* penalty;
    double* partials;
    int64_t outer, channels, inner;
    int64_t qmin, qmax;
    const float* beta;
};

/// As above; grad_penalty is one number.
struct SoftRoundBackwardParams {
    const float* grad;
    const float* grad_penalty;
    const float* weight;
    const float* alpha;
    const float* step;
    const int32_t* zero_point;
    float* grad_alpha;
    int64_t outer, channels, inner;
    int64_t qmin, qmax;
    const float* beta;
};

/// x and out are `inner` numbers in memory order, outer and channels are 1; step, zero_point and seed are one
/// number. kept is that of `Chance`.
struct DropParams {
    const float* x;
    const float* step;
    const int32_t* zero_point;
    float* out;
    int64_t outer, channels, inner;
    int64_t qmin, qmax;
    const int64_t* seed;
    int32_t kept;
};

/// As above; grad_step is one number, and `partials` holds drop_partials() doubles of workspace, on CUDA
/// only.
struct DropBackwardParams {
    const float* grad;
    const float* x;
    const float* step;
    const int32_t* zero_point;
    float* grad_x;
    float* grad_step;
    double* partials;
    int64_t outer, channels, inner;
    int64_t qmin, qmax;
    const int64_t* seed;
    int32_t kept;
};

/// x is [rows, n]; step, zero_point, mse and lower_bound are [bits_count, rows]. `nonfinite` receives the
/// number of rows with NaN or infinities, for which the other outputs are not written.
struct SearchStepsParams {
    const float* x;
    int64_t rows, n;
    const int32_t* bits;  ///< host memory
    int64_t bits_count;
    bool symmetric;
    bool exact;  ///< sort the values and prove the optimum to 2^-20, whatever it takes
    float* step;
    int32_t* zero_point;
    float* mse;
    float* lower_bound;
    int64_t* nonfinite;
    void* workspace;      ///< CUDA only: search_steps_workspace() bytes
    const float* sorted;  ///< CUDA only: x sorted by row where exact
};

/// The sketch of n values: `rows` octaves, each with its place (side * 256 + exponent), a count and a sum of
/// residuals for each of 2048 bins. The arrays have room for 512 rows. The CPU fills the first `rows` of
/// them; CUDA adds to zeros, every octave at its place, and leaves `places` alone.
struct SketchParams {
    int64_t rows;
    int64_t* places;     ///< [rows]
    int64_t* counts;     ///< [rows, 2048]
    int64_t* residuals;  ///< [rows, 2048]
    int64_t* squares;    ///< [272], see SquareCells
    int64_t* totals;     ///< [2]: count, zeros
    float* extremes;     ///< [2]: minimum, maximum; NaN on CUDA where a value is not finite
    void* workspace;     ///< CUDA only: 64 bytes
};

/// codes are [rows, n] of uint8, packed is [rows, bytes]: every row a little-endian stream of `bits` a code,
/// then zeros. `invalid` receives the index of the first code (packing) or row (unpacking) that does not fit,
/// or INT64_MAX; the outputs are then meaningless.
struct PackBitsParams {
    const uint8_t* codes;
    uint8_t* packed;
    int64_t* invalid;
    int64_t rows, n, bytes;
    int32_t bits;
};

/// As above, in the other direction.
struct UnpackBitsParams {
    const uint8_t* packed;
    uint8_t* codes;
    int64_t* invalid;
    int64_t rows, n, bytes;
    int32_t bits;
};

/// bits is [configs, layers, 2]; macs and weights are [layers]; bops and weight_bits are [configs].
struct ConfigCostParams {
    const int64_t* bits;
    const int64_t* macs;
    const int64_t* weights;
    int64_t* bops;
    int64_t* weight_bits;
    int64_t configs, layers;
};

/// Number of doubles the CUDA backward pass wants as workspace.
int64_t fake_quantize_partials(int64_t outer, int64_t channels, int64_t inner);
/// The same for levels.
int64_t fake_quantize_levels_partials(int64_t n, int32_t top);
/// Number of doubles the CUDA soft rounding of so many weights wants as workspace.
int64_t soft_round_partials(int64_t count);
/// Number of doubles the CUDA backward pass of drop wants as workspace for so many elements.
int64_t drop_partials(int64_t count);
/// Number of bytes the CUDA search wants as workspace.
int64_t search_steps_workspace(int64_t rows, int64_t n, bool exact);

namespace cpu {
/// Quantizes and dequantizes x.
void fake_quantize(const FakeQuantizeParams& p, int threads);
/// The codes of x; returns whether it holds NaN, whose code is qmin.
bool quantize(const FakeQuantizeParams& p, int threads);
/// LSQ gradients of x and the step.
void fake_quantize_backward(const FakeQuantizeBackwardParams& p, int threads);
/// Rounds x to levels.
void fake_quantize_levels(const LevelsParams& p, int threads);
/// nuLSQ gradients of x, and the sums that those of the steps are made of.
void fake_quantize_levels_backward(const LevelsBackwardParams& p, int threads);
/// MSE-optimal levels for every bit-width.
void search_levels(const SearchLevelsParams& p);
/// Weights between their two neighbours, and the sum of the penalties for it.
void soft_round(const SoftRoundParams& p, int threads);
/// The gradient of alpha.
void soft_round_backward(const SoftRoundBackwardParams& p, int threads);
/// Quantizes and dequantizes some values of x, and leaves the others.
void drop(const DropParams& p, int threads);
/// LSQ gradients of x and the step where x was quantized.
void drop_backward(const DropBackwardParams& p, int threads);
/// MSE-optimal steps of every row for every bit-width.
void search_steps(const SearchStepsParams& p, int threads);
/// Reads n values once and fills the sketch, rows included.
void sketch(const float* x, int64_t n, SketchParams& out, int threads);
/// As search_steps for one row, from its sketch; p.x is not read.
void search_sketch(const SketchParams& sketch, const SearchStepsParams& p);
/// Bit operations and weight bits of every configuration.
void config_cost(const ConfigCostParams& p, int threads);
/// Packs codes of a few bits into bytes.
void pack_bits(const PackBitsParams& p, int threads);
/// The inverse.
void unpack_bits(const UnpackBitsParams& p, int threads);
}  // namespace cpu

namespace cuda {
/// Quantizes and dequantizes x.
void fake_quantize(const FakeQuantizeParams& p, Stream stream);
/// The codes of x; that of NaN, and all of a bad step, is qmin.
void quantize(const FakeQuantizeParams& p, Stream stream);
/// LSQ gradients of x and the step.
void fake_quantize_backward(const FakeQuantizeBackwardParams& p, Stream stream);
/// Rounds x to levels.
void fake_quantize_levels(const LevelsParams& p, Stream stream);
/// nuLSQ gradients of x, and the sums that those of the steps are made of.
void fake_quantize_levels_backward(const LevelsBackwardParams& p, Stream stream);
/// Weights between their two neighbours, and the sum of the penalties for it.
void soft_round(const SoftRoundParams& p, Stream stream);
/// The gradient of alpha.
void soft_round_backward(const SoftRoundBackwardParams& p, Stream stream);
/// Quantizes and dequantizes some values of x, and leaves the others.
void drop(const DropParams& p, Stream stream);
/// LSQ gradients of x and the step where x was quantized.
void drop_backward(const DropBackwardParams& p, Stream stream);
/// MSE-optimal steps of every row for every bit-width.
void search_steps(const SearchStepsParams& p, Stream stream);
/// Reads n values twice and fills the sketch.
void sketch(const float* x, int64_t n, const SketchParams& out, Stream stream);
/// Bit operations and weight bits of every configuration.
void config_cost(const ConfigCostParams& p, Stream stream);
/// Packs codes of a few bits into bytes.
void pack_bits(const PackBitsParams& p, Stream stream);
/// The inverse.
void unpack_bits(const UnpackBitsParams& p, Stream stream);
}  // namespace cuda

}  // namespace ribs
