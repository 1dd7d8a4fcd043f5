#include <cfloat>
#include <iterator>
#include <random>

#include "check.h"
#include "core/step_refine.h"
#include "fibers.h"
#include "ops.h"

// The step search of csrc/cuda against that of csrc/cpu: the same steps, zero points, errors and bounds, to
// the bit, in all orders of blocks and threads.

namespace {

using namespace ribs;

struct Answers {
    std::vector<float> step, mse, lower_bound;
    std::vector<int32_t> zero_point;
    int64_t nonfinite = 0;
};

/// The case: rows of n values, searched for some bit-widths.
struct Search {
    std::vector<float> x;
    int64_t rows, n;
    std::vector<int32_t> bits;
    bool symmetric, exact;

    SearchStepsParams params(Answers& a) const {
        const size_t count = bits.size() * static_cast<size_t>(rows);
        a.step.assign(count, 1.0f);
        a.mse.assign(count, 1.0f);
        a.lower_bound.assign(count, 1.0f);
        a.zero_point.assign(count, 1);
        return {x.data(),
                rows,
                n,
                bits.data(),
                static_cast<int64_t>(bits.size()),
                symmetric,
                exact,
                a.step.data(),
                a.zero_point.data(),
                a.mse.data(),
                a.lower_bound.data(),
                &a.nonfinite,
                nullptr,
                nullptr};
    }
    Answers on_cpu() const {
        Answers a;
        cpu::search_steps(params(a), 1);
        return a;
    }
    Answers on_cuda() const {
        Answers a;
        SearchStepsParams p = params(a);
        std::vector<uint64_t> workspace(static_cast<size_t>(search_steps_workspace(rows, n, exact)) / 8 + 1,
                                        ~uint64_t{0});
        std::vector<float> sorted = x;
        for (int64_t row = 0; row < rows; ++row)
            std::sort(sorted.begin() + row * n, sorted.begin() + (row + 1) * n);
        p.workspace = workspace.data();
        p.sorted = sorted.data();
        cuda::search_steps(p, nullptr);
        return a;
    }
    void check() const {
        static size_t turn = 0;  // each case in the next order: all orders, in the time of one
        emulate::order = emulate::kOrders[turn++ % std::size(emulate::kOrders)];
        const Answers want = on_cpu(), got = on_cuda();
        emulate::order = emulate::Order::forward;
        CHECK_EQ(got.nonfinite, want.nonfinite);
        for (size_t i = 0; i < want.step.size(); ++i) {
            CHECK_BITS(got.step[i], want.step[i]);
            CHECK_EQ(got.zero_point[i], want.zero_point[i]);
            CHECK_BITS(got.mse[i], want.mse[i]);
            CHECK_BITS(got.lower_bound[i], want.lower_bound[i]);
        }
    }
};

enum class Data { normal, post_relu, heavy_tail, negative, far, outlier, tiny };

std::vector<float> values(Data data, int64_t count) {
    std::mt19937 random(static_cast<unsigned>(count) + static_cast<unsigned>(data));
    std::normal_distribution<float> normal;
    std::student_t_distribution<float> heavy(3.0f);
    std::vector<float> result(static_cast<size_t>(count));
    for (float& value : result) {
        value = normal(random);
        if (data == Data::post_relu) value = std::max(value, 0.0f);
        if (data == Data::heavy_tail) value = heavy(random);
        if (data == Data::negative) value = -std::abs(value) - 0.5f;
        if (data == Data::far) value = value * 0.1f + 7.0f;
        if (data == Data::tiny) value *= 1e-41f;
    }
    if (data == Data::outlier) result.back() = 1e30f;
    return result;
}

void check_all(int64_t rows, int64_t n, bool exact, std::initializer_list<Data> kinds,
               std::vector<int32_t> bits) {
    for (const Data data : kinds)
        for (const bool symmetric : {true, false})
            Search{values(data, rows * n), rows, n, bits, symmetric, exact}.check();
}

constexpr std::initializer_list<Data> kAll = {Data::normal, Data::post_relu, Data::heavy_tail, Data::negative,
                                              Data::far,    Data::outlier,   Data::tiny};

TEST(short_rows_are_searched_as_on_the_cpu) {
    for (const int64_t n : {1, 2, 9, 32}) check_all(2, n, false, kAll, {1, 3, 8});
    for (const int64_t n : {33, 64}) check_all(2, n, false, kAll, {1, 3, 5, 8});
}

TEST(rows_are_searched_as_on_the_cpu) {
    for (const int64_t n : {65, 576}) check_all(1, n, false, kAll, {2, 8});
    check_all(1, 4608, false, {Data::heavy_tail, Data::outlier}, {8});
    check_all(1, 8192, false, {Data::post_relu}, {4});
}

/// Two steps of the first refinement have the same codes here, and the second one goes on from the first
/// tried.
TEST(ties_of_a_refinement_go_to_the_step_tried_first) {
    std::mt19937 random(14);
    std::normal_distribution<float> normal;
    std::vector<float> x(401);
    for (float& value : x) value = normal(random);
    x.erase(x.begin(), x.begin() + 301);
    for (const bool symmetric : {true, false}) Search{x, 1, 100, {4}, symmetric, false}.check();
}

TEST(sketched_rows_are_searched_as_on_the_cpu) {
    check_all(1, 8193, false, kAll, {3});
    Search{values(Data::normal, 2 * 9001), 2, 9001, {6}, false, false}.check();
    Search{values(Data::post_relu, 270'000), 1, 270'000, {2}, false, false}
        .check();  // more than a block counts
}

TEST(proofs_are_those_of_the_cpu) {
    check_all(2, 33, true, {Data::normal, Data::far}, {3, 6});
    check_all(1, 700, true, {Data::normal, Data::post_relu}, {2, 5});
}

TEST(nine_bit_widths_take_two_launches) {
    Search{values(Data::normal, 200), 2, 100, {8, 7, 6, 5, 4, 3, 2, 1, 8}, true, false}.check();
}

TEST(constants_and_zeros) {
    for (const int64_t n : {1, 40, 500, 9000})
        for (const float value : {0.0f, n == 9000 ? -1e-40f : -0.3f, 1.5f})
            for (const bool symmetric : {true, false})
                Search{std::vector<float>(static_cast<size_t>(n), value), 1, n, {1, 4}, symmetric, false}
                    .check();
}

TEST(rows_that_are_not_finite_are_marked) {
    for (const int64_t n : {20, 100, 10'000}) {
        std::vector<float> x = values(Data::normal, 3 * n);
        x[static_cast<size_t>(n + 3)] = NAN;
        x[static_cast<size_t>(2 * n)] = -INFINITY;
        const Search search{x, 3, n, {4}, true, false};
        const Answers want = search.on_cpu(), got = search.on_cuda();
        CHECK_EQ(got.nonfinite, 2);
        CHECK_BITS(got.step[0], want.step[0]);
        for (const size_t row : {size_t{1}, size_t{2}}) {
            CHECK(std::isnan(got.step[row]) && std::isnan(got.mse[row]) && std::isnan(got.lower_bound[row]));
            CHECK_EQ(got.zero_point[row], 0);
        }
    }
}

/// A sketch, every octave at its place.
struct Sketch {
    std::vector<int64_t> places = std::vector<int64_t>(512), counts = std::vector<int64_t>(512 * 2048),
                         residuals = counts, squares = std::vector<int64_t>(272),
                         totals = std::vector<int64_t>(2);
    std::vector<float> extremes = std::vector<float>(2);
    uint64_t workspace[8];

    SketchParams params() {
        return {0,
                places.data(),
                counts.data(),
                residuals.data(),
                squares.data(),
                totals.data(),
                extremes.data(),
                workspace};
    }
};

TEST(sketches_are_those_of_the_cpu) {
    for (const Data data : kAll)
        for (const int64_t n : {1, 3000}) {
            const std::vector<float> x = values(data, n);
            Sketch want, got;
            SketchParams written = want.params();
            cpu::sketch(x.data(), n, written, 1);
            cuda::sketch(x.data(), n, got.params(), nullptr);
            CHECK(got.squares == want.squares);
            CHECK(got.totals == want.totals);
            CHECK(got.extremes == want.extremes);
            int64_t met = 0;
            for (int64_t row = 0; row < written.rows; ++row) {
                const int64_t place = want.places[static_cast<size_t>(row)];
                for (int64_t bin = 0; bin < 2048; ++bin) {
                    const size_t from = static_cast<size_t>(row * 2048 + bin),
                                 to = static_cast<size_t>(place * 2048 + bin);
                    CHECK_EQ(got.counts[to], want.counts[from]);
                    CHECK_EQ(got.residuals[to], want.residuals[from]);
                    met += got.counts[to];
                }
            }
            CHECK_EQ(met + got.totals[1], n);
        }
}

}  // namespace
