"""Encoded payloads, answers elsewhere, runs of chunks, and numbers of the whole model."""

import gc
import weakref
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from leash.ps._core import (
    AdamOptions,
    ChunkSpec,
    Nonfinite,
    Outcome,
    Rule,
    SgdOptions,
    Shard,
    codecs,
)

F32 = NDArray[np.float32]
ASP: dict[str, Any] = {"rule": Rule()}
SSP1: dict[str, Any] = {"rule": Rule(bound=1)}
BSP: dict[str, Any] = {"rule": Rule(bound=0, gather="step")}
CODECS = ["bf16", "f16", "int8", "topk"]
SIZES = [1, 15, 64, 1023, 1024, 1025, 5000]

every_codec = pytest.mark.parametrize("codec", CODECS)
every_policy = pytest.mark.parametrize("policy", [ASP, SSP1, BSP], ids=["asp", "ssp", "bsp"])


def parameters(values: int, dtype: str = "f32") -> ChunkSpec:
    return ChunkSpec(values=values, dtype=dtype, kind="parameter")


def make_shard(
    policy: dict[str, Any], specs: list[ChunkSpec], options: Any = None, **more: Any
) -> Shard:
    """Two workers at clock 0, every value 0, learning rate 1."""
    options = options or SgdOptions(lr=1.0)
    shard = Shard(specs, options, **policy, nonfinite=Nonfinite.RAISE, **more)
    first = more.get("first_chunk", 0)
    for index, spec in enumerate(specs, start=first):
        shard.init(index, bytes(spec.nbytes))
    for worker in (1, 2):
        shard.join(worker, 0)
    return shard


def gradient(n: int, seed: int) -> F32:
    return np.random.default_rng(seed).standard_normal(n).astype(np.float32)


