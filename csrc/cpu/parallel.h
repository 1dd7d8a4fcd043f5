#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

/// Compiles a hot loop once per instruction set and picks at load time. No clone contracts or reorders, so
/// all of them give the same bits. Not under ThreadSanitizer, which is not up yet when the loader picks.
#if defined(RIBS_CLONES)  // a test chooses the instruction set
#elif defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_THREAD__)
#define RIBS_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define RIBS_CLONES
#endif

/// Inlines all that a function calls, so that its clones get their own code for that too.
#if defined(__GNUC__)
#define RIBS_FLATTEN __attribute__((flatten))
#else
#define RIBS_FLATTEN
#endif

namespace ribs::cpu {

/// How many of `threads` threads to use so that each has at least `share` of `items`; at least one.
inline int shared_by(int threads, int64_t items, int64_t share) {
    return static_cast<int>(std::clamp<int64_t>(items / share, 1, std::max(1, threads)));
}

/// Calls body(worker, index) once for every index in [0, count) on up to `threads` threads. Which worker gets
/// which index is not determined, so a body may write only to places of its index (or merge exactly).
template <class Body>
void parallel_for(int64_t count, int threads, const Body& body) {
    const int workers = static_cast<int>(std::min<int64_t>(threads, count));
    if (workers <= 1) {
        for (int64_t index = 0; index < count; ++index) body(0, index);
        return;
    }
    std::atomic<int64_t> next{0};
    std::exception_ptr error;
    std::mutex guard;
    const auto work = [&](int worker) {
        try {
            for (int64_t index = next++; index < count; index = next++) body(worker, index);
        } catch (...) {
            const std::lock_guard<std::mutex> lock(guard);
            error = std::current_exception();
        }
    };
    std::vector<std::thread> pool;
    pool.reserve(static_cast<size_t>(workers - 1));
    try {
        for (int worker = 1; worker < workers; ++worker) pool.emplace_back(work, worker);
    } catch (...) {
        // The system has no more threads or memory. Those that started and this one do the work: to leave
        // here would destroy threads that run, which ends the process.
    }
    work(0);
    for (std::thread& thread : pool) thread.join();
    if (error) std::rethrow_exception(error);
}

}  // namespace ribs::cpu
