"""The engine as Python has it: frames in, answers out, and whose memory lives for how long."""

import gc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import zmq

from leash.ps._core import (
    ChunkSpec,
    Nonfinite,
    RecordKind,
    Rule,
    SgdOptions,
    Shard,
    ShardEngine,
)
from leash.ps.wire.frames import REPLIES, decode, encode
from leash.ps.wire.messages import Error, Message, Ok, Params, Push, PushPull
from leash.ps.wire.segment import SegmentMap

ASP, SSP1, BSP = Rule(), Rule(bound=1), Rule(bound=0, gather="step")

every_policy = pytest.mark.parametrize("rule", [ASP, SSP1, BSP], ids=["asp", "ssp", "bsp"])

# Four chunks, each from the start of a cache line, as a model's are.
SIZES = [("f32", 100), ("f64", 3), ("f32", 17), ("f32", 5)]
STARTS = [0, 448, 512, 640]
SLAB_NBYTES = 704
DTYPES = {"f32": np.float32, "f64": np.float64}


class Memory(bytearray):
    """A bytearray that can be referred to weakly."""


class Served:
    """An engine with workers 1 and 2 at clock 0, and every value 0; the learning rate is 1."""

    def __init__(self, rule: Rule = ASP, first: int = 0, nonfinite: Any = Nonfinite.RAISE) -> None:
        specs = [
            ChunkSpec(values, dtype, "parameter", [values], [slot])
            for slot, (dtype, values) in enumerate(SIZES)
        ]
        self.first = first
        self.shard = Shard(
            specs, SgdOptions(lr=1.0), rule=rule, nonfinite=nonfinite, first_chunk=first
        )
        self.engine = ShardEngine(
            self.shard, slab_nbytes=SLAB_NBYTES, first_chunk=first, starts=STARTS,
            slot_names=["a", "b", "c", "d"], nonfinite=nonfinite,
        )  # fmt: skip
        for index, spec in enumerate(specs, start=first):
            self.shard.init(index, bytes(spec.nbytes))
        for worker in (1, 2):
            self.shard.join(worker, 0)
            self.engine.admit(worker, 70 + worker)
        self.now_s = 0.0

    def send(self, message: Message, *payload: Any, route: bytes = b"route") -> bool:
        self.now_s += 1.0
        return self.engine.receive([route, encode(message), *payload], self.now_s)

    def ask(
        self, worker: int, step: int, chunk: int = 0, *payload: Any, codec: str = "f32", **more: Any
    ) -> bool:
        """Sends a push_pull. `chunk` counts from the shard's first."""
        message = PushPull(worker, 70 + worker, step, self.first + chunk, codec, 1, **more)
        return self.send(message, *payload)

    def answers(self) -> list[tuple[Message, Any]]:
        """What it has answered since the last call, with the payloads."""
        return [(decode(header, REPLIES), payload)
                for _, header, payload, _ in self.engine.take_outgoing()]  # fmt: skip

    def attach(self, worker: int, route: bytes = b"route") -> "Segment":
        segment = Segment()
        self.engine.attach(worker, route, segment.memory)
        return segment


class Segment:
    """A worker's segment, without an outbox."""

    def __init__(self) -> None:
        self.map = SegmentMap(SLAB_NBYTES, False)
        self.memory = Memory(self.map.nbytes)

    def write(self, values: list[float], slab: int = 0) -> None:
        """Fills each of the chunks with one number."""
        for (dtype, n), start, value in zip(SIZES, STARTS, values, strict=True):
            begin = self.map.slab(slab) + start
            data = np.full(n, value, DTYPES[dtype]).tobytes()
            self.memory[begin : begin + len(data)] = data

    def read(self, slab: int = 0) -> list[float]:
        """The number of which each chunk is full."""
        numbers = []
        for (dtype, n), start in zip(SIZES, STARTS, strict=True):
            begin = self.map.slab(slab) + start
            values = np.frombuffer(self.memory, DTYPES[dtype], n, begin)
            assert (values == values[0]).all()
            numbers.append(float(values[0]))
            del values
        return numbers


def f32(value: float, n: int = 5) -> bytes:
    return np.full(n, value, "<f4").tobytes()


def seen(payload: Any) -> list[float]:
    memory = payload.buffer if isinstance(payload, zmq.Frame) else memoryview(payload)
    return np.frombuffer(memory, "<f4").tolist()


