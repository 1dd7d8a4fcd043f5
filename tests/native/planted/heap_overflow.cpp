#include <memory>

// AddressSanitizer must stop this program.

int main(int argc, char**) {
    const std::unique_ptr<int[]> values(new int[4]);
    values[static_cast<size_t>(argc) + 3] = argc;  // one past the end
    return values[0] > 1000;
}
