#include "check.h"

TEST(fails) {
    CHECK_EQ(1, 2);
}
