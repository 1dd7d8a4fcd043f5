#pragma once

#include <cstddef>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

// AddressSanitizer must be told which stack is in use; without it these do nothing.

namespace emulate {

#if defined(__SANITIZE_ADDRESS__)
inline const void* scheduler_stack = nullptr;
inline size_t scheduler_bytes = 0;

inline void leave_for(void** fake, const void* stack, size_t bytes) {
    __sanitizer_start_switch_fiber(fake, stack, bytes);
}
inline void arrived_in_fiber(void* fake) {
    __sanitizer_finish_switch_fiber(fake, &scheduler_stack, &scheduler_bytes);
}
inline void arrived_in_scheduler(void* fake) {
    __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
}
#else
constexpr const void* scheduler_stack = nullptr;
constexpr size_t scheduler_bytes = 0;

inline void leave_for(void**, const void*, size_t) {}
inline void arrived_in_fiber(void*) {}
inline void arrived_in_scheduler(void*) {}
#endif

}  // namespace emulate
