#include <thread>

// ThreadSanitizer must stop this program.

int main() {
    int shared = 0;
    const auto count = [&] {
        for (int i = 0; i < 100000; ++i) ++shared;
    };
    std::thread other(count);
    count();
    other.join();
    return shared == 0;
}
