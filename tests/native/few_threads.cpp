#include <dlfcn.h>
#include <pthread.h>

#include <atomic>
#include <cerrno>
#include <stdexcept>

#include "check.h"
#include "cpu/parallel.h"

// A system that starts only some of the threads: pthread_create of this executable comes before that of the
// library, and fails as it does where a limit is reached.

namespace {

std::atomic<int> startable{0}, refused{0};

}  // namespace

extern "C" __attribute__((visibility("default"))) int pthread_create(pthread_t* thread,
                                                                     const pthread_attr_t* attributes,
                                                                     void* (*start)(void*), void* argument) {
    if (startable-- <= 0) {
        ++refused;
        return EAGAIN;
    }
    static const auto create =
        reinterpret_cast<decltype(&pthread_create)>(dlsym(RTLD_NEXT, "pthread_create"));
    return create(thread, attributes, start, argument);
}

namespace {

TEST(threads_that_started_do_the_work_of_those_that_did_not) {
    constexpr int kThreads = 8;
    for (int started = 0; started < kThreads; ++started) {
        startable = started;
        refused = 0;
        std::vector<int> met(10'000);
        ribs::cpu::parallel_for(10'000, kThreads, [&](int worker, int64_t index) {
            CHECK(worker <= started);
            ++met[static_cast<size_t>(index)];
        });
        for (const int times : met) CHECK_EQ(times, 1);
        CHECK_EQ(refused, started < kThreads - 1 ? 1 : 0);
    }
}

TEST(what_a_body_throws_is_passed_on_as_well) {
    startable = 2;
    bool thrown = false;
    try {
        ribs::cpu::parallel_for(100, 8, [](int, int64_t) { throw std::runtime_error("refused"); });
    } catch (const std::runtime_error&) {
        thrown = true;
    }
    CHECK(thrown);
}

}  // namespace
