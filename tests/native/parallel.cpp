#include "cpu/parallel.h"

#include <stdexcept>
#include <string>

#include "check.h"

namespace {

using ribs::cpu::parallel_for;

// Plain ints, written from several threads: ThreadSanitizer must find each of them written by one thread
// only.

TEST(meets_every_index_once) {
    for (const int64_t count : {0, 1, 2, 7, 1000, 100'000})
        for (const int threads : {1, 2, 3, 8, 64}) {
            std::vector<int> met(static_cast<size_t>(count));
            parallel_for(count, threads, [&](int, int64_t index) { ++met[static_cast<size_t>(index)]; });
            for (const int times : met) CHECK_EQ(times, 1);
        }
}

TEST(gives_each_worker_its_own_number) {
    constexpr int kThreads = 5;
    std::vector<int64_t> done(kThreads);  // a number shared by two workers is a race on its count
    parallel_for(100'000, kThreads, [&](int worker, int64_t) { ++done.at(static_cast<size_t>(worker)); });
    int64_t total = 0;
    for (const int64_t each : done) total += each;
    CHECK_EQ(total, 100'000);
}

TEST(uses_no_more_workers_than_indices) {
    parallel_for(3, 64, [&](int worker, int64_t) { CHECK(worker < 3); });
}

TEST(sees_what_the_workers_wrote) {
    int64_t sum = 0;
    std::vector<int64_t> squares(1000);
    parallel_for(1000, 4, [&](int, int64_t i) { squares[static_cast<size_t>(i)] = i * i; });
    for (const int64_t square : squares) sum += square;
    CHECK_EQ(sum, 999 * 1000 * 1999 / 6);
}

std::string message_of(int64_t count, int threads, int64_t bad) {
    try {
        parallel_for(count, threads, [&](int, int64_t index) {
            if (bad < 0 || index == bad) throw std::runtime_error("index refused");
        });
    } catch (const std::runtime_error& error) {
        return error.what();
    }
    return "nothing";
}

TEST(passes_on_what_a_body_throws) {
    for (const int threads : {1, 2, 8}) {
        for (const int64_t bad : {0, 1, 500, 999}) CHECK(message_of(1000, threads, bad) == "index refused");
        CHECK(message_of(1000, threads, -1) == "index refused");  // all at once
        CHECK(message_of(1000, threads, 1000) == "nothing");
    }
}

}  // namespace