def encoded(codec: str, values: F32) -> bytearray:
    n = values.size
    out, residual = bytearray(8 * n + 2048), np.zeros(n, np.float32)
    if codec == "int8":
        used = codecs.encode_int8(values, residual, out, 64, 1)
    elif codec == "topk":
        used = codecs.encode_topk(values, residual, out, max(n // 2, 1))
    else:
        used = codecs.encode_half(codec, values, out)
    return out[:used]


def decoded(codec: str, payload: bytearray, n: int) -> F32:
    out = np.zeros(n, np.float32)
    codecs.decode(codec, payload, out)
    return out


@every_codec
@every_policy
@pytest.mark.parametrize("options", [SgdOptions(lr=0.1, momentum=0.9), AdamOptions()])
def test_an_encoded_push_is_that_of_the_values_it_stands_for(
    codec: str, policy: dict[str, Any], options: Any
) -> None:
    for n in SIZES:
        shard, raw = (make_shard(policy, [parameters(n)], options) for _ in range(2))
        answer = np.zeros(n, np.float32)
        for step in (1, 2, 3):
            for worker in (1, 2):
                payload = encoded(codec, gradient(n, 10 * step + worker))
                expected = decoded(codec, payload, n)
                before = bytes(payload)
                raw.push(0, worker, step, worker, expected, True)
                shard.push(0, worker, step, worker, payload, True, codec=codec, answer=answer)
                assert bytes(payload) == before
                if worker == 2 or policy is ASP:
                    assert answer.tobytes() == expected.tobytes()


@every_policy
@pytest.mark.parametrize("codec", ["bf16", "f16"])
def test_without_other_memory_the_answer_is_in_the_payloads_codec(
    codec: str, policy: dict[str, Any]
) -> None:
    for n in SIZES:
        shard = make_shard(policy, [parameters(n)])
        payloads = [encoded(codec, gradient(n, worker)) for worker in (1, 2)]
        for worker, payload in enumerate(payloads, start=1):
            result = shard.push(0, worker, 1, 1, payload, True, codec=codec)
        assert (2, 1) in [(reply.worker, reply.step) for reply in result.replies]
        values, half = np.zeros(n, np.float32), bytearray(2 * n)
        assert shard.pull(0, None, values) == shard.pull(0, None, half, codec)
        assert bytes(payloads[1]) == bytes(half) == bytes(encoded(codec, values))


@pytest.mark.parametrize("codec", ["int8", "topk"])
def test_codecs_of_gradients_alone_need_memory_for_the_answer(codec: str) -> None:
    shard = make_shard(ASP, [parameters(64)])
    payload = encoded(codec, gradient(64, 1))
    with pytest.raises(ValueError, match="chunk 0: codec: expected raw, bf16 or f16 for an answer"):
        shard.push(0, 1, 1, 1, payload, True, codec=codec)
    with pytest.raises(ValueError, match="chunk 0: codec: expected raw, bf16 or f16"):
        shard.pull(0, None, payload, codec)
    assert shard.clock(0, 1) == 0
    result = shard.push(0, 1, 1, 1, bytes(payload), False, codec=codec)
    assert (result.outcome, result.replies[0].has_payload) == (Outcome.APPLIED, False)


@every_codec
def test_only_f32_parameters_travel_in_a_codec(codec: str) -> None:
    buffer = ChunkSpec(values=64, dtype="f32", kind="buffer")
    shard = make_shard(ASP, [parameters(64, "f64"), buffer])
    for chunk in (0, 1):
        with pytest.raises(ValueError, match=f"chunk {chunk}: codec: expected raw, since"):
            shard.push(chunk, 1, 1, 1, bytes(128), False, codec=codec)
        with pytest.raises(ValueError, match=f"chunk {chunk}: codec"):
            shard.pull(chunk, None, bytearray(128), codec)
        assert shard.clock(chunk, 1) == 0
    with pytest.raises(ValueError, match="codec: expected 'raw' 'bf16'"):
        shard.push(0, 1, 1, 1, bytes(128), False, codec="zip")


@every_codec
def test_a_malformed_payload_changes_nothing_and_is_let_go(codec: str) -> None:
    shard = make_shard(ASP, [parameters(64)])
    for payload in (bytearray(3), bytearray(b"\xff" * 84), bytearray(513)):
        with pytest.raises(ValueError, match=f"chunk 0: {codec}: .*expected"):
            shard.push(0, 1, 1, 1, payload, True, codec=codec, answer=bytearray(256))
        payload.clear()
    assert (shard.clock(0, 1), shard.version(0), shard.stats().applied) == (0, 0, 0)


def test_an_answer_of_the_wrong_size_or_read_only_changes_nothing() -> None:
    shard = make_shard(ASP, [parameters(64)])
    for answer in (bytearray(255), bytes(256), bytearray(257)):
        with pytest.raises(ValueError, match="chunk 0: expected"):
            shard.push(0, 1, 1, 1, bytearray(256), True, answer=answer)
    with pytest.raises(ValueError, match="chunk 0: expected 128 bytes, got 256"):
        shard.pull(0, None, bytearray(256), "f16")
    assert shard.clock(0, 1) == 0


def test_a_payload_that_stays_as_it_is_may_be_read_only() -> None:
    shard = make_shard(ASP, [parameters(4)])
    ones, answer = np.ones(4, np.float32).tobytes(), np.zeros(4, np.float32)
    shard.push(0, 1, 1, 1, ones, False)
    shard.push(0, 1, 2, 1, ones, True, answer=answer)
    assert answer.tolist() == [-2.0] * 4
    with pytest.raises(ValueError, match="expected a writable"):
        shard.push(0, 1, 3, 1, ones, True)


@every_codec
def test_a_nan_in_an_encoded_payload_is_found(codec: str) -> None:
    shard = make_shard(ASP, [parameters(256)])
    values = gradient(256, 1)
    payload = encoded(codec, values)
    if codec == "topk":
        payload[-4:] = np.float32(np.nan).tobytes()
    elif codec == "int8":
        payload[8:12] = np.float32(np.nan).tobytes()  # the scale of the second block
    else:
        payload[2 * 200 : 2 * 201] = b"\xff\xff"
    result = shard.push(0, 1, 1, 1, payload, False, codec=codec)
    assert (result.outcome, shard.version(0)) == (Outcome.NONFINITE, 1)
    values = np.full(256, np.nan, np.float32)
    shard.pull(0, None, values)
    assert not values.any()
    last = int(np.frombuffer(payload, np.uint32)[127]) if codec == "topk" else 200
    assert result.nonfinite_index == (64 if codec == "int8" else last)


# Memory


class Memory(bytearray):
    """A bytearray that can be referred to weakly."""


def test_a_bsp_gradient_and_its_answer_are_let_go_when_each_is_no_longer_needed() -> None:
    shard = make_shard(BSP, [parameters(64)])
    payload, answer = Memory(encoded("bf16", gradient(64, 1))), Memory(256)
    shard.push(0, 1, 1, 1, payload, True, codec="bf16", answer=answer)
    alive = weakref.ref(payload), weakref.ref(answer)
    del payload, answer
    gc.collect()
    assert None not in [reference() for reference in alive]
    shard.unpark(0, 1)
    assert (alive[0]() is None, alive[1]() is None) == (False, True)
    shard.push(0, 2, 1, 1, bytearray(256), True)
    assert alive[0]() is None


def test_an_asp_push_keeps_neither() -> None:
    shard = make_shard(ASP, [parameters(64)])
    payload, answer = encoded("int8", gradient(64, 1)), bytearray(256)
    shard.push(0, 1, 1, 1, payload, True, codec="int8", answer=answer)
    payload.clear()
    answer.clear()


def test_the_place_of_a_waiting_answer_may_change_its_codec() -> None:
    shard = make_shard(BSP, [parameters(64)])
    first = encoded("bf16", gradient(64, 1))
    shard.push(0, 1, 1, 1, first, True, codec="bf16")
    again = np.zeros(64, np.float32)
    assert shard.push(0, 1, 1, 1, again, True).outcome is Outcome.DUPLICATE
    before = bytes(first)
    shard.push(0, 2, 1, 1, np.zeros(64, np.float32), True)
    expected = -decoded("bf16", bytearray(before), 64) / 2
    assert again.tolist() == expected.tolist()
    assert bytes(first) == before


# Numbers of the whole model


def test_a_shard_knows_its_chunks_by_their_numbers_in_the_whole_model() -> None:
    shard = make_shard(ASP, [parameters(4), parameters(4)], first_chunk=5)
    result = shard.push(6, 1, 1, 1, bytearray(16), True)
    assert [reply.chunk for reply in result.replies] == [6]
    assert (shard.version(5), shard.version(6), shard.chunks) == (0, 1, 2)
    for chunk in (0, 4, 7):
        with pytest.raises(IndexError, match=f"chunk {chunk}: this shard has 2 chunks from 5"):
            shard.version(chunk)
    with pytest.raises(ValueError, match="chunk 5: expected 16 bytes"):
        shard.init(5, bytes(4))
