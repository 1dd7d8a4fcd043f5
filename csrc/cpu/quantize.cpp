#include "core/quantize.h"

#include <atomic>

#include "cpu/channels.h"
#include "cpu/parallel.h"
#include "cpu/stream.h"
#include "ops.h"

namespace ribs::cpu {
namespace {

/// The range of codes, as the loops want it.
struct Range {
    int32_t qmin, levels;
};

/// Returns whether x holds NaN.
RIBS_CLONES
bool code_row(const float* __restrict x, uint8_t* __restrict out, int64_t count, Quantizer q, Range range) {
    int32_t nan = 0;
    for (int64_t i = 0; i < count; ++i) {
        out[i] = code_byte(x[i], q, range.qmin, range.levels);
        nan |= x[i] != x[i];
    }
    return nan != 0;
}

/// As above, with a quantizer for each column.
RIBS_CLONES
bool code_line(const float* __restrict x, uint8_t* __restrict out, const Columns& q, int64_t count,
               Range range) {
    int32_t nan = 0;
    for (int64_t c = 0; c < count; ++c) {
        out[c] = code_byte(x[c], {q.step[c], q.low[c], q.high[c]}, range.qmin, range.levels);
        nan |= x[c] != x[c];
    }
    return nan != 0;
}

}  // namespace

bool quantize(const FakeQuantizeParams& p, int threads) {
    const auto* x = static_cast<const float*>(p.x);
    auto* out = static_cast<uint8_t*>(p.out);
    const Range range{static_cast<int32_t>(p.qmin), static_cast<int32_t>(p.qmax - p.qmin)};
    std::atomic<bool> nan{false};
    if (p.channels == 1 || p.inner >= kNarrow) {
        for_rows<uint8_t>(p, threads, false,
                          [&](BlockWriter<uint8_t>& writer, int64_t c, int64_t, int64_t at, int64_t n) {
                              if (code_row(x + at, writer.place(out + at), n, quantizer(p, c), range))
                                  nan = true;
                              writer.write(out + at, n);
                          });
        return nan;
    }
    const ColumnPlan plan(p);
    for_columns(p, plan, threads, [&](const Columns& q, int64_t group, int64_t first, int64_t count) {
        BlockWriter<uint8_t> writer(plan.total, false);
        plan.for_lines(group, first, count, [&](int64_t at, int64_t n) {
            if (code_line(x + at, writer.place(out + at), q, n, range)) nan = true;
            writer.write(out + at, n);
        });
    });
    return nan;
}

}  // namespace ribs::cpu
