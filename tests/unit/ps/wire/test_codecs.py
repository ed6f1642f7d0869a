import struct

import pytest

from leash.ps._core import codecs as core
from leash.ps.errors import HeaderError, PayloadSizeError
from leash.ps.wire.codecs import (
    CODECS,
    MAX_INT8_BLOCK,
    MIN_INT8_BLOCK,
    Codec,
    check_size,
    codec_for,
    max_topk,
)
from leash.ps.wire.layout import Chunk

FLOATS = Chunk(0, "parameter", "f32", 0, 5)
DOUBLES = Chunk(1, "parameter", "f64", 64, 5)
STATISTICS = Chunk(2, "buffer", "f32", 128, 5)
CHUNKS = [FLOATS, DOUBLES, STATISTICS]

every_codec = pytest.mark.parametrize("codec", CODECS.values(), ids=lambda c: c.name)


@pytest.mark.parametrize("chunk", CHUNKS)
def test_each_dtype_is_carried_by_the_codec_of_its_name(chunk: Chunk) -> None:
    assert codec_for(chunk.dtype, chunk) is CODECS[chunk.dtype]


@pytest.mark.parametrize("name", ["bf16", "f16", "int8", "topk"])
def test_what_rounds_carries_f32_parameters_only(name: str) -> None:
    assert codec_for(name, FLOATS) is CODECS[name]
    with pytest.raises(HeaderError, match=f"chunk 1 holds f64 parameters: .* f64, got '{name}'"):
        codec_for(name, DOUBLES)
    with pytest.raises(HeaderError, match=f"chunk 2 holds f32 buffers: .* f32, got '{name}'"):
        codec_for(name, STATISTICS)


@pytest.mark.parametrize(("name", "chunk"), [("f64", FLOATS), ("f32", DOUBLES), ("", FLOATS)])
def test_a_codec_that_cannot_carry_a_chunk_is_refused(name: str, chunk: Chunk) -> None:
    with pytest.raises(HeaderError, match=f"chunk {chunk.index} holds {chunk.dtype} .*: expected"):
        codec_for(name, chunk)


def test_the_refusal_lists_those_that_fit() -> None:
    with pytest.raises(HeaderError, match="expected codec f32, bf16, f16, int8, topk, got 'f64'"):
        codec_for("f64", FLOATS)


@pytest.mark.parametrize(
    ("name", "chunk", "letter"),
    [("f32", FLOATS, "f"), ("f64", DOUBLES, "d"), ("f16", FLOATS, "e"), ("bf16", FLOATS, "H")],
)
def test_the_size_is_that_of_the_values_as_struct_packs_them(
    name: str, chunk: Chunk, letter: str
) -> None:
    nbytes = struct.calcsize(f"<5{letter}")
    check_size(chunk, CODECS[name], nbytes)
    for wrong in (0, nbytes - 1, nbytes + 1):
        with pytest.raises(PayloadSizeError, match=f"expected {nbytes} bytes .*, got {wrong}"):
            check_size(chunk, CODECS[name], wrong)


@pytest.mark.parametrize("values", [1, 2, 3, 64, 65, 262144])
@pytest.mark.parametrize("name", ["int8", "topk"])
def test_a_size_that_differs_is_bounded(name: str, values: int) -> None:
    chunk = Chunk(0, "parameter", "f32", 0, values)
    largest = {"int8": 4 + 4 * -(-values // 64) + values, "topk": 8 * max(1, values // 2)}[name]
    for nbytes in (0, largest // 2, largest):
        check_size(chunk, CODECS[name], nbytes)
    with pytest.raises(PayloadSizeError, match=f"expected at most {largest} bytes"):
        check_size(chunk, CODECS[name], largest + 1)


@every_codec
@pytest.mark.parametrize("values", [1, 16384, 262144])
def test_every_payload_fits_into_a_frame(codec: Codec, values: int) -> None:
    chunk = Chunk(0, codec.kinds[0], codec.dtype, 0, values)
    assert codec.max_nbytes(values) <= chunk.nbytes + 4096


@every_codec
def test_a_reply_is_in_a_codec_of_known_size_that_carries_the_same(codec: Codec) -> None:
    reply = CODECS[codec.reply]
    assert reply.value_nbytes is not None
    assert reply.reply == reply.name
    assert all(reply.carries(chunk) for chunk in CHUNKS if codec.carries(chunk))


def test_the_limits_are_those_of_the_core() -> None:
    for block in (MIN_INT8_BLOCK, MAX_INT8_BLOCK):
        core.nbytes("int8", 100, block=block)
    for block in (MIN_INT8_BLOCK // 2, MAX_INT8_BLOCK * 2):
        with pytest.raises(ValueError, match="block: expected"):
            core.nbytes("int8", 100, block=block)
    for values in (1, 2, 3, 100):
        core.nbytes("topk", values, k=max_topk(values))
        with pytest.raises(ValueError, match="k: expected at most"):
            core.nbytes("topk", values, k=max_topk(values) + 1)
