"""The forms of payloads against numpy and torch, on every instruction set of this CPU.

What int8 and topk choose to send is in test_encode.py.
"""

import struct
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from leash.ps._core import codecs, instruction_sets
from support.values import random_values, unaligned

Floats = NDArray[np.float32]

SIZES = [0, 1, 15, 16, 17, 4097]
CODECS = ["bf16", "f16", "int8", "topk"]
TORCH_DTYPE = {"bf16": torch.bfloat16, "f16": torch.float16}

every_isa = pytest.mark.parametrize("isa", instruction_sets())
every_size = pytest.mark.parametrize("n", SIZES)
every_codec = pytest.mark.parametrize("codec", CODECS)
both_halves = pytest.mark.parametrize("codec", ["bf16", "f16"])


def encode_half(codec: str, values: Floats, isa: str | None = None) -> bytes:
    out = unaligned(bytes(2 * values.size))
    assert codecs.encode_half(codec, values, out, isa=isa) == out.nbytes
    return bytes(out)


def encode(codec: str, values: Floats, isa: str | None = None) -> bytes:
    """Any codec, with a fresh residual."""
    if codec in TORCH_DTYPE:
        return encode_half(codec, values, isa)
    out, rest = bytearray(4 * values.size + 4096), np.zeros_like(values)
    if codec == "int8":
        return bytes(out[: codecs.encode_int8(values, rest, out, 64, 1, isa=isa)])
    return bytes(out[: codecs.encode_topk(values, rest, out, values.size // 4, isa=isa)])


def decode(codec: str, payload: bytes, n: int, isa: str | None = None) -> Floats:
    out = np.full(n, np.nan, np.float32)
    codecs.decode(codec, unaligned(payload), out, isa=isa)
    return out


def reference(codec: str, payload: bytes, n: int) -> Floats:
    """Each form read as its description says, by numpy."""
    if codec == "bf16":
        return (np.frombuffer(payload, "<u2").astype("<u4") << 16).view("<f4")
    if codec == "f16":
        return np.frombuffer(payload, "<f2").astype("<f4")
    if codec == "int8":
        (block,) = struct.unpack_from("<I", payload)
        blocks = -(-n // block)
        scales = np.frombuffer(payload, "<f4", blocks, 4)
        return np.repeat(scales, block)[:n] * np.frombuffer(payload, "i1", n, 4 + 4 * blocks)
    k = len(payload) // 8
    out = np.zeros(n, np.float32)
    out[np.frombuffer(payload, "<u4", k)] = np.frombuffer(payload, "<f4", k, 4 * k)
    return out


def assert_same(actual: Floats, expected: Floats) -> None:
    """Bit for bit, but for which NaN it is."""
    nan = np.isnan(expected)
    assert (np.isnan(actual) == nan).all()
    assert actual[~nan].tobytes() == expected[~nan].tobytes()


def edge_cases() -> Floats:
    """Every exponent with mantissas around each rounding step of both halves, in both signs."""
    exponents = np.arange(256, dtype=np.uint32)[:, None] << 23
    steps = np.array([m << s for s in (12, 13, 15, 16) for m in (1, 2, 3, 5)], np.uint32)
    mantissas = np.concatenate([steps, steps - 1, steps + 1, [0, 1, 0x7FFFFF, 0x7FE000, 0x7F8000]])
    magnitudes = (exponents | mantissas.astype(np.uint32)).ravel()
    return np.concatenate([magnitudes, magnitudes | np.uint32(1 << 31)]).view(np.float32)


# bf16 and f16.


@every_isa
@both_halves
def test_every_bit_pattern_decodes_as_in_torch(codec: str, isa: str) -> None:
    patterns: NDArray[Any] = np.arange(65536, dtype=np.uint16)
    expected = torch.from_numpy(patterns.view(np.int16)).view(TORCH_DTYPE[codec]).float().numpy()
    assert_same(decode(codec, patterns.tobytes(), 65536, isa), expected)


@every_isa
@both_halves
def test_rounding_is_that_of_torch(codec: str, isa: str) -> None:
    values = np.concatenate([edge_cases(), random_values(65536) * np.float32(1e-6)])
    if codec == "f16":
        values = values[~(np.isfinite(values) & (np.abs(values) >= 65520))]
    expected = torch.from_numpy(values).to(TORCH_DTYPE[codec]).float().numpy()
    assert_same(reference(codec, encode_half(codec, values, isa), values.size), expected)


@every_isa
def test_f16_saturates_but_keeps_infinity_and_nan(isa: str) -> None:
    values = np.array([65504, 65519, 65520, 1e6, 3.4e38, -7e4, np.inf, -np.inf, np.nan], np.float32)
    values = np.tile(values, 3)  # some in vectors, some in what is left over
    largest = np.float32(65504)
    expected = np.where(np.isfinite(values), np.clip(values, -largest, largest), values)
    assert_same(reference("f16", encode_half("f16", values, isa), values.size), expected)


@both_halves
def test_the_error_is_within_the_stated_bound(codec: str) -> None:
    values = edge_cases()
    values = values[np.isfinite(values) & (np.abs(values) <= 65504)].astype(np.float64)
    decoded = reference(codec, encode_half(codec, values.astype(np.float32)), values.size)
    relative, smallest = {"bf16": (2**-8, 2**-126), "f16": (2**-11, 2**-14)}[codec]
    bound = relative * np.maximum(np.abs(values), smallest)
    assert (np.abs(decoded - values) <= bound).all()


@both_halves
def test_a_half_encodes_into_itself(codec: str) -> None:
    patterns: NDArray[Any] = np.arange(65536, dtype=np.uint16)
    values = decode(codec, patterns.tobytes(), 65536)
    numbers = ~np.isnan(values)
    encoded = np.frombuffer(encode_half(codec, values), np.uint16)
    assert (encoded[numbers] == patterns[numbers]).all()
    assert np.isnan(decode(codec, encoded.tobytes(), 65536)[~numbers]).all()


# All forms.


@every_isa
@every_codec
@every_size
def test_decoding_follows_the_description_of_the_form(codec: str, n: int, isa: str) -> None:
    payload = encode(codec, random_values(n), isa)
    assert decode(codec, payload, n, isa).tobytes() == reference(codec, payload, n).tobytes()


@every_codec
@pytest.mark.parametrize("values", [*map(random_values, SIZES), edge_cases()], ids=len)
def test_every_instruction_set_gives_the_same_bits(codec: str, values: Floats) -> None:
    payloads = [encode(codec, values, isa) for isa in instruction_sets()]
    assert payloads == [payloads[0]] * len(payloads)
    decoded = [decode(codec, payloads[0], len(values), isa).tobytes() for isa in instruction_sets()]
    assert decoded == [decoded[0]] * len(decoded)


@every_codec
@given(data=st.data())
def test_a_range_is_a_slice_of_the_whole(codec: str, data: st.DataObject) -> None:
    n = data.draw(st.integers(0, 700))
    begin = data.draw(st.integers(0, n))
    end = data.draw(st.integers(begin, n))
    payload = encode(codec, random_values(n))
    part = np.full(end - begin, np.nan, np.float32)
    codecs.decode(codec, payload, part, begin=begin, values=n)
    assert part.tobytes() == decode(codec, payload, n)[begin:end].tobytes()


@every_codec
@every_size
def test_the_size_is_known_beforehand(codec: str, n: int) -> None:
    expected = codecs.nbytes(codec, n, block=64, k=n // 4)
    assert len(encode(codec, random_values(n))) == expected


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("index", [0, 1, 1023, 1024, 4096])
@every_codec
def test_the_first_value_that_is_not_finite_is_found(codec: str, index: int, bad: float) -> None:
    values = random_values(4097)
    assert codecs.find_nonfinite(codec, encode(codec, values), 4097) is None
    values[[index, 4096]] = bad
    found = codecs.find_nonfinite(codec, encode(codec, values), 4097)
    assert found == (index // 64 * 64 if codec == "int8" else index)


# What is not well formed.


def int8(block: int, values: int, scale: float = 1.0) -> bytes:
    return struct.pack("<I", block) + struct.pack("<f", scale) * -(-values // block) + bytes(values)


def topk(*indices: int) -> bytes:
    return struct.pack(f"<{len(indices)}I", *indices) + bytes(4 * len(indices))


@pytest.mark.parametrize(
    ("codec", "payload", "message"),
    [
        ("bf16", bytes(199), "bf16: expected 200 bytes, got 199"),
        ("f16", bytes(202), "f16: expected 200 bytes, got 202"),
        ("int8", b"", "int8: expected at least 4 bytes, got 0"),
        ("int8", int8(100, 100), "int8: expected a block of a power of two from 64 to 65536, got"),
        ("int8", int8(32, 100), "int8: expected a block .*, got 32"),
        ("int8", int8(1 << 17, 100), "int8: expected a block .*, got 131072"),
        ("int8", struct.pack("<I", 0), "int8: expected a block .*, got 0"),
        ("int8", int8(64, 99), "int8: expected 112 bytes, got 111"),
        ("topk", bytes(12), "topk: expected a multiple of 8 bytes, got 12"),
        ("topk", topk(*range(51)), "topk: expected at most 50 of 100 values, got 51"),
        ("topk", topk(0, 1, 7, 7), "topk: index 7 at place 3: expected ascending indices below"),
        ("topk", topk(0, 8, 7), "topk: index 7 at place 2: expected ascending indices below 100"),
        ("topk", topk(0, 100), "topk: index 100 at place 1: expected ascending indices below 100"),
        ("topk", topk(2**32 - 1), "topk: index 4294967295 at place 0"),
        ("raw", bytes(400), "codec: raw is the values themselves"),
        ("zip", bytes(400), "codec: expected 'raw' 'bf16' 'f16' 'int8' 'topk', got 'zip'"),
    ],
)
def test_a_malformed_payload_is_refused(codec: str, payload: bytes, message: str) -> None:
    out = np.full(100, 7, np.float32)
    with pytest.raises(ValueError, match=message):
        codecs.decode(codec, payload, out)
    with pytest.raises(ValueError, match=message):
        codecs.find_nonfinite(codec, payload, 100)
    assert (out == 7).all()


@given(codec=st.sampled_from(CODECS), payload=st.binary(max_size=300), n=st.integers(0, 200))
def test_any_bytes_are_read_or_refused(codec: str, payload: bytes, n: int) -> None:
    try:
        decoded = decode(codec, payload, n)
    except ValueError:
        with pytest.raises(ValueError, match=f"^{codec}: "):
            codecs.find_nonfinite(codec, payload, n)
        return
    assert_same(decoded, reference(codec, payload, n))
    if codecs.find_nonfinite(codec, payload, n) is None:
        assert np.isfinite(decoded).all()


@pytest.mark.parametrize("scale", [3e38, -3e38, np.inf, np.nan])
def test_a_scale_that_could_make_an_infinity_counts_as_one(scale: float) -> None:
    assert codecs.find_nonfinite("int8", int8(64, 100, scale), 100) == 0


def test_topk_of_one_value_may_send_it() -> None:
    assert decode("topk", struct.pack("<If", 0, 2.5), 1).tolist() == [2.5]
    assert decode("topk", b"", 0).tolist() == []


# Arguments.


def test_nothing_is_converted() -> None:
    doubles: NDArray[Any] = np.zeros(4)
    floats = np.zeros(4, np.float32)
    strided = np.zeros(8, np.float32)[::2]
    for wrong in (doubles, strided):
        with pytest.raises(TypeError):
            codecs.encode_half("bf16", wrong, bytearray(8))
        with pytest.raises(TypeError):
            codecs.encode_int8(floats, wrong, bytearray(512), 64, 1)
        with pytest.raises(TypeError):
            codecs.encode_topk(wrong, floats, bytearray(512), 1)
        with pytest.raises(TypeError):
            codecs.decode("bf16", bytes(8), wrong)


def test_room_that_is_too_small_or_read_only_is_refused() -> None:
    floats, rest = np.zeros(100, np.float32), np.zeros(100, np.float32)
    with pytest.raises(ValueError, match="out: expected at least 200 bytes, got 199"):
        codecs.encode_half("f16", floats, bytearray(199))
    with pytest.raises(ValueError, match="out: expected at least 112 bytes, got 0"):
        codecs.encode_int8(floats, rest, bytearray(), 64, 1)
    with pytest.raises(ValueError, match="out: expected at least 80 bytes, got 79"):
        codecs.encode_topk(floats, rest, bytearray(79), 10)
    with pytest.raises(ValueError, match="out: expected a writable"):
        codecs.encode_half("f16", floats, bytes(200))


def test_arguments_out_of_range_are_refused() -> None:
    floats, rest, out = np.zeros(100, np.float32), np.zeros(100, np.float32), bytearray(4096)
    with pytest.raises(ValueError, match="codec: expected 'bf16' 'f16', got 'topk'"):
        codecs.encode_half("topk", floats, out)
    for block in (0, 32, 100, 1 << 17, 1 << 32):
        with pytest.raises(ValueError, match=f"block: expected a power of two .*, got {block}"):
            codecs.encode_int8(floats, rest, out, block, 1)
    with pytest.raises(ValueError, match="k: expected at most 50 of 100 values, got 51"):
        codecs.encode_topk(floats, rest, out, 51)
    with pytest.raises(ValueError, match="residual: expected 100 values, got 99"):
        codecs.encode_topk(floats, rest[:99], out, 1)
    with pytest.raises(ValueError, match="out: expected at most the values after begin"):
        codecs.decode("bf16", bytes(200), rest, begin=1)
