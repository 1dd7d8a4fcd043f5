#include <string>
#include <vector>

#include "bindings/register.h"
#include "ops.h"

// Every function takes addresses, sizes and a place to run: `threads` >= 1 on the CPU, or `threads` = 0 and a
// CUDA stream. Nothing here checks, copies, casts or allocates tensors; ribs.ops does.

namespace ribs::bindings {
namespace py = pybind11;

void register_build(py::module_& m) {
    m.def("build_info", [] {
        const bool cuda = std::string(RIBS_CUDA_VERSION).size() > 0;
        py::dict info;
        info["version"] = RIBS_VERSION;
        info["cuda"] = cuda;
        info["cuda_version"] = cuda ? py::object(py::str(RIBS_CUDA_VERSION)) : py::none();
        info["cuda_architectures"] = RIBS_CUDA_ARCHITECTURES;
        info["compiler"] = RIBS_COMPILER;
        info["build_type"] = RIBS_BUILD_TYPE;
        return info;
    });
}

void register_fake_quantize(py::module_& m) {
    m.def("fake_quantize_partials", &fake_quantize_partials);
    m.def(
        "fake_quantize",
        [](uintptr_t x, uintptr_t step, uintptr_t zero_point, uintptr_t out, int32_t element, int64_t outer,
           int64_t channels, int64_t inner, int64_t qmin, int64_t qmax, uintptr_t floor, uintptr_t signs,
           bool one_step, int threads, uintptr_t stream) {
            const FakeQuantizeParams p{pointer<const void>(x),
                                       pointer<const float>(step),
                                       pointer<const int32_t>(zero_point),
                                       pointer<void>(out),
                                       static_cast<Element>(element),
                                       outer,
                                       channels,
                                       inner,
                                       qmin,
                                       qmax,
                                       {pointer<const float>(floor), pointer<const float>(signs), one_step}};
            threads > 0 ? cpu::fake_quantize(p, threads) : cuda::fake_quantize(p, pointer<void>(stream));
        },
        py::call_guard<py::gil_scoped_release>());
    m.def(
        "quantize",
        [](uintptr_t x, uintptr_t step, uintptr_t zero_point, uintptr_t out, int32_t element, int64_t outer,
           int64_t channels, int64_t inner, int64_t qmin, int64_t qmax, int threads, uintptr_t stream) {
            const FakeQuantizeParams p{pointer<const void>(x),
                                       pointer<const float>(step),
                                       pointer<const int32_t>(zero_point),
                                       pointer<void>(out),
                                       static_cast<Element>(element),
                                       outer,
                                       channels,
                                       inner,
                                       qmin,
                                       qmax};
            if (threads > 0) return cpu::quantize(p, threads);
            cuda::quantize(p, pointer<void>(stream));
            return false;
        },
        py::call_guard<py::gil_scoped_release>());
    m.def(
        "fake_quantize_backward",
        [](uintptr_t grad, uintptr_t x, uintptr_t step, uintptr_t zero_point, uintptr_t grad_x,
           uintptr_t grad_step, uintptr_t partials, int32_t element, int64_t outer, int64_t channels,
           int64_t inner, int64_t qmin, int64_t qmax, uintptr_t floor, uintptr_t signs, bool one_step,
           double scale, int threads, uintptr_t stream) {
            const FakeQuantizeBackwardParams p{
                pointer<const void>(grad),
                pointer<const void>(x),
                pointer<const float>(step),
                pointer<const int32_t>(zero_point),
                pointer<void>(grad_x),
                pointer<float>(grad_step),
                pointer<double>(partials),
                static_cast<Element>(element),
                outer,
                channels,
                inner,
                qmin,
                qmax,
                {pointer<const float>(floor), pointer<const float>(signs), one_step},
                scale};
            threads > 0 ? cpu::fake_quantize_backward(p, threads)
                        : cuda::fake_quantize_backward(p, pointer<void>(stream));
        },
        py::call_guard<py::gil_scoped_release>());
}

void register_soft_round(py::module_& m) {
    m.def("soft_round_partials", &soft_round_partials);
    m.def(
        "soft_round",
        [](uintptr_t weight, uintptr_t alpha, uintptr_t step, uintptr_t zero_point, uintptr_t out,
           uintptr_t penalty, uintptr_t partials, int64_t outer, int64_t channels, int64_t inner,
           int64_t qmin, int64_t qmax, uintptr_t beta, int threads, uintptr_t stream) {
            const SoftRoundParams p{pointer<const float>(weight),
                                    pointer<const float>(alpha),
                                    pointer<const float>(step),
                                    pointer<const int32_t>(zero_point),
                                    pointer<float>(out),
                                    pointer<float>(penalty),
                                    pointer<double>(partials),
                                    outer,
                                    channels,
                                    inner,
                                    qmin,
                                    qmax,
                                    pointer<const float>(beta)};
            threads > 0 ? cpu::soft_round(p, threads) : cuda::soft_round(p, pointer<void>(stream));
        },
        py::call_guard<py::gil_scoped_release>());
    m.def(
        "soft_round_backward",
        [](uintptr_t grad, uintptr_t grad_penalty, uintptr_t weight, uintptr_t alpha, uintptr_t step,
           uintptr_t zero_point, uintptr_t grad_alpha, int64_t outer, int64_t channels, int64_t inner,
           int64_t qmin, int64_t qmax, uintptr_t beta, int threads, uintptr_t stream) {
            const SoftRoundBackwardParams p{pointer<const float>(grad),
                                            pointer<const float>(grad_penalty),
                                            pointer<const float>(weight),
                                            pointer<const float>(alpha),
                                            pointer<const float>(step),
                                            pointer<const int32_t>(zero_point),
                                            pointer<float>(grad_alpha),
                                            outer,
                                            channels,
                                            inner,
                                            qmin,
                                            qmax,
                                            pointer<const float>(beta)};
            threads > 0 ? cpu::soft_round_backward(p, threads)
                        : cuda::soft_round_backward(p, pointer<void>(stream));
        },
        py::call_guard<py::gil_scoped_release>());
}

void register_drop(py::module_& m) {
    m.def("drop_partials", &drop_partials);
    m.def(
        "drop",
        [](uintptr_t x, uintptr_t step, uintptr_t zero_point, uintptr_t out, int64_t count, int64_t qmin,
           int64_t qmax, uintptr_t seed, int32_t kept, int threads, uintptr_t stream) {
            const DropParams p{pointer<const float>(x),
                               pointer<const float>(step),
                               pointer<const int32_t>(zero_point),
                               pointer<float>(out),
                               1,
                               1,
                               count,
                               qmin,
                               qmax,
                               pointer<const int64_t>(seed),
                               kept};
            threads > 0 ? cpu::drop(p, threads) : cuda::drop(p, pointer<void>(stream));
        },
        py::call_guard<py::gil_scoped_release>());
    m.def(
        "drop_backward",
        [](uintptr_t grad, uintptr_t x, uintptr_t step, uintptr_t zero_point, uintptr_t grad_x,
           uintptr_t grad_step, uintptr_t partials, int64_t count, int64_t qmin, int64_t qmax, uintptr_t seed,
           int32_t kept, int threads, uintptr_t stream) {
            const DropBackwardParams p{pointer<const float>(grad),
                                       pointer<const float>(x),
                                       pointer<const float>(step),
                                       pointer<const int32_t>(zero_point),
                                       pointer<float>(grad_x),
                                       pointer<float>(grad_step),
                                       pointer<double>(partials),
                                       1,
                                       1,
                                       count,
                                       qmin,
                                       qmax,
                                       pointer<const int64_t>(seed),
                                       kept};
            threads > 0 ? cpu::drop_backward(p, threads) : cuda::drop_backward(p, pointer<void>(stream));
        },
        py::call_guard<py::gil_scoped_release>());
}

namespace {

std::vector<int32_t> bit_widths(const py::tuple& bits) {
    std::vector<int32_t> widths;
    for (const py::handle width : bits) widths.push_back(width.cast<int32_t>());
    return widths;
}

}  // namespace

void register_levels(py::module_& m) {
    m.def("fake_quantize_levels_partials", &fake_quantize_levels_partials);
    m.def(
        "fake_quantize_levels",
        [](uintptr_t x, uintptr_t steps, uintptr_t out, int32_t element, bool log_sqrt2, int32_t top,
           int64_t n, int threads, uintptr_t stream) {
            const LevelsParams p{pointer<const void>(x),
                                 pointer<const float>(steps),
                                 pointer<void>(out),
                                 static_cast<Element>(element),
                                 log_sqrt2,
                                 top,
                                 n};
            threads > 0 ? cpu::fake_quantize_levels(p, threads)
                        : cuda::fake_quantize_levels(p, pointer<void>(stream));
        },
        py::call_guard<py::gil_scoped_release>());
    m.def(
        "fake_quantize_levels_backward",
        [](uintptr_t grad, uintptr_t x, uintptr_t steps, uintptr_t grad_x, uintptr_t sums, uintptr_t partials,
           int32_t element, bool log_sqrt2, int32_t top, int64_t n, int threads, uintptr_t stream) {
            const LevelsBackwardParams p{pointer<const void>(grad),
                                         pointer<const void>(x),
                                         pointer<const float>(steps),
                                         pointer<void>(grad_x),
                                         pointer<double>(sums),
                                         pointer<double>(partials),
                                         static_cast<Element>(element),
                                         log_sqrt2,
                                         top,
                                         n};
            threads > 0 ? cpu::fake_quantize_levels_backward(p, threads)
                        : cuda::fake_quantize_levels_backward(p, pointer<void>(stream));
        },
        py::call_guard<py::gil_scoped_release>());
    m.def("search_levels", [](uintptr_t means, uintptr_t counts, int64_t n, const py::tuple& bits,
                              uintptr_t steps, uintptr_t saved) {
        const std::vector<int32_t> widths = bit_widths(bits);
        const SearchLevelsParams p{pointer<const double>(means),
                                   pointer<const double>(counts),
                                   n,
                                   widths.data(),
                                   static_cast<int64_t>(widths.size()),
                                   pointer<float>(steps),
                                   pointer<double>(saved)};
        const py::gil_scoped_release release;
        cpu::search_levels(p);
    });
}

void register_search_steps(py::module_& m) {
    m.def("search_steps_workspace", &search_steps_workspace);
    m.def("search_steps",
          [](uintptr_t x, int64_t rows, int64_t n, const py::tuple& bits, bool symmetric, bool exact,
             uintptr_t step, uintptr_t zero_point, uintptr_t mse, uintptr_t lower_bound, uintptr_t nonfinite,
             uintptr_t workspace, uintptr_t sorted, int threads, uintptr_t stream) {
              std::vector<int32_t> widths;
              for (const py::handle width : bits) widths.push_back(width.cast<int32_t>());
              const SearchStepsParams p{pointer<const float>(x),
                                        rows,
                                        n,
                                        widths.data(),
                                        static_cast<int64_t>(widths.size()),
                                        symmetric,
                                        exact,
                                        pointer<float>(step),
                                        pointer<int32_t>(zero_point),
                                        pointer<float>(mse),
                                        pointer<float>(lower_bound),
                                        pointer<int64_t>(nonfinite),
                                        pointer<void>(workspace),
                                        pointer<const float>(sorted)};
              const py::gil_scoped_release release;
              threads > 0 ? cpu::search_steps(p, threads) : cuda::search_steps(p, pointer<void>(stream));
          });
}

namespace {

/// From the addresses of its tensors, in the order of the struct.
SketchParams sketch_params(int64_t rows, const py::tuple& parts, uintptr_t workspace) {
    const auto part = [&](size_t index) { return parts[index].cast<uintptr_t>(); };
    return {rows,
            pointer<int64_t>(part(0)),
            pointer<int64_t>(part(1)),
            pointer<int64_t>(part(2)),
            pointer<int64_t>(part(3)),
            pointer<int64_t>(part(4)),
            pointer<float>(part(5)),
            pointer<void>(workspace)};
}

}  // namespace

void register_sketch(py::module_& m) {
    m.def("sketch", [](uintptr_t x, int64_t n, const py::tuple& parts, uintptr_t workspace, int threads,
                       uintptr_t stream) {
        SketchParams out = sketch_params(0, parts, workspace);
        const py::gil_scoped_release release;
        if (threads > 0)
            cpu::sketch(pointer<const float>(x), n, out, threads);
        else
            cuda::sketch(pointer<const float>(x), n, out, pointer<void>(stream));
        return out.rows;
    });
    m.def("search_sketch", [](int64_t rows, const py::tuple& parts, int64_t n, const py::tuple& bits,
                              bool symmetric, uintptr_t step, uintptr_t zero_point, uintptr_t mse,
                              uintptr_t lower_bound, uintptr_t nonfinite) {
        const std::vector<int32_t> widths = bit_widths(bits);
        const SketchParams sketch = sketch_params(rows, parts, 0);
        const SearchStepsParams p{nullptr,
                                  1,
                                  n,
                                  widths.data(),
                                  static_cast<int64_t>(widths.size()),
                                  symmetric,
                                  false,
                                  pointer<float>(step),
                                  pointer<int32_t>(zero_point),
                                  pointer<float>(mse),
                                  pointer<float>(lower_bound),
                                  pointer<int64_t>(nonfinite),
                                  nullptr,
                                  nullptr};
        const py::gil_scoped_release release;
        cpu::search_sketch(sketch, p);
    });
}

void register_config_cost(py::module_& m) {
    m.def(
        "config_cost",
        [](uintptr_t bits, uintptr_t macs, uintptr_t weights, uintptr_t bops, uintptr_t weight_bits,
           int64_t configs, int64_t layers, int threads, uintptr_t stream) {
            const ConfigCostParams p{pointer<const int64_t>(bits),
                                     pointer<const int64_t>(macs),
                                     pointer<const int64_t>(weights),
                                     pointer<int64_t>(bops),
                                     pointer<int64_t>(weight_bits),
                                     configs,
                                     layers};
            threads > 0 ? cpu::config_cost(p, threads) : cuda::config_cost(p, pointer<void>(stream));
        },
        py::call_guard<py::gil_scoped_release>());
}

void register_packing(py::module_& m) {
    m.def(
        "pack_bits",
        [](uintptr_t codes, uintptr_t packed, uintptr_t invalid, int64_t rows, int64_t n, int64_t bytes,
           int32_t bits, int threads, uintptr_t stream) {
            const PackBitsParams p{pointer<const uint8_t>(codes),
                                   pointer<uint8_t>(packed),
                                   pointer<int64_t>(invalid),
                                   rows,
                                   n,
                                   bytes,
                                   bits};
            threads > 0 ? cpu::pack_bits(p, threads) : cuda::pack_bits(p, pointer<void>(stream));
        },
        py::call_guard<py::gil_scoped_release>());
    m.def(
        "unpack_bits",
        [](uintptr_t packed, uintptr_t codes, uintptr_t invalid, int64_t rows, int64_t n, int64_t bytes,
           int32_t bits, int threads, uintptr_t stream) {
            const UnpackBitsParams p{pointer<const uint8_t>(packed),
                                     pointer<uint8_t>(codes),
                                     pointer<int64_t>(invalid),
                                     rows,
                                     n,
                                     bytes,
                                     bits};
            threads > 0 ? cpu::unpack_bits(p, threads) : cuda::unpack_bits(p, pointer<void>(stream));
        },
        py::call_guard<py::gil_scoped_release>());
}

}  // namespace ribs::bindings
