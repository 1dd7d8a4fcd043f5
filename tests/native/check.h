#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <iostream>
#include <limits>
#include <vector>

// What a native test needs, and its main(): every test is one source file and one executable.

namespace check {

struct Test {
    const char* name;
    void (*body)();
};

inline std::vector<Test>& tests() {
    static std::vector<Test> all;
    return all;
}

inline int failures = 0;

/// The first failures say enough; a loop over a million values must not print a million lines.
inline std::ostream* failed(const char* file, int line) {
    constexpr int kShown = 20;
    if (++failures > kShown) return nullptr;
    return &(std::cerr << file << ":" << line << ": ");
}

template <class A, class B>
void equal(const A& a, const B& b, const char* left, const char* right, const char* file, int line) {
    if (a == b) return;
    if (std::ostream* out = failed(file, line))
        *out << left << " == " << right << " is false: " << +a << " and " << +b << "\n";
}

/// Whether two floats are the same bits; every NaN is the same.
inline bool same_bits(float a, float b) {
    return (std::isnan(a) && std::isnan(b)) || std::memcmp(&a, &b, sizeof a) == 0;
}

inline bool near(double a, double b, double tolerance) {
    return (std::isnan(a) && std::isnan(b)) || a == b || std::abs(a - b) <= tolerance;
}

}  // namespace check

#define TEST(name)                                                                    \
    static void name();                                                               \
    static const bool name##_added = (check::tests().push_back({#name, name}), true); \
    static void name()

#define CHECK(condition)                                                                                    \
    do {                                                                                                    \
        if (!(condition))                                                                                   \
            if (std::ostream* out = check::failed(__FILE__, __LINE__)) *out << #condition << " is false\n"; \
    } while (false)

#define CHECK_EQ(a, b) check::equal(a, b, #a, #b, __FILE__, __LINE__)

#define CHECK_BITS(a, b)                                                                                 \
    do {                                                                                                 \
        const float left = (a), right = (b);                                                             \
        if (!check::same_bits(left, right))                                                              \
            if (std::ostream* out = check::failed(__FILE__, __LINE__))                                   \
                *out << #a << " has other bits than " << #b << ": " << left << " and " << right << "\n"; \
    } while (false)

#define CHECK_NEAR(a, b, tolerance)                                                                         \
    do {                                                                                                    \
        const double left = (a), right = (b), allowed = (tolerance);                                        \
        if (!check::near(left, right, allowed))                                                             \
            if (std::ostream* out = check::failed(__FILE__, __LINE__))                                      \
                *out << #a << " is " << left << ", not within " << allowed << " of " << #b << ", " << right \
                     << "\n";                                                                               \
    } while (false)

int main() {
    std::cerr.precision(std::numeric_limits<double>::max_digits10);
    int failed = 0;
    for (const check::Test& test : check::tests()) {
        check::failures = 0;
        try {
            test.body();
        } catch (const std::exception& error) {
            ++check::failures;
            std::cerr << error.what() << "\n";
        }
        std::printf("%-50s %s\n", test.name, check::failures == 0 ? "ok" : "FAILED");
        failed += check::failures > 0;
    }
    std::printf("%d of %d tests failed\n", failed, static_cast<int>(check::tests().size()));
    return failed > 0 || check::tests().empty();
}
