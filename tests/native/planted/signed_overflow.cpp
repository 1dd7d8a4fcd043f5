#include <limits>

// UndefinedBehaviorSanitizer must stop this program.

int main(int argc, char**) {
    const int largest = std::numeric_limits<int>::max();
    return largest + argc == 1;
}
