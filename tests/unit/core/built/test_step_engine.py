"""A worker's step engine beside numpy: the seeds by which it rounds, and what it asks of Python."""

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leash.ps._core import StepChunk, StepEngine, codecs
from leash.ps.wire.frames import DATA, decode, encode
from leash.ps.wire.messages import Params, PushPull

VALUES = 100
NBYTES = 4 * VALUES
CHUNKS = 3
SLAB_NBYTES = CHUNKS * NBYTES
Bytes = npt.NDArray[np.uint8]


def make(codec: str = "f32", worker: int = 1, residual: Bytes | None = None) -> StepEngine:
    """Of a worker with three chunks of one slot each, connected."""
    rest = np.zeros(SLAB_NBYTES, np.uint8) if residual is None else residual
    engine = StepEngine(
        [StepChunk(i * NBYTES, VALUES, "f32", "parameter", [(i, i * NBYTES, VALUES)])
         for i in range(CHUNKS)],
        worker=worker, incarnation=7, window=8, first_chunks=[0], codec=codec, int8_block=64,
        topk_ratio=0.1, memory=bytearray(4 * SLAB_NBYTES), slabs=(0, SLAB_NBYTES),
        outbox=2 * SLAB_NBYTES, residual=rest.data,
    )  # fmt: skip
    engine.connected(0)
    return engine


def sent(engine: StepEngine) -> Iterator[tuple[PushPull, Any]]:
    while (outgoing := engine.next(0)) is not None:
        push = decode(outgoing[0], DATA)
        assert isinstance(push, PushPull)
        yield push, outgoing[1]


@given(
    worker=st.integers(1, 2**32 - 1),
    step=st.integers(1, 2**32) | st.integers(1, 2**63 - 1),
    seed=st.integers(0, 2**32 - 1),
)
def test_int8_is_rounded_by_the_seeds_that_numpy_makes_of_worker_step_and_chunk(
    worker: int, step: int, seed: int
) -> None:
    values = np.random.default_rng(seed).standard_normal(CHUNKS * VALUES, np.float32)
    residual = np.zeros(SLAB_NBYTES, np.uint8)
    rest = np.zeros(CHUNKS * VALUES, np.float32)
    engine = make("int8", worker, residual)
    slab = values.view(np.uint8)
    engine.begin(step, 1, slab.data, slab.data)
    engine.ready(0)
    for push, payload in sent(engine):
        part = slice(push.chunk * VALUES, (push.chunk + 1) * VALUES)
        sequence = np.random.SeedSequence([worker, step, push.chunk])
        expected = bytearray(codecs.nbytes("int8", VALUES, block=64))
        codecs.encode_int8(
            values[part], rest[part], expected, 64, int(sequence.generate_state(1, np.uint64)[0])
        )
        assert bytes(payload) == bytes(expected)
    assert (residual.view(np.float32) == rest).all()


@pytest.mark.parametrize("ratio", [0.01, 0.025, 0.035, 0.125, 0.345, 0.5])
@pytest.mark.parametrize("values", [1, 2, 10, 20, 50, 100, 1000])
def test_topk_sends_the_share_that_python_rounds_to(ratio: float, values: int) -> None:
    nbytes = 4 * values
    engine = StepEngine(
        [StepChunk(0, values, "f32", "parameter", [(0, 0, values)])],
        worker=1, incarnation=7, window=8, first_chunks=[0], codec="topk", int8_block=64,
        topk_ratio=ratio, memory=bytearray(4 * nbytes + 64), slabs=(0, nbytes),
        outbox=2 * nbytes, residual=bytearray(nbytes),
    )  # fmt: skip
    engine.connected(0)
    slab = np.arange(values, dtype=np.float32).view(np.uint8)
    engine.begin(1, 1, slab.data, slab.data)
    engine.ready(0)
    ((_, payload),) = sent(engine)
    assert len(payload) == 8 * min(max(1, values // 2), max(1, round(ratio * values)))


def test_slots_may_lose_their_gradients_until_their_chunk_is_ready() -> None:
    slab = np.zeros(SLAB_NBYTES, np.uint8)
    absent: set[int] = set()
    engine = make()
    engine.begin(1, 1, slab.data, slab.data, absent)
    engine.ready(2)
    absent |= {1, 2}
    engine.ready(0)
    assert [(push.chunk, push.absent, payload is None) for push, payload in sent(engine)] == [
        (2, b"", False), (1, b"\x01", True), (0, b"", False),
    ]  # fmt: skip


def test_a_payload_is_a_view_of_the_gradient_that_keeps_it_alive() -> None:
    slab = np.arange(SLAB_NBYTES, dtype=np.uint8)
    engine = make()
    engine.begin(1, 1, slab.data, slab.data)
    engine.ready(0)
    views = [payload for _, payload in sent(engine)]
    slab[:] = 5
    engine.forget()
    del slab
    gc.collect()
    assert all(isinstance(view, memoryview) and set(view) == {5} for view in views)


@pytest.mark.parametrize("ends", ["finish", "forget"])
def test_the_slabs_of_a_step_are_let_go_at_its_end(ends: str) -> None:
    slab = np.zeros(SLAB_NBYTES, np.uint8)
    engine = make()
    engine.begin(1, 1, slab.data, slab.data, held=slab.data)
    engine.ready(0)
    list(sent(engine))
    if ends == "finish":
        for chunk in range(CHUNKS):
            header = encode(Params(1, 1, chunk, "f32", 1, 0, 0))
            assert engine.receive(0, [header, bytes(NBYTES)]) is None
    getattr(engine, ends)()
    alive = weakref.ref(slab)
    del slab
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize("role", ["gradients", "parameters", "held"])
def test_a_slab_of_the_wrong_size_or_one_that_cannot_be_written_is_refused(role: str) -> None:
    slab = np.zeros(SLAB_NBYTES, np.uint8)
    engine = make()
    slabs: dict[str, Any] = dict.fromkeys(("gradients", "parameters", "held"), slab.data)
    with pytest.raises(ValueError, match=f"{role}: expected the {SLAB_NBYTES} bytes of a slab"):
        engine.begin(1, 1, **{**slabs, role: slab[:-1].data})
    with pytest.raises(ValueError, match=f"{role}: expected a (writable, )?contiguous buffer"):
        engine.begin(1, 1, **{**slabs, role: slab[::2].data})
    if role == "parameters":
        with pytest.raises(ValueError, match="parameters: expected a writable"):
            engine.begin(1, 1, **{**slabs, role: bytes(SLAB_NBYTES)})
    assert engine.is_done
    with pytest.raises(ValueError, match="expected an open step"):
        engine.ready(0)


def test_no_call_comes_in_between_another() -> None:
    slab = np.zeros(SLAB_NBYTES, np.uint8)
    engine = make()

    class Meddler(set[int]):
        def __contains__(self, slot: object) -> bool:
            engine.forget()
            return True

    engine.begin(1, 1, slab.data, slab.data, Meddler({1}))
    with pytest.raises(RuntimeError, match="one thread at a time"):
        engine.ready(0)
    assert engine.is_done