# Frames


@pytest.mark.parametrize("make", [bytes, bytearray, memoryview, zmq.Frame])
def test_frames_are_any_bytes(make: Callable[[bytes], Any]) -> None:
    own = Served()
    message = PushPull(1, 71, 1, 3, "f32", 1)
    assert own.engine.receive([make(b"\0way"), make(encode(message)), make(f32(2))], 1.0)
    ((route, header, payload, worker),) = own.engine.take_outgoing()
    assert (route, type(header), worker) == (b"\0way", bytes, 1)
    assert decode(header, REPLIES) == Params(1, 1, 3, "f32", 1, 1, 0)
    assert seen(payload) == [-2.0] * 5


@pytest.mark.parametrize("make", [bytearray, zmq.Frame, lambda data: memoryview(bytearray(data))])
def test_an_answer_carries_the_very_frame_that_came(make: Callable[[bytes], Any]) -> None:
    own = Served()
    frame = make(f32(2))
    own.ask(1, 1, 3, frame)
    ((_, payload),) = own.answers()
    assert payload is frame
    assert seen(frame) == [-2.0] * 5


def test_a_payload_that_is_read_only_is_copied_and_stays_as_it_is() -> None:
    own = Served()
    frame = f32(2)
    own.ask(1, 1, 3, frame)
    ((_, payload),) = own.answers()
    assert isinstance(payload, memoryview)
    assert (seen(payload), seen(frame)) == ([-2.0] * 5, [2.0] * 5)


def test_answers_that_do_not_fit_in_their_frames_have_other_memory() -> None:
    own = Served()
    topk = np.array([4], "<u4").tobytes() + np.array([3], "<f4").tobytes()
    frame = bytearray(topk)
    own.ask(1, 1, 3, frame, codec="topk")
    ((_, payload),) = own.answers()
    assert seen(payload) == [0.0] * 4 + [-3.0]
    assert bytes(frame) == topk
    frame.clear()  # nobody looks at it any more


def test_the_memory_of_an_answer_lives_as_long_as_python_needs_it() -> None:
    own = Served()
    own.ask(1, 1, 3, absent=b"\1")
    own.ask(1, 2, 3, f32(7))
    (_, first), (_, second) = own.answers()
    part = second[4:8]
    del own, second
    gc.collect()
    assert seen(first) == [0.0] * 5
    assert seen(part) == [-7.0]


def test_a_frame_is_let_go_with_its_answer_and_a_segment_with_its_worker() -> None:
    own = Served(BSP)
    segment = own.attach(1)
    own.ask(1, 1, 3)
    frame = Memory(f32(2))
    alive = [weakref.ref(frame), weakref.ref(segment.memory)]
    own.ask(2, 1, 3, frame)
    del frame, segment
    gc.collect()
    assert None not in [memory() for memory in alive]
    assert len(own.answers()) == 2
    gc.collect()
    assert [memory() is None for memory in alive] == [True, False]
    own.engine.expel(1)
    gc.collect()
    assert alive[1]() is None


def test_an_engine_that_ends_lets_go_of_requests_and_of_answers_that_nobody_took() -> None:
    own = Served(BSP)
    frames = [Memory(f32(2)) for _ in range(3)]
    alive = [weakref.ref(frame) for frame in frames]
    segment = own.attach(2)
    alive.append(weakref.ref(segment.memory))
    own.ask(1, 1, 3, frames[0])
    own.ask(2, 1, 3, frames[1])
    own.ask(1, 2, 3, frames[2])
    own.ask(2, 1, 2)
    assert own.engine.parked == 2
    del frames, segment
    gc.collect()
    assert None not in [memory() for memory in alive]
    del own
    gc.collect()
    assert [memory() for memory in alive] == [None] * 4


def test_what_is_no_push_of_a_member_is_handed_up() -> None:
    own = Served()
    good = encode(PushPull(1, 71, 1, 3, "f32", 1))
    for frames in (
        [b"route"],
        [b"route", b""],
        [b"route", good[:-1], f32(1)],
        [b"route", good, f32(1), f32(1)],
        [b"route", encode(Ok(1, 1, 3, True))],
        [b"route", encode(PushPull(1, 70, 1, 3, "f32", 1)), f32(1)],
        [b"route", encode(PushPull(3, 73, 1, 3, "f32", 1)), f32(1)],
        [b"route", encode(PushPull(1, 71, 1, 3, "zip", 1)), f32(1)],
    ):
        assert own.engine.receive(frames, 1.0) is False
    assert (own.answers(), own.shard.version(3), own.engine.take_heard()) == ([], 0, [])


