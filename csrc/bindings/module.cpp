#include <pybind11/pybind11.h>

#include "bindings/register.h"

PYBIND11_MODULE(_core, m) {
    m.doc() = "Native operators of ribs; called by ribs.ops only.";
    ribs::bindings::register_build(m);
    ribs::bindings::register_fake_quantize(m);
    ribs::bindings::register_levels(m);
    ribs::bindings::register_soft_round(m);
    ribs::bindings::register_drop(m);
    ribs::bindings::register_search_steps(m);
    ribs::bindings::register_sketch(m);
    ribs::bindings::register_config_cost(m);
    ribs::bindings::register_packing(m);
}
