#include "cpu/sketch.h"

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <new>

#include "cpu/compact.h"
#include "cpu/parallel.h"

namespace ribs::cpu {
namespace {

constexpr int64_t kBlock = 512;     // values that stay in the first cache while they are looked at thrice
constexpr int64_t kTask = 1 << 18;  // values a thread takes at a time
constexpr int64_t kAhead = 8192;    // values between what is read and what is fetched
constexpr size_t kWords = size_t{2} * kOctaves << kSketchBits;

/// Tables that wait for the next tensor: empty ones, whose pages are already there.
struct Pool {
    std::mutex guard;
    std::vector<uint64_t*> tables;
};

Pool& pool() {
    static Pool* const instance = new Pool;  // never destroyed: threads may outlive static storage
    return *instance;
}

constexpr size_t kPooled = 8;

/// Extreme bit patterns of a block of values that are not zero.
struct Extremes {
    uint32_t highest, lowest;    ///< as unsigned words: negative values are above positive ones
    uint32_t largest, smallest;  ///< magnitudes
    int32_t positive;            ///< as signed words: positive values are above negative ones
};

RIBS_CLONES
Extremes extremes(const uint32_t* bits, int64_t n) {
    // Locals, since these vectorise.
    uint32_t highest = 0, lowest = 0xffffffffu, largest = 0, smallest = 0xffffffffu;
    int32_t positive = INT32_MIN;
    for (int64_t i = 0; i < n; ++i) {
        const uint32_t word = bits[i], magnitude = word & kMagnitude;
        const int32_t whole = static_cast<int32_t>(word);
        highest = word > highest ? word : highest;
        lowest = word < lowest ? word : lowest;
        largest = magnitude > largest ? magnitude : largest;
        smallest = magnitude < smallest ? magnitude : smallest;
        positive = whole > positive ? whole : positive;
    }
    return {highest, lowest, largest, smallest, positive};
}

/// The squares of the residuals of a block in units of octave `low`, where no value lies below it.
RIBS_CLONES
uint64_t residual_squares(const uint32_t* bits, int64_t n, int32_t low) {
    uint64_t sum = 0;
    for (int64_t i = 0; i < n; ++i) {
        const uint32_t octave = bits[i] << 1 >> 24;
        const uint32_t residual = residual_of(bits[i]);
        const uint32_t up = 2 * (std::max(octave, 1u) - static_cast<uint32_t>(low));
        sum += static_cast<uint64_t>(residual * residual) << up;
    }
    return sum;
}

/// Asks for a run before it is needed: scattering to the table keeps the machine from looking ahead by
/// itself.
void prefetch(const uint32_t* x, int64_t n) {
#if defined(__GNUC__)
    for (int64_t i = 0; i < n; i += 16) __builtin_prefetch(x + i, 0, 2);
#endif
}

RIBS_CLONES
bool has_zeros(const uint32_t* bits, int64_t n) {
    uint32_t zeros = 0;
    for (int64_t i = 0; i < n; ++i) zeros |= (bits[i] & kMagnitude) == 0 ? 1u : 0u;
    return zeros != 0;
}

void scatter(const uint32_t* bits, int64_t n, uint64_t* words) {
    const auto add = [words](uint32_t word) {
        words[word >> kResidualBits] += uint64_t{1} << BinTable::kCountShift | residual_of(word);
    };
    int64_t i = 0;
    for (; i + 4 <= n; i += 4) {  // the compiler does not unroll this by itself
        add(bits[i]);
        add(bits[i + 1]);
        add(bits[i + 2]);
        add(bits[i + 3]);
    }
    for (; i < n; ++i) add(bits[i]);
}

void widen(SketchTotals& t, float least, float most) {
    t.minimum = std::min(t.minimum, least);
    t.maximum = std::max(t.maximum, most);
}

}  // namespace

void SketchTotals::merge(const SketchTotals& other) {
    count += other.count;
    zeros += other.zeros;
    minimum = std::min(minimum, other.minimum);
    maximum = std::max(maximum, other.maximum);
    for (int32_t i = 0; i < kSquareCells; ++i) squares[i] += other.squares[i];
    SquareCells{squares}.carry();
}

BinTable::BinTable() {
    const std::lock_guard<std::mutex> lock(pool().guard);
    if (!pool().tables.empty()) {
        words_.reset(pool().tables.back());
        pool().tables.pop_back();
        return;
    }
    words_.reset(static_cast<uint64_t*>(std::calloc(kWords, sizeof(uint64_t))));
    if (!words_) throw std::bad_alloc();
}

BinTable::~BinTable() {
    if (words_) clear();
}

void BinTable::Free::operator()(uint64_t* words) const {
    const std::lock_guard<std::mutex> lock(pool().guard);
    pool().tables.size() < kPooled ? pool().tables.push_back(words) : std::free(words);
}

void BinTable::clear() {
    for (int sign = 0; sign < 2 && first_ <= last_; ++sign) {
        uint64_t* const from = words_.get() + ((static_cast<int64_t>(sign) << 8 | first_) << kSketchBits);
        std::fill_n(from, static_cast<int64_t>(last_ - first_ + 1) << kSketchBits, 0);
    }
    first_ = kOctaves;
    last_ = -1;
    values_ = 0;
}

void BinTable::add_block(const uint32_t* bits, int64_t n, SketchTotals& totals) {
    const Extremes e = extremes(bits, n);
    widen(totals, float_of(least_of(e.highest, e.lowest)), float_of(most_of(e.positive, e.lowest)));
    const int32_t largest = static_cast<int32_t>(e.largest >> 23),
                  smallest = static_cast<int32_t>(e.smallest >> 23);
    first_ = std::min(first_, smallest);
    last_ = std::max(last_, largest);
    values_ += n;
    scatter(bits, n, words_.get());
    const int32_t low = std::max(largest - kSquareReach, 1);
    const SquareCells cells{totals.squares};
    if (std::max(smallest, 1) >= low) {
        cells.add(low, residual_squares(bits, n, low));
    } else {
        for (int64_t i = 0; i < n; ++i) {
            const uint64_t residual = residual_of(bits[i]);
            cells.add(std::max<int32_t>(bits[i] << 1 >> 24, 1), residual * residual);
        }
    }
}

void BinTable::add(const uint32_t* x, int64_t n, SketchTotals& totals) {
    alignas(64) uint32_t kept[kBlock + kCompactSlack];
    totals.count += n;
    bool sparse = false;  // whether the last block had zeros: then the next one will have some too
    for (int64_t at = 0; at < n; at += kBlock) {
        const int64_t size = std::min(kBlock, n - at);
        if (n - at > kAhead) prefetch(x + at + kAhead, std::min(kBlock, n - at - kAhead));
        int64_t filled = size;
        const uint32_t* block = x + at;
        if (sparse || has_zeros(x + at, size)) {
            filled = compact(x + at, size, kept);
            block = kept;
        }
        sparse = filled < size;
        if (sparse) widen(totals, 0.0f, 0.0f);
        totals.zeros += size - filled;
        if (filled > 0) add_block(block, filled, totals);
    }
}

void BinTable::absorb(BinTable& other) {
    first_ = std::min(first_, other.first_);
    last_ = std::max(last_, other.last_);
    values_ += other.values_;
    for (int64_t sign = 0; sign < 2; ++sign)
        for (int64_t i = (sign << 8 | other.first_) << kSketchBits;
             i < (sign << 8 | (other.last_ + 1)) << kSketchBits; ++i)
            words_.get()[i] += other.words_.get()[i];
    other.clear();
}

void WideBins::absorb(BinTable& table) {
    for (int sign = 0; sign < 2; ++sign) {
        for (int32_t octave = table.first(); octave <= table.last(); ++octave) {
            const uint64_t* const words = table.row(sign, octave);
            if (std::all_of(words, words + kRow, [](uint64_t word) { return word == 0; })) continue;
            std::vector<int64_t>& count = counts[sign << 8 | octave];
            std::vector<int64_t>& residual = residuals[sign << 8 | octave];
            count.resize(kRow);
            residual.resize(kRow);
            for (size_t i = 0; i < count.size(); ++i) {
                count[i] += static_cast<int64_t>(words[i] >> BinTable::kCountShift);
                residual[i] += static_cast<int64_t>(words[i] & ((uint64_t{1} << BinTable::kCountShift) - 1));
            }
        }
    }
    table.clear();
}

TensorSketch::TensorSketch(const SketchParams& stored) : wide(std::make_unique<WideBins>()) {
    for (int64_t row = 0; row < stored.rows; ++row) {
        const int64_t* const count = stored.counts + row * kRow;
        const int64_t* const residual = stored.residuals + row * kRow;
        wide->counts[stored.places[row]].assign(count, count + kRow);
        wide->residuals[stored.places[row]].assign(residual, residual + kRow);
    }
    std::copy_n(stored.squares, kSquareCells, totals.squares);
    totals.count = stored.totals[0];
    totals.zeros = stored.totals[1];
    totals.minimum = stored.extremes[0];
    totals.maximum = stored.extremes[1];
}

void TensorSketch::write(SketchParams& out) {
    if (!wide) wide = std::make_unique<WideBins>();
    wide->absorb(table);
    out.rows = 0;
    for (size_t place = 0; place < 2 * kOctaves; ++place) {
        if (wide->counts[place].empty()) continue;
        out.places[out.rows] = static_cast<int64_t>(place);
        std::copy_n(wide->counts[place].data(), kRow, out.counts + out.rows * kRow);
        std::copy_n(wide->residuals[place].data(), kRow, out.residuals + out.rows * kRow);
        ++out.rows;
    }
    std::copy_n(totals.squares, kSquareCells, out.squares);
    out.totals[0] = totals.count;
    out.totals[1] = totals.zeros;
    out.extremes[0] = totals.minimum;
    out.extremes[1] = totals.maximum;
}

void sketch(const float* x, int64_t n, SketchParams& out, int threads) {
    sketch(x, n, threads).write(out);
}

TensorSketch sketch(const float* x, int64_t n, int threads) {
    const int64_t tasks = (n + kTask - 1) / kTask;
    const size_t workers = static_cast<size_t>(std::max<int64_t>(1, std::min<int64_t>(threads, tasks)));
    std::vector<BinTable> tables(workers);
    std::vector<SketchTotals> totals(workers);
    TensorSketch result;
    std::mutex guard;
    const auto unpack = [&](BinTable& table) {
        const std::lock_guard<std::mutex> lock(guard);
        if (!result.wide) result.wide = std::make_unique<WideBins>();
        result.wide->absorb(table);
    };
    // The bits of floats are read as such: the arithmetic on them must not depend on a denormals-are-zero
    // mode.
    const uint32_t* const bits = reinterpret_cast<const uint32_t*>(x);
    parallel_for(tasks, threads, [&](int worker, int64_t task) {
        BinTable& table = tables[static_cast<size_t>(worker)];
        if (table.values() + kTask > BinTable::kLimit) unpack(table);
        table.add(bits + task * kTask, std::min(kTask, n - task * kTask),
                  totals[static_cast<size_t>(worker)]);
    });
    result.table = std::move(tables[0]);
    for (size_t i = 0; i < workers; ++i) {
        result.totals.merge(totals[i]);
        if (i == 0) continue;
        if (result.table.values() + tables[i].values() > BinTable::kLimit) unpack(result.table);
        result.table.absorb(tables[i]);
    }
    if (result.wide) result.wide->absorb(result.table);
    return result;
}

}  // namespace ribs::cpu
