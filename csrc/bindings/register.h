#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>

namespace ribs::bindings {

/// Turns an integer from Tensor.data_ptr() into a pointer.
template <class T>
T* pointer(uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

/// How the module was built.
void register_build(pybind11::module_& m);
/// fake_quantize and its backward pass.
void register_fake_quantize(pybind11::module_& m);
/// fake_quantize_levels, its backward pass, and the search for levels.
void register_levels(pybind11::module_& m);
/// soft_round and its backward pass.
void register_soft_round(pybind11::module_& m);
/// drop and its backward pass.
void register_drop(pybind11::module_& m);
/// search_steps and what it needs as workspace.
void register_search_steps(pybind11::module_& m);
/// The moment sketch of a tensor, and the search on one.
void register_sketch(pybind11::module_& m);
/// config_cost.
void register_config_cost(pybind11::module_& m);
/// pack_bits and unpack_bits.
void register_packing(pybind11::module_& m);

}  // namespace ribs::bindings
