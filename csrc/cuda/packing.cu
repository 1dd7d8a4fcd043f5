#include "core/packing.h"
#include "cuda/launch.cuh"

namespace ribs::cuda {
namespace {

/// Keeps the smallest index; `invalid` begins as INT64_MAX, and indices are not negative.
__device__ void note(int64_t* invalid, int64_t index) {
    atomicMin(reinterpret_cast<unsigned long long*>(invalid), static_cast<unsigned long long>(index));
}

/// Where a thread works: a group of codes, and the bytes after the last group of a row.
struct Place {
    template <class Params>
    __device__ Place(const Params& p, int64_t index) {
        const int64_t groups = (p.n + kGroup - 1) / kGroup, group = index % groups;
        row = index / groups;
        code = row * p.n + group * kGroup;
        byte = row * p.bytes + group * p.bits;
        last = group == groups - 1;
        count = last ? p.n - group * kGroup : kGroup;
        padding = row * p.bytes + packed_bytes(p.n, p.bits);
        end = (row + 1) * p.bytes;
    }

    int64_t row, code, byte, count, padding, end;
    bool last;
};

__global__ void pack_kernel(PackBitsParams p, int64_t groups) {
    const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < groups; i += stride) {
        const Place at(p, i);
        uint64_t excess = pack_codes(p.codes + at.code, p.packed + at.byte, at.count, p.bits);
        if (excess != 0) {
            int64_t k = 0;
            for (; (excess & 0xff) == 0; excess >>= 8) ++k;
            note(p.invalid, at.code + k);
        }
        if (at.last)
            for (int64_t k = at.padding; k < at.end; ++k) p.packed[k] = 0;
    }
}

__global__ void unpack_kernel(UnpackBitsParams p, int64_t groups) {
    const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < groups; i += stride) {
        const Place at(p, i);
        uint64_t rest = unpack_codes(p.packed + at.byte, p.codes + at.code, at.count, p.bits);
        if (at.last)
            for (int64_t k = at.padding; k < at.end; ++k) rest |= p.packed[k];
        if (rest != 0) note(p.invalid, at.row);
    }
}

}  // namespace

void pack_bits(const PackBitsParams& p, Stream stream) {
    const int64_t groups = p.rows * ((p.n + kGroup - 1) / kGroup);
    pack_kernel<<<blocks(groups, kThreads), kThreads, 0, handle(stream)>>>(p, groups);
    check_launch("pack_bits");
}

void unpack_bits(const UnpackBitsParams& p, Stream stream) {
    const int64_t groups = p.rows * ((p.n + kGroup - 1) / kGroup);
    unpack_kernel<<<blocks(groups, kThreads), kThreads, 0, handle(stream)>>>(p, groups);
    check_launch("unpack_bits");
}

}  // namespace ribs::cuda
