import struct

import pytest

from ps.errors import HeaderError, PayloadSizeError
from ps.layout import Chunk
from ps.wire.codecs import CODECS, check_size, codec_for

FLOATS = Chunk(0, "parameter", "f32", 0, 5)
DOUBLES = Chunk(1, "parameter", "f64", 64, 5)


@pytest.mark.parametrize("chunk", [FLOATS, DOUBLES])
def test_each_dtype_is_carried_by_the_codec_of_its_name(chunk: Chunk) -> None:
    assert codec_for(chunk.dtype, chunk) is CODECS[chunk.dtype]


@pytest.mark.parametrize(("name", "chunk"), [("f64", FLOATS), ("f32", DOUBLES), ("", FLOATS)])
def test_a_codec_that_cannot_carry_a_chunk_is_refused(name: str, chunk: Chunk) -> None:
    with pytest.raises(HeaderError, match=f"chunk {chunk.index} holds {chunk.dtype}: expected"):
        codec_for(name, chunk)


@pytest.mark.parametrize(("chunk", "letter"), [(FLOATS, "f"), (DOUBLES, "d")])
def test_the_size_is_that_of_the_values_as_struct_packs_them(chunk: Chunk, letter: str) -> None:
    nbytes = struct.calcsize(f"<5{letter}")
    check_size(chunk, CODECS[chunk.dtype], nbytes)
    for wrong in (0, nbytes - 1, nbytes + 1):
        with pytest.raises(PayloadSizeError, match=f"expected {nbytes} bytes .*, got {wrong}"):
            check_size(chunk, CODECS[chunk.dtype], wrong)
