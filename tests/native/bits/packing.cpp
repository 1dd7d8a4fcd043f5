#include "core/packing.h"

#include "bits.h"
#include "ops.h"

using namespace ribs;

void bits::run(Output& output) {
    std::mt19937 random(1);
    for (int bits = 1; bits <= 8; ++bits)
        for (const int64_t n : {1, 9, 64, 2049}) {
            constexpr int64_t kRows = 5;
            const int64_t bytes = packed_bytes(n, bits) + 3;
            std::vector<uint8_t> codes(static_cast<size_t>(kRows * n));
            for (uint8_t& code : codes) code = static_cast<uint8_t>(random() % (1u << bits));
            std::vector<uint8_t> packed(static_cast<size_t>(kRows * bytes)), back(codes.size());
            int64_t invalid = 0;
            cpu::pack_bits({codes.data(), packed.data(), &invalid, kRows, n, bytes, bits}, 1);
            output.add(packed);
            cpu::unpack_bits({packed.data(), back.data(), &invalid, kRows, n, bytes, bits}, 1);
            output.add(back);
        }
}
