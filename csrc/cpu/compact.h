#pragma once

#include <cstdint>

namespace ribs::cpu {

/// Words past the kept ones that compact() may write to.
constexpr int64_t kCompactSlack = 16;

/// Copies the floats, given as bits, that are not zero; returns how many.
int64_t compact(const uint32_t* x, int64_t n, uint32_t* out);

}  // namespace ribs::cpu
