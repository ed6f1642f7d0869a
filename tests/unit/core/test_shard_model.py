"""Any sequence of messages: the shard against a naive model written from DESIGN.md's rules."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from numpy.typing import NDArray

from ps._core import ChunkSpec, Nonfinite, Outcome, Reply, SgdOptions, Shard

Array = NDArray[Any]

N = 3
LR = 0.5
SPECS = [("f32", "parameter"), ("f64", "parameter"), ("f32", "buffer")]
DTYPES = {"f32": np.float32, "f64": np.float64}


@dataclass(frozen=True)
class Content:
    """What a drawn push brings."""

    samples: int
    gradient: list[int]
    nonfinite: bool
    wants_payload: bool

    def payload(self, dtype: Any) -> Array:
        payload = np.array(self.gradient, dtype)
        if self.nonfinite:
            payload[-1] = np.inf
        return payload


CONTENTS = st.builds(
    Content,
    samples=st.integers(0, 3),
    gradient=st.lists(st.integers(-100, 100), min_size=N, max_size=N),
    nonfinite=st.sampled_from([False] * 9 + [True]),
    wants_payload=st.sampled_from([True, True, False]),
)


@dataclass
class Waiting:
    """A push whose answer waits."""

    worker: int
    step: int
    staleness: int
    wants_payload: bool


@dataclass
class Contribution:
    """A push that is part of an incomplete bsp step."""

    worker: int
    step: int
    samples: int
    gradient: Array


@dataclass
class ModelChunk:
    """One chunk, in the plainest way: lists are searched, minimums are computed."""

    dtype: Any
    kind: str
    bound: int | None
    average: bool
    nonfinite: Nonfinite
    values: Array | None = None
    version: int = 0
    clocks: dict[int, int] = field(default_factory=dict)
    pulled: dict[int, int] = field(default_factory=dict)
    staleness: dict[int, int] = field(default_factory=dict)
    last_minimum: int = 0
    waiting: list[Waiting] = field(default_factory=list)
    contributions: list[Contribution] = field(default_factory=list)

    def minimum(self) -> int:
        return min(self.clocks.values(), default=self.last_minimum)

    def admits(self, worker: int) -> bool:
        return self.bound is None or self.clocks[worker] - self.minimum() <= self.bound

    def join(self, worker: int, clock: int) -> None:
        self.clocks[worker] = clock
        self.pulled[worker] = self.version
        self.staleness[worker] = 0

    def leave(self, worker: int) -> list[tuple[Any, ...]]:
        self.last_minimum = self.minimum()
        del self.clocks[worker]
        self.waiting = [w for w in self.waiting if w.worker != worker]
        self.contributions = [c for c in self.contributions if c.worker != worker]
        return self.release()

    def pull(self, worker: int) -> None:
        if worker in self.clocks:
            self.pulled[worker] = self.version

    def push(
        self, worker: int, step: int, samples: int, gradient: Array, wants_payload: bool
    ) -> tuple[Outcome, list[tuple[Any, ...]]]:
        if worker not in self.clocks:
            return Outcome.NOT_LIVE, []
        if self.values is None:
            return Outcome.UNINITIALIZED, []
        if step > self.clocks[worker] + 1:
            return Outcome.GAP, []
        if step <= self.clocks[worker]:
            return Outcome.DUPLICATE, self.repeat(worker, step, wants_payload)
        return self.apply(worker, step, samples, gradient, wants_payload)

    def repeat(self, worker: int, step: int, wants_payload: bool) -> list[tuple[Any, ...]]:
        for waiting in self.waiting:
            if (waiting.worker, waiting.step) == (worker, step):
                waiting.wants_payload = wants_payload
                return []
        again = Waiting(worker, step, self.staleness[worker], wants_payload)
        if step < self.clocks[worker] or self.admits(worker):
            return [self.answer(again)]
        self.waiting.append(again)
        return []

    def apply(
        self, worker: int, step: int, samples: int, gradient: Array, wants_payload: bool
    ) -> tuple[Outcome, list[tuple[Any, ...]]]:
        finite = self.nonfinite is Nonfinite.APPLY or bool(np.isfinite(gradient).all())
        self.staleness[worker] = self.version - self.pulled[worker]
        self.clocks[worker] = step
        if finite and self.average:
            self.contributions.append(Contribution(worker, step, samples, gradient))
        elif finite:
            self.update(gradient)
        if finite or self.nonfinite is Nonfinite.SKIP:
            self.waiting.append(Waiting(worker, step, self.staleness[worker], wants_payload))
        return Outcome.APPLIED if finite else Outcome.NONFINITE, self.release()

    def update(self, gradient: Array) -> None:
        assert self.values is not None
        self.version += 1
        if self.kind == "buffer":
            self.values = gradient
        else:
            self.values = self.values - self.dtype(LR) * gradient

    def release(self) -> list[tuple[Any, ...]]:
        for step in sorted({c.step for c in self.contributions if c.step <= self.minimum()}):
            self.combine([c for c in self.contributions if c.step == step])
            self.contributions = [c for c in self.contributions if c.step != step]
        released = [w for w in self.waiting if self.admits(w.worker)]
        self.waiting = [w for w in self.waiting if not self.admits(w.worker)]
        return [self.answer(w) for w in released]

    def combine(self, contributions: list[Contribution]) -> None:
        weighted = sorted((c for c in contributions if c.samples), key=lambda c: c.worker)
        if not weighted:
            return
        if self.kind == "buffer":
            self.update(weighted[-1].gradient)
            return
        total = sum(c.samples for c in weighted)
        mean = np.zeros(N, self.dtype)
        for c in weighted:
            mean = mean + self.dtype(c.samples / total) * c.gradient
        self.update(mean)

    def answer(self, to: Waiting) -> tuple[Any, ...]:
        if to.wants_payload:
            self.pulled[to.worker] = self.version
        lag = self.clocks[to.worker] - self.minimum()
        return (to.worker, to.step, self.version, lag, to.staleness, to.wants_payload)


class ShardMachine(RuleBasedStateMachine):
    """The shard beside one model for each chunk."""

    bound: int | None
    average = False

    @initialize(nonfinite=st.sampled_from(list(Nonfinite)), workers=st.integers(0, 3))
    def start(self, nonfinite: Nonfinite, workers: int) -> None:
        self.chunks = [
            ModelChunk(DTYPES[dtype], kind, self.bound, self.average, nonfinite)
            for dtype, kind in SPECS
        ]
        self.shard = Shard(
            [ChunkSpec(values=N, dtype=dtype, kind=kind) for dtype, kind in SPECS],
            SgdOptions(lr=LR),
            bound=self.bound,
            average=self.average,
            nonfinite=nonfinite,
        )
        self.live: set[int] = set()
        self.payloads: dict[tuple[int, int, int], Array] = {}  # where each answer is to go
        self.minimums = [0] * len(SPECS)
        for chunk in (0, 1):
            self.init(chunk, 1)
        for worker in range(1, workers + 1):
            self.join(worker, 0)

    @rule(chunk=st.sampled_from([0, 1, 2, 2, 2]), value=st.integers(-9, 9))
    def init(self, chunk: int, value: int) -> None:
        model = self.chunks[chunk]
        values = np.full(N, value, model.dtype)
        assert self.shard.init(chunk, values) == (model.values is None)
        if model.values is None:
            model.values = values

    @rule(worker=st.integers(1, 4), ahead=st.integers(-1, 2))
    def join(self, worker: int, ahead: int) -> None:
        first_step = 1 + max(chunk.minimum() for chunk in self.chunks)
        assert self.shard.first_step() == first_step
        clock = max(0, first_step - 1 + ahead)
        if worker in self.live or clock < first_step - 1:
            with pytest.raises(ValueError):
                self.shard.join(worker, clock)
            return
        self.shard.join(worker, clock)
        self.live.add(worker)
        for chunk in self.chunks:
            chunk.join(worker, clock)

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(sorted(self.live)))
        self.live.remove(worker)
        replies = self.shard.leave(worker)
        for index, chunk in enumerate(self.chunks):
            of_chunk = [reply for reply in replies if reply.chunk == index]
            self.check_replies(index, of_chunk, chunk.leave(worker))

    @rule(
        chunk=st.integers(0, len(SPECS) - 1),
        worker=st.integers(1, 4),
        ahead=st.sampled_from([1, 1, 1, 1, 1, 0, 0, -1, 2]),
        content=CONTENTS,
    )
    def push(self, chunk: int, worker: int, ahead: int, content: Content) -> None:
        model = self.chunks[chunk]
        step = max(0, model.clocks.get(worker, 0) + ahead)
        payload = content.payload(model.dtype)
        outcome, replies = model.push(
            worker, step, content.samples, payload.copy(), content.wants_payload
        )
        self.payloads[chunk, worker, step] = payload
        result = self.shard.push(
            chunk, worker, step, content.samples, payload, content.wants_payload
        )
        assert result.outcome is outcome
        assert result.clock == model.clocks.get(worker, 0)
        assert result.nonfinite_index == (N - 1 if outcome is Outcome.NONFINITE else None)
        self.check_replies(chunk, result.replies, replies)

    @rule(chunk=st.integers(0, len(SPECS) - 1), worker=st.integers(1, 4))
    def pull(self, chunk: int, worker: int) -> None:
        model = self.chunks[chunk]
        if model.values is None:
            return
        out = np.zeros(N, model.dtype)
        assert self.shard.pull(chunk, worker, out) == model.version
        assert out.tobytes() == model.values.tobytes()
        model.pull(worker)

    @rule(chunk=st.integers(0, len(SPECS) - 1), worker=st.integers(1, 4))
    def unpark(self, chunk: int, worker: int) -> None:
        self.shard.unpark(chunk, worker)
        model = self.chunks[chunk]
        model.waiting = [w for w in model.waiting if w.worker != worker]

    def check_replies(
        self, chunk: int, replies: list[Reply], expected: list[tuple[Any, ...]]
    ) -> None:
        model = self.chunks[chunk]
        actual = [(r.worker, r.step, r.version, r.lag, r.staleness, r.has_payload) for r in replies]
        assert actual == expected
        for reply in replies:
            is_latest = reply.step == model.clocks[reply.worker]
            assert not is_latest or self.bound is None or reply.lag <= self.bound
            payload = self.payloads.pop((chunk, reply.worker, reply.step))
            if reply.has_payload:
                assert model.values is not None
                assert payload.tobytes() == model.values.tobytes()

    @invariant()
    def minimums_never_decrease(self) -> None:
        if not hasattr(self, "shard"):
            return
        minimums = [self.shard.minimum(chunk) for chunk in range(len(SPECS))]
        assert minimums == [chunk.minimum() for chunk in self.chunks]
        assert all(now >= before for now, before in zip(minimums, self.minimums, strict=True))
        self.minimums = minimums

    @invariant()
    def values_and_members_agree(self) -> None:
        if not hasattr(self, "shard"):
            return
        assert self.shard.workers() == sorted(self.live)
        assert self.shard.parked() == sum(len(chunk.waiting) for chunk in self.chunks)
        assert self.shard.stats().updates == sum(chunk.version for chunk in self.chunks)
        for index, chunk in enumerate(self.chunks):
            if chunk.values is not None:
                out = np.zeros(N, chunk.dtype)
                assert self.shard.pull(index, None, out) == chunk.version
                assert out.tobytes() == chunk.values.tobytes()


class BspMachine(ShardMachine):
    bound = 0
    average = True


class SspMachine(ShardMachine):
    bound = 1


class AspMachine(ShardMachine):
    bound = None


TestBsp = BspMachine.TestCase
TestSsp = SspMachine.TestCase
TestAsp = AspMachine.TestCase
for case in (TestBsp, TestSsp, TestAsp):
    case.settings = settings(deadline=None, stateful_step_count=60)
