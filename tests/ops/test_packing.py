import random

import numpy as np
import pytest
import torch

from ribs import ops
from ribs.ops import twin

BITS = pytest.mark.parametrize("bits", range(1, 9))
PACKS = pytest.mark.parametrize("side", [ops, twin], ids=["native", "twin"])


def by_numpy(codes: np.ndarray, bits: int, align: int) -> np.ndarray:
    """The definition, from numpy: the low bits of every code in a row, then zeros."""
    stream = np.unpackbits(codes[..., None], axis=-1, count=bits, bitorder="little")
    stream = stream.reshape(*codes.shape[:-1], codes.shape[-1] * bits)
    packed = np.packbits(stream, axis=-1, bitorder="little")
    return np.pad(packed, [(0, 0)] * (codes.ndim - 1) + [(0, -packed.shape[-1] % align)])


def check(codes: torch.Tensor, bits: int, align: int) -> None:
    packed = ops.pack_bits(codes, bits, align=align)
    want = by_numpy(codes.cpu().numpy(), bits, align)
    assert packed.dtype == torch.uint8 and packed.device == codes.device and packed.is_contiguous()
    np.testing.assert_array_equal(packed.cpu().numpy(), want)
    assert torch.equal(twin.pack_bits(codes, bits, align=align), packed)
    n = codes.shape[-1]
    assert torch.equal(ops.unpack_bits(packed, bits, n, align=align), codes)
    assert torch.equal(twin.unpack_bits(packed, bits, n, align=align), codes)


