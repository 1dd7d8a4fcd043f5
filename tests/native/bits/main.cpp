#include <cstdio>
#include <fstream>
#include <iterator>
#include <string>

#include "bits.h"

// bits_<name>_<set> SET FILE: the plain set writes what its operators gave, another one compares with it.

namespace {

constexpr int kSkipped = 77;  // as ctest is told

bool has(const std::string& set) {
    if (set == "avx2") return __builtin_cpu_supports("avx2");
    if (set == "avx512")  // x86-64-v4, which older compilers do not know by its name
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
               __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("avx512f") &&
               __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    return true;
}

}  // namespace

int main(int, char** arguments) {
    const std::string set = arguments[1], file = arguments[2];
    if (!has(set)) {
        std::printf("skipped: this machine does not have %s\n", set.c_str());
        return kSkipped;
    }
    bits::Output output;
    bits::run(output);
    if (set == "plain") {
        std::ofstream out(file, std::ios::binary);
        out.write(reinterpret_cast<const char*>(output.bytes.data()),
                  static_cast<std::streamsize>(output.bytes.size()));
        return out.flush() ? 0 : 1;
    }
    std::ifstream in(file, std::ios::binary);
    const std::vector<char> want{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
    size_t same = 0;
    while (same < want.size() && same < output.bytes.size() &&
           static_cast<char>(output.bytes[same]) == want[same])
        ++same;
    std::printf("%zu bytes, %zu wanted, the first %zu are the same\n", output.bytes.size(), want.size(),
                same);
    return want.empty() || same != want.size() || same != output.bytes.size();
}