def test_a_payload_that_is_not_contiguous_changes_nothing() -> None:
    own = Served()
    apart = np.zeros((5, 2), np.float32)[:, 0]
    with pytest.raises(ValueError, match="payload: expected a writable, contiguous buffer"):
        own.ask(1, 1, 3, apart)
    assert (own.answers(), own.shard.clock(3, 1)) == ([], 0)


# What is counted


def test_refusals_are_counted_by_codes_that_last() -> None:
    own = Served()
    own.engine.refuse_pushes("not_ready", "waiting for workers [2]")
    own.ask(1, 1, 3, f32(1))
    own.engine.refuse_pushes("stopping", "over")
    own.ask(1, 1, 3, f32(1))
    own.engine.refuse_pushes("", "")
    own.ask(1, 1, 3, f32(1))
    assert own.answers()[:2] == [
        (Error("not_ready", "waiting for workers [2]", 1, 1, 3, 0), None),
        (Error("stopping", "over", 1, 1, 3, 0), None),
    ]
    assert own.engine.take_counts().refusals == {"not_ready": 1}
    with pytest.raises(ValueError, match="code: expected one of a refusal, got 'no such'"):
        own.engine.refuse_pushes("no such", "words")
    assert own.ask(1, 2, 3, f32(1))
    assert len(own.answers()) == 1


def test_counts_and_records_come_out_once() -> None:
    own = Served(nonfinite=Nonfinite.SKIP)
    own.ask(1, 1, 0, f32(1, 100))
    own.ask(1, 1, 0, f32(1, 100))
    own.ask(2, 1, 0, f32(np.nan, 100))
    own.ask(2, 9, 3, f32(1))
    counts, records = own.engine.take_counts(), own.engine.take_records()
    assert (counts.replies, counts.duplicates, counts.nonfinite_chunks) == (2, 1, 1)
    assert (counts.bytes_pushed, counts.bytes_answered) == (1220, 1200)
    assert (counts.staleness_sum, counts.max_staleness, counts.max_lag) == (1, 1, 1)
    assert counts.refusals == {"resync": 1}
    assert [(record.kind, record.worker, record.at_s) for record in records] == [
        (RecordKind.PUSH, 1, 1.0), (RecordKind.REPLY, 1, 1.0), (RecordKind.DUPLICATE, 1, 2.0),
        (RecordKind.PUSH, 2, 3.0), (RecordKind.REPLY, 2, 3.0), (RecordKind.NONFINITE, 2, 3.0),
    ]  # fmt: skip
    assert own.engine.take_heard() == [(1, 2.0), (2, 4.0)]
    again = own.engine.take_counts()
    assert (again.replies, again.refusals, own.engine.take_records()) == (0, {}, [])


def test_what_an_engine_cannot_do_is_an_exception() -> None:
    own = Served()
    with pytest.raises(ValueError, match="memory: expected a segment of this model"):
        own.engine.attach(1, b"route", bytearray(4096))
    with pytest.raises(ValueError, match="memory: expected a writable"):
        own.engine.attach(1, b"route", bytes(SegmentMap(SLAB_NBYTES, False).nbytes))
    with pytest.raises(KeyError):
        own.engine.leave(3, 1.0)
    with pytest.raises(ValueError, match="codec: got 'zip'"):
        own.engine.pull(b"route", 3, None, "zip", 1.0)
    with pytest.raises(ValueError, match="starts: expected a place for each chunk"):
        ShardEngine(own.shard, slab_nbytes=704, first_chunk=0, starts=[0], slot_names=["a"],
                    nonfinite=Nonfinite.RAISE)  # fmt: skip
    assert own.answers() == []


# Runs of chunks


