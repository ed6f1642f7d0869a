"""Any sequence of messages: the engine against a naive model of what each worker must be told."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from leash.ps._core import ChunkSpec, Nonfinite, Rule, SgdOptions, Shard, ShardEngine
from leash.ps.wire.frames import REPLIES, decode, encode
from leash.ps.wire.messages import Error, Ok, Params, Push, PushPull
from leash.ps.wire.segment import SegmentMap

N = 2  # values of a chunk, all of them the same
NBYTES = 4 * N
HEADER = 10  # so much of a message is its route and header; a number with it comes after that
STRIDE = 64  # from chunk to chunk, in a slab
RULES = {"asp": Rule(), "ssp": Rule(bound=1), "bsp": Rule(bound=0, gather="step")}
WORKERS = (1, 2, 3)
WAYS = ("payload", "read-only payload", "segment", "nothing", "push", "push of nothing")


def gradient(worker: int, step: int, chunk: int) -> int:
    """What a worker pushes, also if it pushes it again."""
    return 6 * ((7 * worker + 3 * step + chunk) % 5 - 2)


@dataclass
class Request:
    """One that has no answer yet, or gets it now."""

    worker: int
    step: int
    route: bytes
    way: str
    has: int
    in_segment: bool
    staleness: int = 0
    again: bool = False

    @property
    def wants_parameters(self) -> bool:
        return not self.way.startswith("push")


@dataclass
class ModelChunk:
    """A chunk in the plainest way. All that it tells goes to `told`, as (request, what)."""

    index: int
    value: float = 0.0
    version: int = 0
    last_minimum: int = 0
    clocks: dict[int, int] = field(default_factory=dict)
    pulled: dict[int, int] = field(default_factory=dict)
    staleness: dict[int, int] = field(default_factory=dict)
    waiting: list[Request] = field(default_factory=list)
    gathered: list[tuple[int, int, int | None]] = field(default_factory=list)

    def minimum(self) -> int:
        return min(self.clocks.values(), default=self.last_minimum)

    def settle(self, policy: str) -> list[Request]:
        """Applies what may be applied, and takes out the requests that may be answered."""
        if policy == "bsp":
            for step in sorted({step for _, step, _ in self.gathered if step <= self.minimum()}):
                parts = [g for _, at, g in self.gathered if at == step]
                there = [g for g in parts if g is not None]
                if there:
                    self.update(sum(there) / len(parts))
            self.gathered = [g for g in self.gathered if g[1] > self.minimum()]
        else:
            for _, _, g in self.gathered:
                if g is not None:
                    self.update(g)
            self.gathered = []
        bound = {"asp": np.inf, "ssp": 1, "bsp": 0}[policy]
        free = [r for r in self.waiting if self.clocks[r.worker] - self.minimum() <= bound]
        self.waiting = [r for r in self.waiting if r not in free]
        return free

    def update(self, g: float) -> None:
        self.value -= g
        self.version += 1


class EngineMachine(RuleBasedStateMachine):
    """The engine beside one model for each chunk."""

    first_policy: str
    chunk_count: int

    @initialize()
    def start(self) -> None:
        self.policy = self.first_policy
        self.chunks = [ModelChunk(index) for index in range(self.chunk_count)]
        specs = [ChunkSpec(N, "f32", "parameter", [N], [i]) for i in range(self.chunk_count)]
        self.shard = Shard(
            specs, SgdOptions(lr=1.0), rule=RULES[self.policy], nonfinite=Nonfinite.RAISE
        )
        self.slab_nbytes = STRIDE * self.chunk_count
        self.map = SegmentMap(self.slab_nbytes, False)
        self.engine = ShardEngine(
            self.shard, slab_nbytes=self.slab_nbytes, first_chunk=0,
            starts=[STRIDE * i for i in range(self.chunk_count)],
            slot_names=[str(i) for i in range(self.chunk_count)], nonfinite=Nonfinite.RAISE,
        )  # fmt: skip
        for index in range(self.chunk_count):
            self.shard.init(index, bytes(NBYTES))
        self.now_s = 0.0
        self.routes = {worker: b"%d.0" % worker for worker in WORKERS}
        self.connections = Counter[int]()
        self.attached: dict[int, bytes] = {}  # worker ▸ route
        self.segments = {worker: bytearray(self.map.nbytes) for worker in WORKERS}
        self.live: set[int] = set()
        self.expected: list[tuple[Any, ...]] = []  # messages that are due now
        self.joinable: list[list[Any]] = []  # those about segments, which go last
        self.counted = Counter[str]()
        self.refused = Counter[str]()
        self.most = Counter[str]()
        for worker in (1, 2):
            self.join(worker, True)

    # Who takes part

    @rule(worker=st.sampled_from(WORKERS), attaches=st.sampled_from([True, True, False]))
    def join(self, worker: int, attaches: bool) -> None:
        if worker in self.live:
            return
        clock = max(chunk.minimum() for chunk in self.chunks)
        assert self.shard.first_step() == clock + 1
        self.shard.join(worker, clock)
        self.engine.admit(worker, 70 + worker)
        self.live.add(worker)
        for chunk in self.chunks:
            chunk.clocks[worker], chunk.pulled[worker] = clock, chunk.version
            chunk.staleness[worker] = 0
        if attaches:
            self.attach(worker)

    @rule(worker=st.sampled_from(WORKERS))
    def leave(self, worker: int) -> None:
        if worker not in self.live:
            return
        self.live.discard(worker)
        self.attached.pop(worker, None)
        self.engine.expel(worker)
        self.engine.leave(worker, self.now_s)
        for chunk in self.chunks:
            chunk.last_minimum = chunk.minimum()
            del chunk.clocks[worker]
            chunk.waiting = [r for r in chunk.waiting if r.worker != worker]
            chunk.gathered = [g for g in chunk.gathered if g[0] != worker]
            self.answer(chunk, chunk.settle(self.policy))
        self.compare()

    @rule(policy=st.sampled_from(sorted(RULES)))
    def set_rule(self, policy: str) -> None:
        self.policy = policy
        self.engine.set_rule(RULES[policy], self.now_s)
        for chunk in self.chunks:
            self.answer(chunk, chunk.settle(policy))
        self.compare()

    @rule(worker=st.sampled_from(WORKERS))
    def attach(self, worker: int) -> None:
        if worker in self.live:
            self.engine.attach(worker, self.routes[worker], self.segments[worker])
            self.attached[worker] = self.routes[worker]

    @rule(worker=st.sampled_from(WORKERS))
    def connect_again(self, worker: int) -> None:
        self.connections[worker] += 1
        self.routes[worker] = b"%d.%d" % (worker, self.connections[worker])

    # Messages

    @rule(
        worker=st.sampled_from([1, 1, 1, *WORKERS]),
        place=st.integers(0, 1),
        ahead=st.sampled_from([1, 1, 1, 1, 0, -1, 2]),
        way=st.sampled_from(["payload", "segment", *WAYS]),
        has=st.sampled_from([0, 0, 1, 2]),
    )
    def push(self, worker: int, place: int, ahead: int, way: str, has: int) -> None:
        chunk = self.chunks[place % self.chunk_count]
        step = chunk.clocks.get(worker, 0) + ahead
        if ahead == 2 and way == "segment":
            way = "payload"  # the gradient of two steps before may still wait in that slab
        if step > 0:
            self.send(worker, step, [chunk], way, chunk.version + has if has else 0)
            self.compare()

    @rule(worker=st.sampled_from(WORKERS), ahead=st.sampled_from([1, 1, 1, 0]))
    def push_all(self, worker: int, ahead: int) -> None:
        """Pushes all chunks at once."""
        step = min(chunk.clocks.get(worker, 0) for chunk in self.chunks) + ahead
        # A request two steps back would have its answer written where a gradient waits.
        if step > 0 and all(chunk.clocks.get(worker, 0) - step <= 1 for chunk in self.chunks):
            self.send(worker, step, self.chunks[::-1], "segment", 0)
            self.compare()

    def send(self, worker: int, step: int, chunks: list[ModelChunk], way: str, has: int) -> None:
        route, last, slab = self.routes[worker], chunks[0].index, step % 2
        nothing = way in ("nothing", "push of nothing")
        absent = b"\1" if nothing else b""
        in_segment = way == "segment" or (way == "nothing" and worker in self.attached)
        if way == "segment":
            for chunk in chunks:
                values = np.full(N, gradient(worker, step, chunk.index), "<f4")
                self.segment_of(worker, slab, chunk.index)[:] = values
        message: PushPull | Push
        if way.startswith("push"):
            message = Push(worker, 70 + worker, step, last, "f32", 1, absent)
        else:
            message = PushPull(
                worker, 70 + worker, step, last, "f32", 1, len(chunks),
                slab if in_segment else 0, 0, absent, has,
            )  # fmt: skip
        frames: list[Any] = [route, encode(message)]
        if not nothing and way != "segment":
            payload = np.full(N, gradient(worker, step, last), "<f4").tobytes()
            frames.append(payload if way == "read-only payload" else bytearray(payload))
        self.now_s += 1.0
        taken = self.engine.receive(frames, self.now_s)
        assert taken == (worker in self.live)
        if not taken:
            return
        if in_segment and self.attached.get(worker, route) != route:
            self.refuse(route, "superseded", worker, step, last)
        elif in_segment and worker not in self.attached:
            self.refuse(route, "bad_segment", worker, step, last)
        else:
            for chunk in chunks:
                self.take(chunk, Request(worker, step, route, way, has, in_segment))

    def take(self, chunk: ModelChunk, request: Request) -> None:
        worker, step, route = request.worker, request.step, request.route
        clock = chunk.clocks[worker]
        waiting = [r for r in chunk.waiting if r.worker == worker]
        if waiting and step == waiting[0].step + 1:
            self.refuse(route, "too_many", worker, step, chunk.index)
            return
        there = "nothing" not in request.way
        self.counted["bytes_pushed"] += NBYTES if there else 0
        if step > clock + 1:
            self.refuse(route, "resync", worker, step, chunk.index, clock)
            return
        request.again = step <= clock
        self.counted["duplicates"] += request.again
        if step <= clock - 1:
            request.staleness = chunk.staleness[worker]
            self.answer(chunk, [request])
        elif request.again and waiting:
            if waiting[0].route != route:
                self.refuse(waiting[0].route, "superseded", worker, step, chunk.index)
            request.staleness, request.again = waiting[0].staleness, waiting[0].again
            chunk.waiting[chunk.waiting.index(waiting[0])] = request
        else:
            if not request.again:
                chunk.clocks[worker] = step
                chunk.staleness[worker] = chunk.version - chunk.pulled[worker]
                g = gradient(worker, step, chunk.index) if there else None
                chunk.gathered.append((worker, step, g))
            request.staleness = chunk.staleness[worker]
            chunk.waiting.append(request)
            self.answer(chunk, chunk.settle(self.policy))

    # What is due

    def refuse(
        self, route: bytes, code: str, worker: int, step: int, chunk: int, clock: int = 0
    ) -> None:
        self.expected.append((route, code, worker, step, chunk, clock))
        self.refused[code] += code != "superseded"

    def answer(self, chunk: ModelChunk, requests: list[Request]) -> None:
        for r in requests:
            lag = chunk.clocks[r.worker] - chunk.minimum()
            if r.wants_parameters and r.step == chunk.clocks[r.worker]:
                chunk.pulled[r.worker] = chunk.version
            if not r.again:
                self.counted["replies"] += 1
                self.counted["staleness_sum"] += r.staleness
                self.most["max_lag"] = max(self.most["max_lag"], lag)
                self.most["max_staleness"] = max(self.most["max_staleness"], r.staleness)
            if not r.wants_parameters:
                self.expected.append((r.route, "ok", r.worker, r.step, chunk.index))
                continue
            numbers = [chunk.version, lag, r.staleness]
            unchanged = r.has == chunk.version + 1
            key = [r.route, "params", r.worker, r.step, chunk.index]
            if not unchanged:
                self.counted["bytes_answered"] += NBYTES
            if unchanged or not r.in_segment:
                value = () if unchanged else (chunk.value,)
                self.expected.append((*key, 1, *numbers, unchanged, *value))
                continue
            values = self.segment_of(r.worker, r.step % 2, chunk.index)
            np.testing.assert_allclose(values, chunk.value, rtol=1e-4, atol=1e-2)
            self.join_answers(key, numbers)

    def join_answers(self, key: list[Any], numbers: list[int]) -> None:
        if self.joinable:
            before, count, old = self.joinable[-1]
            if before[:4] == key[:4] and key[4] == before[4] - count:
                least, most = [min(old[0], numbers[0])], map(max, old[1:], numbers[1:])
                self.joinable[-1] = [before, count + 1, [*least, *most]]
                return
        self.joinable.append([key, 1, numbers])

    def segment_of(self, worker: int, slab: int, chunk: int) -> Any:
        at = self.map.slab(slab) + STRIDE * chunk
        return np.frombuffer(self.segments[worker], "<f4", N, at)

    def compare(self) -> None:
        due = [*self.expected, *((*k, n, *numbers, False) for k, n, numbers in self.joinable)]
        self.expected, self.joinable = [], []
        sent = [self.told(*message) for message in self.engine.take_outgoing()]
        assert [message[:HEADER] for message in sent] == [message[:HEADER] for message in due]
        values = [[message[HEADER:] for message in messages] for messages in (sent, due)]
        assert [len(value) for value in values[0]] == [len(value) for value in values[1]]
        got, wanted = (np.array([v for (v,) in filter(None, side)]) for side in values)
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-2)

    @staticmethod
    def told(route: bytes, header: bytes, payload: Any, worker: int) -> tuple[Any, ...]:
        message = decode(header, REPLIES)
        if isinstance(message, Error):
            assert (payload, worker) == (None, 0)
            return (route, message.code, message.worker, message.step, message.chunk, message.clock)
        assert isinstance(message, Ok | Params)
        assert worker == message.worker
        key = (route, message.verb, message.worker, message.step, message.chunk)
        if isinstance(message, Ok):
            return key
        numbers = (message.chunks, message.version, message.lag, message.staleness)
        if payload is None:
            return (*key, *numbers, message.unchanged)
        values = np.frombuffer(payload, "<f4")
        assert values.shape == (N,)
        assert values[0] == values[1]
        return (*key, *numbers, message.unchanged, float(values[0]))

    @invariant()
    def agrees(self) -> None:
        assert self.engine.parked == sum(len(chunk.waiting) for chunk in self.chunks)
        assert self.engine.parked == self.shard.parked()
        counts = self.engine.take_counts()
        for name, value in self.counted.items():
            assert getattr(counts, name) == value, name
        assert counts.refusals == {code: n for code, n in self.refused.items() if n}
        for name, value in self.most.items():
            assert getattr(counts, name) == value, name
        for counter in (self.counted, self.refused, self.most):
            counter.clear()
        out = bytearray(NBYTES)
        for chunk in self.chunks:
            assert self.shard.pull(chunk.index, None, out)[0] == chunk.version
            values = np.frombuffer(out, "<f4")
            np.testing.assert_allclose(values, chunk.value, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("chunks", [1, 2])
@pytest.mark.parametrize("policy", sorted(RULES))
def test_the_engine_tells_what_a_naive_model_tells(policy: str, chunks: int) -> None:
    class Machine(EngineMachine):
        first_policy = policy
        chunk_count = chunks

    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Machine, settings=settings(max_examples=60, stateful_step_count=40, deadline=None)
    )
