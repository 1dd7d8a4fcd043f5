#include <cstdint>

// AddressSanitizer must stop a Python process that loads this library and calls it with a tensor.

extern "C" __attribute__((visibility("default"))) void write_past_the_end(uintptr_t address, int64_t count) {
    reinterpret_cast<float*>(address)[count] = 1.0f;
}
