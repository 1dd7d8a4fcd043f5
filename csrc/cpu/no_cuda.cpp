#include <stdexcept>
#include <string>

#include "ops.h"

namespace ribs {

int64_t fake_quantize_partials(int64_t, int64_t, int64_t) {
    return 0;
}

int64_t fake_quantize_levels_partials(int64_t, int32_t) {
    return 0;
}

int64_t soft_round_partials(int64_t) {
    return 0;
}

int64_t drop_partials(int64_t) {
    return 0;
}

int64_t search_steps_workspace(int64_t, int64_t, bool) {
    return 0;
}

namespace cuda {
namespace {

[[noreturn]] void refuse(const char* name) {
    throw std::runtime_error(std::string("[") + name +
                             "] ribs was built without CUDA; rebuild with nvcc on PATH and RIBS_CUDA=ON");
}

}  // namespace

void fake_quantize(const FakeQuantizeParams&, Stream) {
    refuse("fake_quantize");
}
void quantize(const FakeQuantizeParams&, Stream) {
    refuse("quantize");
}
void fake_quantize_backward(const FakeQuantizeBackwardParams&, Stream) {
    refuse("fake_quantize_backward");
}
void fake_quantize_levels(const LevelsParams&, Stream) {
    refuse("fake_quantize_levels");
}
void fake_quantize_levels_backward(const LevelsBackwardParams&, Stream) {
    refuse("fake_quantize_levels_backward");
}
void soft_round(const SoftRoundParams&, Stream) {
    refuse("soft_round");
}
void soft_round_backward(const SoftRoundBackwardParams&, Stream) {
    refuse("soft_round_backward");
}
void drop(const DropParams&, Stream) {
    refuse("drop");
}
void drop_backward(const DropBackwardParams&, Stream) {
    refuse("drop_backward");
}
void search_steps(const SearchStepsParams&, Stream) {
    refuse("search_steps");
}
void sketch(const float*, int64_t, const SketchParams&, Stream) {
    refuse("sketch");
}
void config_cost(const ConfigCostParams&, Stream) {
    refuse("config_cost");
}
void pack_bits(const PackBitsParams&, Stream) {
    refuse("pack_bits");
}
void unpack_bits(const UnpackBitsParams&, Stream) {
    refuse("unpack_bits");
}

}  // namespace cuda
}  // namespace ribs