@BITS
def test_every_length(bits: int, device: torch.device) -> None:
    """The first n codes are the first bytes of all, but for zeros in the last one."""
    codes = torch.randint(0, 2**bits, (2, 4096), dtype=torch.uint8, device=device)
    whole = by_numpy(codes.cpu().numpy(), bits, 1)
    for n in range(4097):
        packed = ops.pack_bits(codes[:, :n], bits)
        want = whole[:, : -(-n * bits // 8)].copy()
        if n * bits % 8:
            want[:, -1] &= (1 << n * bits % 8) - 1
        assert np.array_equal(packed.cpu().numpy(), want), n
        assert torch.equal(ops.unpack_bits(packed, bits, n), codes[:, :n]), n


@BITS
def test_short_rows(bits: int, device: torch.device) -> None:
    for n in range(33):
        check(torch.randint(0, 2**bits, (2, n), dtype=torch.uint8, device=device), bits, (1, 4, 3)[n % 3])


@BITS
def test_random_round_trips(bits: int) -> None:
    choose = random.Random(bits)
    for _ in range(1250):
        rows, n, align = choose.randrange(6), choose.randrange(300), choose.randint(1, 9)
        codes = torch.from_numpy(np.frombuffer(choose.randbytes(rows * n), np.uint8) >> (8 - bits)).view(rows, n)
        packed = ops.pack_bits(codes, bits, align=align)
        assert np.array_equal(packed.numpy(), by_numpy(codes.numpy(), bits, align))
        assert torch.equal(ops.unpack_bits(packed, bits, n, align=align), codes)


@BITS
def test_compressed_tensors_reads_rows_of_whole_words(bits: int) -> None:
    helpers = pytest.importorskip("compressed_tensors.compressors.pack_quantized.helpers")
    for n in range(1, 129):
        codes = torch.randint(0, 2**bits, (3, n), dtype=torch.uint8)
        words = ops.pack_bits(codes, bits, align=4).view(torch.int32)
        found = helpers.unpack_from_int32(words, bits, codes.shape)
        assert torch.equal(found, (codes.int() - 2 ** (bits - 1)).to(torch.int8))  # signed codes


VECTORS = {  # codes, bits, align, bytes
    "3_bits": ([1, 2, 3, 4, 5, 6, 7, 0, 5], 3, 1, [0xD1, 0x58, 0x1F, 0x05]),  # 0x1F58D1 is 0o07654321
    "4_bits_are_nibbles": ([0x1, 0x2, 0xF], 4, 1, [0x21, 0x0F]),
    "1_bit": ([1, 0, 0, 0, 0, 0, 0, 0, 1], 1, 4, [0x01, 0x01, 0x00, 0x00]),
    "8_bits_are_bytes": ([0, 255, 7], 8, 2, [0, 255, 7, 0]),
    "5_bits_cross_bytes": ([31, 0, 31, 16], 5, 1, [0x1F, 0x7C, 0x08]),
}


@PACKS
@pytest.mark.parametrize("case", VECTORS.values(), ids=VECTORS)
def test_bytes_that_files_hold(case: tuple, side: object, device: torch.device) -> None:
    codes, bits, align, want = case
    codes, want = (torch.tensor(each, dtype=torch.uint8, device=device) for each in (codes, want))
    assert torch.equal(side.pack_bits(codes, bits, align=align), want)
    assert torch.equal(side.unpack_bits(want, bits, len(codes), align=align), codes)


LAYOUTS = {
    "one_row": lambda x: x.flatten(),
    "matrix": lambda x: x,
    "transposed": lambda x: x.T,
    "strided": lambda x: x[:, ::3],
    "expanded": lambda x: x[0].expand(4, -1),
    "misaligned": lambda x: x.flatten()[1:],
    "four_dimensions": lambda x: x.view(-1, 5, 3, 2),
    "channels_last": lambda x: x.flatten()[:360].view(3, 4, 5, 6).contiguous(memory_format=torch.channels_last),
    "no_rows": lambda x: x[:0],
    "no_codes": lambda x: x[:, :0],
}


@BITS
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str, bits: int, device: torch.device) -> None:
    codes = torch.randint(0, 2**bits, (23, 30), dtype=torch.uint8, device=device)
    check(LAYOUTS[layout](codes), bits, 1 + bits % 4)


@BITS
def test_layouts_of_packed_bytes(bits: int, device: torch.device) -> None:
    packed = torch.randint(0, 256, (3, 5 * bits), dtype=torch.uint8, device=device)
    for form in (packed.T.contiguous().T, torch.cat([packed, packed], 1)[:, : 5 * bits], packed[:1].expand(4, -1)):
        assert torch.equal(ops.unpack_bits(form, bits, 40), ops.unpack_bits(form.contiguous(), bits, 40))


@pytest.mark.parametrize("shape", [(3, 900_001), (1_000_000, 3)], ids=str)
def test_threads_do_not_matter(shape: tuple[int, int]) -> None:
    codes, before, found = torch.randint(0, 8, shape, dtype=torch.uint8), torch.get_num_threads(), []
    wrong = codes.clone()
    wrong[1, 2] = wrong[-1, 0] = 8
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        found.append(ops.pack_bits(codes, 3))
        assert torch.equal(ops.unpack_bits(found[-1], 3, shape[1]), codes)
        with pytest.raises(ValueError, match=r"codes\[1, 2\]=8 is not"):
            ops.pack_bits(wrong, 3)
    torch.set_num_threads(before)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@pytest.mark.slow
def test_more_codes_than_32_bits_count() -> None:
    n = 2**31 + 9
    codes = torch.zeros(n, dtype=torch.uint8)
    codes[[0, 2**31 - 1, 2**31, n - 1]] = 1
    packed = ops.pack_bits(codes, 1)
    assert packed.shape == (2**28 + 2,) and packed.nonzero().flatten().tolist() == [0, 2**28 - 1, 2**28, 2**28 + 1]
    assert packed[[0, 2**28 - 1, 2**28, 2**28 + 1]].tolist() == [1, 128, 1, 1]
    assert torch.equal(ops.unpack_bits(packed, 1, n), codes)
    codes[n - 2] = 2
    with pytest.raises(ValueError, match=rf"codes\[{n - 2}\]=2 is not supported"):
        ops.pack_bits(codes, 1)


U8 = torch.tensor([[1, 2], [3, 4]], dtype=torch.uint8)
PACK_REFUSED = {
    "dtype": (U8.int(), 3, 1, TypeError, r"codes dtype=torch.int32 is not supported; .*torch.uint8"),
    "scalar": (U8[0, 0], 3, 1, ValueError, r"codes shape=\[\] is not supported; .* at least one dimension"),
    "bits_0": (U8, 0, 1, ValueError, r"bits=0 is not supported; supported bits are 1\.\.8"),
    "bits_9": (U8, 9, 1, ValueError, "bits=9 is not supported"),
    "bits_float": (U8, 4.0, 1, TypeError, "bits=4.0 is not an int"),
    "align_0": (U8, 3, 0, ValueError, "align=0 is not supported; it must be an int of at least 1"),
    "align_float": (U8, 3, 4.0, ValueError, "align=4.0 is not supported"),
    "code": (U8, 2, 1, ValueError, r"codes\[1, 1\]=4 is not supported; codes of 2 bits are 0\.\.3"),
    "first_code": (U8, 1, 1, ValueError, r"codes\[0, 1\]=2 is not supported; codes of 1 bits are 0\.\.1"),
    "code_of_a_view": (U8.T, 1, 1, ValueError, r"codes\[0, 1\]=3 is not supported"),
}


@PACKS
@pytest.mark.parametrize("case", PACK_REFUSED.values(), ids=PACK_REFUSED)
def test_pack_refuses(case: tuple, side: object, device: torch.device) -> None:
    codes, bits, align, error, message = case
    with pytest.raises(error, match=r"\[pack_bits\] " + message):
        side.pack_bits(codes.to(device), bits, align=align)


UNPACK_REFUSED = {  # packed, bits, n, align
    "dtype": (U8.float(), 3, 5, 1, TypeError, "packed dtype=torch.float32 is not supported"),
    "scalar": (U8[0, 0], 3, 1, 1, ValueError, r"packed shape=\[\] is not supported"),
    "bits": (U8, 9, 1, 1, ValueError, "bits=9 is not supported"),
    "n": (U8, 3, -1, 1, ValueError, "n=-1 is not supported; it must be an int of at least 0"),
    "n_float": (U8, 3, 5.0, 1, ValueError, r"n=5\.0 is not supported"),
    "align": (U8, 3, 5, -4, ValueError, "align=-4 is not supported"),
    "long": (U8, 3, 2, 1, ValueError, r"packed shape=\[2, 2\] does not fit n=2; rows must have 1 bytes"),
    "short": (U8, 3, 6, 1, ValueError, ".* does not fit n=6; rows must have 3 bytes"),
    "unaligned": (U8, 3, 5, 4, ValueError, ".* does not fit n=5; rows must have 4 bytes"),
    "padding_bits": (torch.tensor([[8], [9], [8]], dtype=torch.uint8), 3, 1, 1, ValueError, "row=0 of packed has bits"),
    "later_row": (torch.tensor([[7], [9], [8]], dtype=torch.uint8), 3, 1, 1, ValueError, "row=1 of packed has bits"),
    "padding_bytes": (U8, 8, 1, 2, ValueError, "row=0 of packed has bits set after its last code; they must be zero"),
}


@PACKS
@pytest.mark.parametrize("case", UNPACK_REFUSED.values(), ids=UNPACK_REFUSED)
def test_unpack_refuses(case: tuple, side: object, device: torch.device) -> None:
    packed, bits, n, align, error, message = case
    with pytest.raises(error, match=r"\[unpack_bits\] " + message):
        side.unpack_bits(packed.to(device), bits, n, align=align)