@every_policy
@pytest.mark.parametrize("first", [0, 1000])
def test_a_run_of_chunks_is_pushed_from_the_last_to_the_first(rule: Rule, first: int) -> None:
    own = Served(rule, first)
    segments = [own.attach(worker) for worker in (1, 2)]
    for worker, segment in enumerate(segments, start=1):
        segment.write([1 + worker, 99, 2 + worker, 3 + worker])
        assert own.ask(worker, 1, 3, chunks=2)
        own.ask(worker, 1, 1, codec="f64")
        own.ask(worker, 1, 0)
    replies = [answer for answer, _ in own.answers() if answer.worker == 2]  # type: ignore[attr-defined]
    chunks = [(first + 3, 2), (first + 1, 1), (first, 1)]
    if rule is BSP:  # each chunk lets both go
        chunks = [(first + 3, 1), (first + 2, 1), (first + 1, 1), (first, 1)]
    assert [(answer.chunk, answer.chunks) for answer in replies] == chunks  # type: ignore[attr-defined]
    expected = [-2.5, -99, -3.5, -4.5] if rule is BSP else [-5, -198, -7, -9]
    assert segments[1].read() == expected
    assert [own.shard.clock(first + chunk, 1) for chunk in range(4)] == [1] * 4


def test_a_part_of_the_chunks_is_a_run_too_in_the_slab_that_it_names() -> None:
    own = Served()
    segment = own.attach(1)
    segment.write([1, 1, 1, 1], slab=1)
    own.ask(1, 1, 3, chunks=2, slab=1)
    assert (segment.read(1), segment.read(0)) == ([1, 1, -1, -1], [0] * 4)
    assert [own.shard.version(chunk) for chunk in range(4)] == [0, 0, 1, 1]
    ((answer, payload),) = own.answers()
    assert (answer, payload) == (Params(1, 1, 3, "f32", 1, 1, 0, chunks=2), None)
    assert own.engine.take_counts().bytes_answered == (17 + 5) * 4


def test_each_chunk_of_a_run_has_its_own_outcome() -> None:
    own = Served()
    segment = own.attach(1)
    own.ask(1, 1, 3, bytearray(20))
    segment.write([1, 1, np.inf, 1])
    own.ask(1, 1, 3, chunks=2)
    own.ask(1, 1, 0)
    _, refusal, again, last = (answer for answer, _ in own.answers())
    assert isinstance(refusal, Error)
    assert (refusal.code, refusal.chunk) == ("nonfinite", 2)
    assert (again, last) == (Params(1, 1, 3, "f32", 1, 1, 0), Params(1, 1, 0, "f32", 1, 1, 0))
    counts = own.engine.take_counts()
    assert (counts.duplicates, counts.nonfinite_chunks) == (1, 1)


def test_a_run_that_does_not_fit_changes_nothing() -> None:
    own = Served(first=10)
    segment = own.attach(1)
    segment.write([1, 1, 1, 1])
    own.ask(1, 1, 3, chunks=5)  # below the first
    own.ask(1, 1, 4, chunks=1)
    for count in (0, 15, 2**32 - 1):
        own.ask(1, 1, 3, chunks=count)
    own.ask(1, 1, 3, chunks=4)  # one of f64 among them
    own.ask(1, 1, 3, chunks=2, slab=2)
    refused = [(answer.code, answer.text) for answer, _ in own.answers()]  # type: ignore[attr-defined]
    counts = "push_pull.chunks: expected 1 to 14, got"
    assert refused == [
        ("unknown_chunk", "chunk 9: expected 10 to 13"),
        ("unknown_chunk", "chunk 14: expected 10 to 13"),
        *(("bad_header", f"{counts} {count}") for count in (0, 15, 2**32 - 1)),
        ("bad_header", "chunk 11 holds f64 parameters: expected codec f64, got 'f32'"),
        ("bad_segment", "expected slab 0 or 1, got 2"),
    ]
    assert segment.read() == [1, 1, 1, 1]
    assert [own.shard.clock(chunk, 1) for chunk in range(10, 14)] == [0] * 4


def test_a_push_that_wants_no_parameters_leaves_its_frame_as_it_is() -> None:
    own = Served(BSP)
    frames = [bytearray(f32(2)), bytearray(f32(4))]
    for worker, frame in enumerate(frames, start=1):
        own.send(Push(worker, 70 + worker, 1, 3, "f32", 1), frame)
    assert own.answers() == [(Ok(1, 1, 3, True), None), (Ok(2, 1, 3, True), None)]
    assert frames == [f32(2), f32(4)]
