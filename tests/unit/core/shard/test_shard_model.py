"""Any sequence of messages: the shard against a naive model of all rules."""

import struct
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from numpy.typing import NDArray

from leash.ps._core import ChunkSpec, Nonfinite, Outcome, PushResult, Reply, Rule, SgdOptions, Shard

Array = NDArray[Any]

N = 3
FIRST = 7  # the number of the first chunk
LR = 0.5
SPECS = [("f32", "parameter"), ("f64", "parameter"), ("f32", "buffer")]
DTYPES = {"f32": np.float32, "f64": np.float64}


CODECS = ["raw", "bf16", "f16", "int8", "topk"]


def written(values: Array, codec: str) -> bytes:
    """The values as an answer in this codec."""
    if codec == "raw":
        return values.tobytes()
    if codec == "f16":
        limited = np.where(np.isinf(values), values, np.clip(values, -65504, 65504))
        return limited.astype(np.float16).tobytes()
    bits = values.view(np.uint32).astype(np.uint64)  # bf16: half away is up, and then to even
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16).tobytes()


@dataclass(frozen=True)
class Content:
    """What a drawn push brings."""

    samples: int
    gradient: list[int]
    nonfinite: bool
    wants_payload: bool
    codec: str
    answers_elsewhere: bool

    def payload(self, dtype: Any) -> tuple[bytes, Array, int]:
        """The bytes, what they stand for, and where the first NaN or infinity is, if any."""
        values = np.array(self.gradient, dtype)
        place = N - 1
        if self.codec == "topk":
            values[:-1] = 0
        if self.nonfinite:
            values[-1] = np.inf
        if self.codec == "int8":
            scale = np.inf if self.nonfinite else 1.0
            return struct.pack(f"<If{N}b", 64, scale, *self.gradient), values, 0
        if self.codec == "topk":
            return struct.pack("<If", place, values[-1]), values, place
        if self.codec == "f16":
            return values.astype(np.float16).tobytes(), values, place
        return written(values, self.codec), values, place

    def is_allowed(self, dtype: Any, kind: str) -> bool:
        if self.codec == "raw":
            return True
        in_place = self.wants_payload and not self.answers_elsewhere
        if in_place and self.codec in ("int8", "topk"):
            return False
        return dtype is np.float32 and kind == "parameter"


CONTENTS = st.builds(
    Content,
    samples=st.integers(0, 3),
    gradient=st.lists(st.integers(-100, 100), min_size=N, max_size=N),
    nonfinite=st.sampled_from([False] * 9 + [True]),
    wants_payload=st.sampled_from([True, True, False]),
    codec=st.sampled_from(["raw", *CODECS]),
    answers_elsewhere=st.booleans(),
)


@dataclass
class Place:
    """Memory for an answer, and the codec in which it is to be written."""

    memory: bytearray
    codec: str


@dataclass
class Waiting:
    """A push whose answer waits."""

    worker: int
    step: int
    staleness: int
    dropped: bool
    place: Place | None  # none if only the word is wanted


@dataclass
class Contribution:
    """A push that is part of an incomplete mean."""

    worker: int
    step: int
    samples: int
    gradient: Array
    memory: bytearray


@dataclass
class Sent:
    """A push as the model sees it."""

    worker: int
    step: int
    samples: int
    gradient: Array
    memory: bytearray
    place: Place | None
    now_s: float


@dataclass
class ModelChunk:
    """One chunk, in the plainest way: lists are searched, minimums are computed."""

    dtype: Any
    kind: str
    rule: Rule
    nonfinite: Nonfinite
    values: Array | None = None
    version: int = 0
    clocks: dict[int, int] = field(default_factory=dict)
    pulled: dict[int, int] = field(default_factory=dict)
    staleness: dict[int, int] = field(default_factory=dict)
    dropped: dict[int, bool] = field(default_factory=dict)
    pushed_s: dict[int, list[float]] = field(default_factory=dict)  # when, from the first
    since: dict[int, int] = field(default_factory=dict)  # who came to its clock in which order
    granted: dict[int, int] = field(default_factory=dict)  # the clock up to which it may go on
    in_round: set[int] = field(default_factory=set)
    left_out: dict[int, int] = field(default_factory=dict)  # up to this clock nothing counts
    moments: int = 0
    last_minimum: int = 0
    waiting: list[Waiting] = field(default_factory=list)
    contributions: list[Contribution] = field(default_factory=list)

    def minimum(self) -> int:
        return min(self.clocks.values(), default=self.last_minimum)

    def lag(self, worker: int) -> int:
        return self.clocks[worker] - self.minimum()

    def admits(self, worker: int) -> bool:
        """May this worker go on, of which nothing is known but that it does not compute?"""
        rule = self.rule
        if rule.gather == "round":
            return worker not in self.in_round
        if rule.bound is None:
            return True
        if rule.unit == "clocks":
            granted = rule.bound_max is not None and self.clocks[worker] <= self.granted[worker]
            return self.lag(worker) <= rule.bound or granted
        idle = {waiting.worker for waiting in self.waiting} | {worker}
        computing = [self.pulled[w] for w in self.clocks if w not in idle]
        return self.version - min(computing, default=self.version) <= rule.bound

    def join(self, worker: int, clock: int) -> None:
        self.clocks[worker] = clock
        self.pulled[worker] = self.version
        self.staleness[worker] = 0
        self.dropped[worker] = False
        self.pushed_s[worker] = []
        self.granted[worker] = 0
        self.moments += 1
        self.since[worker] = self.moments

    def leave(self, worker: int) -> list[Waiting]:
        self.last_minimum = self.minimum()
        del self.clocks[worker]
        self.waiting = [w for w in self.waiting if w.worker != worker]
        self.contributions = [c for c in self.contributions if c.worker != worker]
        self.in_round.discard(worker)
        self.left_out.pop(worker, None)
        return self.release()

    def set_rule(self, rule: Rule) -> list[Waiting]:
        before, self.rule = self.rule.gather, rule
        if rule.gather == "each":
            for contribution in self.contributions:
                if contribution.samples:
                    self.update(contribution.gradient)
            self.contributions = []
        if (before, rule.gather) == ("step", "round"):
            self.in_round = {w.worker for w in self.waiting}
        elif (before, rule.gather) != ("round", "round"):
            self.in_round = set()
        self.granted = dict.fromkeys(self.clocks, 0)
        return self.release()

    def give_up_round(self, clocks: dict[int, int]) -> list[Waiting]:
        if self.rule.gather != "round":
            return []
        for waiting in self.waiting:
            is_newest = waiting.step == self.clocks[waiting.worker]
            waiting.dropped |= is_newest and waiting.worker in self.in_round
        self.dropped.update(dict.fromkeys(self.in_round, True))
        self.contributions, self.in_round, self.left_out = [], set(), dict(clocks)
        return self.release()

    def pull(self, worker: int) -> list[Waiting]:
        if worker not in self.clocks:
            return []
        self.pulled[worker] = self.version
        return self.release()

    def push(self, sent: Sent) -> tuple[Outcome, list[Waiting]]:
        if sent.worker not in self.clocks:
            return Outcome.NOT_LIVE, []
        if self.values is None:
            return Outcome.UNINITIALIZED, []
        if sent.step > self.clocks[sent.worker] + 1:
            return Outcome.GAP, []
        if sent.step <= self.clocks[sent.worker]:
            return Outcome.DUPLICATE, self.repeat(sent)
        return self.apply(sent)

    def repeat(self, sent: Sent) -> list[Waiting]:
        worker, step = sent.worker, sent.step
        for waiting in self.waiting:
            if (waiting.worker, waiting.step) == (worker, step):
                waiting.place = sent.place
                return []
        again = Waiting(worker, step, self.staleness[worker], self.dropped[worker], sent.place)
        if step < self.clocks[worker]:
            return [again]
        self.waiting.append(again)
        return self.release()

    def apply(self, sent: Sent) -> tuple[Outcome, list[Waiting]]:
        worker, gather = sent.worker, self.rule.gather
        self.staleness[worker] = self.version - self.pulled[worker]
        dropped = self.staleness[worker] > self.staleness_limit()
        if self.rule.gather == "round":
            dropped |= sent.step <= self.left_out.get(worker, 0)
        finite = self.nonfinite is Nonfinite.APPLY or bool(np.isfinite(sent.gradient).all())
        answered = finite or dropped or self.nonfinite is Nonfinite.SKIP
        self.dropped[worker] = dropped
        self.arrive(sent)
        if gather == "round" and not dropped:
            self.in_round.add(worker)
        if finite and not dropped and gather != "each":
            self.contributions.append(
                Contribution(worker, sent.step, sent.samples, sent.gradient, sent.memory)
            )
        elif finite and not dropped:
            self.update(sent.gradient)
        elif gather == "each" and self.kind == "parameter" and not dropped:
            self.version += 1  # an update of which the only block is left out
        if answered:
            staleness = self.staleness[worker]
            self.waiting.append(Waiting(worker, sent.step, staleness, dropped, sent.place))
        if dropped:
            return Outcome.DROPPED, self.release()
        return Outcome.APPLIED if finite else Outcome.NONFINITE, self.release()

    def staleness_limit(self) -> float:
        if self.rule.gather == "round":
            return 0
        limit = self.rule.staleness_limit
        return np.inf if limit is None else limit

    def arrive(self, sent: Sent) -> None:
        worker, rule = sent.worker, self.rule
        self.clocks[worker] = sent.step
        self.pushed_s[worker].append(sent.now_s)
        self.moments += 1
        self.since[worker] = self.moments
        if rule.bound_max is None or rule.bound is None:
            return
        fastest = self.clocks[worker] == max(self.clocks.values())
        beyond = rule.bound < self.lag(worker) <= rule.bound_max
        if fastest and beyond and self.granted[worker] < sent.step:
            slowest = min(self.clocks, key=lambda w: (self.clocks[w], self.since[w]))
            most = rule.bound_max - self.lag(worker) + 1
            extra = extra_steps(self.pushed_s[worker], self.pushed_s[slowest], most)
            if extra:
                self.granted[worker] = sent.step + extra - 1

    def held(self) -> set[int]:
        """The memory that must not go: by its id."""
        answers = {id(w.place.memory) for w in self.waiting if w.place is not None}
        return answers | {id(c.memory) for c in self.contributions if c.samples}

    def update(self, gradient: Array) -> None:
        assert self.values is not None
        self.version += 1
        if self.kind == "buffer":
            self.values = gradient
        else:
            self.values = self.values - self.dtype(LR) * gradient

    def release(self) -> list[Waiting]:
        if self.rule.gather == "step":
            for step in sorted({c.step for c in self.contributions if c.step <= self.minimum()}):
                self.combine([c for c in self.contributions if c.step == step])
                self.contributions = [c for c in self.contributions if c.step != step]
        if self.rule.gather == "round" and self.in_round:
            awaited = max(1, len(self.clocks) - self.rule.backup_workers)
            if len(self.in_round) >= awaited:
                self.combine(self.contributions)
                self.contributions, self.in_round = [], set()
        admitted = {w.worker for w in self.waiting if self.admits(w.worker)}
        released = [w for w in self.waiting if w.worker in admitted]
        self.waiting = [w for w in self.waiting if w.worker not in admitted]
        return released

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
        wants_payload = to.place is not None
        if wants_payload and to.step == self.clocks[to.worker]:
            self.pulled[to.worker] = self.version
        lag = self.clocks[to.worker] - self.minimum()
        return (to.worker, to.step, self.version, lag, to.staleness, to.dropped, wants_payload)


def extra_steps(fastest_s: list[float], slowest_s: list[float], most: int) -> int:
    """Algorithm 2 of Zhao et al. 2019, as it is written there."""
    if min(len(fastest_s), len(slowest_s)) < 2:
        return 0
    fast, slow = fastest_s[-1] - fastest_s[-2], slowest_s[-1] - slowest_s[-2]
    ready = [fastest_s[-1] + extra * fast for extra in range(most + 1)]
    pushes = [slowest_s[-1] + count * slow for count in range(1, most + 2)]
    waits = [min(abs(push - moment) for push in pushes) for moment in ready]
    return waits.index(min(waits))


RULES = {
    "bsp": Rule(bound=0, gather="step"),
    "ssp": Rule(bound=1),
    "asp": Rule(),
    "dssp": Rule(bound=1, bound_max=4),
    "backup": Rule(gather="round", backup_workers=1),
    "backup, none to spare": Rule(gather="round"),
    "drop": Rule(staleness_limit=2),
    "ssp, dropping": Rule(bound=2, staleness_limit=1),
    "versions": Rule(bound=2, unit="versions"),
}


def is_held(memory: bytearray) -> bool:
    """A bytearray whose bytes somebody looks at cannot grow."""
    try:
        memory.append(0)
    except BufferError:
        return True
    memory.pop()
    return False


class ShardMachine(RuleBasedStateMachine):
    """The shard beside one model for each chunk."""

    first_rule: str

    @initialize(nonfinite=st.sampled_from(list(Nonfinite)), workers=st.integers(0, 3))
    def start(self, nonfinite: Nonfinite, workers: int) -> None:
        self.chunks = [
            ModelChunk(DTYPES[dtype], kind, RULES[self.first_rule], nonfinite)
            for dtype, kind in SPECS
        ]
        self.shard = Shard(
            [ChunkSpec(values=N, dtype=dtype, kind=kind) for dtype, kind in SPECS],
            SgdOptions(lr=LR),
            rule=RULES[self.first_rule],
            nonfinite=nonfinite,
            first_chunk=FIRST,
        )
        self.live: set[int] = set()
        self.now_s = 0
        self.memory: list[bytearray] = []  # of all pushes
        self.minimums = [0] * len(SPECS)
        for chunk in (0, 1):
            self.init(chunk, 1)
        for worker in range(1, workers + 1):
            self.join(worker, 0)

    @rule(chunk=st.sampled_from([0, 1, 2, 2, 2]), value=st.integers(-9, 9))
    def init(self, chunk: int, value: int) -> None:
        model = self.chunks[chunk]
        values = np.full(N, value, model.dtype)
        assert self.shard.init(FIRST + chunk, values) == (model.values is None)
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
            of_chunk = [reply for reply in replies if reply.chunk == FIRST + index]
            self.check_replies(index, of_chunk, chunk.leave(worker))

    @rule(
        chunk=st.integers(0, len(SPECS) - 1),
        worker=st.integers(1, 4),
        ahead=st.sampled_from([1, 1, 1, 1, 1, 0, 0, -1, 2]),
        content=CONTENTS,
        elapsed_s=st.sampled_from([0, 1, 1, 1, 2, 7]),
    )
    def push(self, chunk: int, worker: int, ahead: int, content: Content, elapsed_s: int) -> None:
        self.now_s += elapsed_s
        model = self.chunks[chunk]
        step = max(0, model.clocks.get(worker, 0) + ahead)
        if model.nonfinite is Nonfinite.APPLY and content.codec == "int8":
            content = replace(content, nonfinite=False)  # 0 times infinity would be NaN
        payload, gradient, bad = content.payload(model.dtype)
        memory, elsewhere = bytearray(payload), bytearray(N * model.dtype().nbytes)
        answer = elsewhere if content.answers_elsewhere else None
        self.memory += [memory, elsewhere]

        def push() -> PushResult:
            return self.shard.push(
                FIRST + chunk, worker, step, content.samples, memory, content.wants_payload,
                codec=content.codec, answer=answer, now_s=self.now_s,
            )  # fmt: skip

        if not content.is_allowed(model.dtype, model.kind):
            with pytest.raises(ValueError, match=f"chunk {FIRST + chunk}: codec: expected raw"):
                push()
            return
        place = None
        if content.wants_payload:
            place = Place(memory, content.codec) if answer is None else Place(answer, "raw")
        sent = Sent(worker, step, content.samples, gradient, memory, place, self.now_s)
        outcome, replies = model.push(sent)
        result = push()
        assert result.outcome is outcome
        assert result.clock == model.clocks.get(worker, 0)
        assert result.nonfinite_index == (bad if outcome is Outcome.NONFINITE else None)
        self.check_replies(chunk, result.replies, replies)

    @precondition(lambda self: self.live)
    @rule(chunk=st.sampled_from([0, 1]), data=st.data(), content=CONTENTS)
    def push_of_some(self, chunk: int, data: st.DataObject, content: Content) -> None:
        """The next steps of several workers: what makes answers wait, and means complete."""
        some = data.draw(st.lists(st.sampled_from(sorted(self.live)), min_size=1, max_size=6))
        for worker in some:
            self.push(chunk, worker, 1, content, 1)

    @rule(chunk=st.integers(0, len(SPECS) - 1), worker=st.integers(1, 4), data=st.data())
    def push_run(self, chunk: int, worker: int, data: st.DataObject) -> None:
        """Chunks of one region, from this one down to the first, next to the model's pushes."""
        wants_payload = data.draw(st.booleans())
        steps = {self.chunks[index].clocks.get(worker, 0) + 1 for index in range(chunk + 1)}
        step = data.draw(st.sampled_from(sorted(steps)))
        region = bytearray(chunk * 64 + N * self.chunks[chunk].dtype().nbytes)
        for index in range(chunk + 1):
            values = np.full(N, 10 * index + worker, self.chunks[index].dtype)
            region[64 * index : 64 * index + values.nbytes] = values.tobytes()
        self.memory.append(region)
        for index in range(chunk, -1, -1):
            model = self.chunks[index]
            part = memoryview(region)[64 * index : 64 * index + N * model.dtype().nbytes]
            result = self.shard.push(
                FIRST + index, worker, step, 1, part, wants_payload, now_s=self.now_s
            )
            values = np.full(N, 10 * index + worker, model.dtype)
            place = Place(region, f"raw at {64 * index}") if wants_payload else None
            sent = Sent(worker, step, 1, values, region, place, self.now_s)
            outcome, replies = model.push(sent)
            assert (result.outcome, result.clock) == (outcome, model.clocks.get(worker, 0))
            self.check_replies(index, result.replies, replies)

    @rule(chunk=st.integers(0, len(SPECS) - 1), worker=st.integers(1, 4))
    def pull(self, chunk: int, worker: int) -> None:
        model = self.chunks[chunk]
        if model.values is None:
            return
        out = np.zeros(N, model.dtype)
        version, replies = self.shard.pull(FIRST + chunk, worker, out)
        assert version == model.version
        assert out.tobytes() == model.values.tobytes()
        self.check_replies(chunk, replies, model.pull(worker))

    @rule(chunk=st.integers(0, len(SPECS) - 1), worker=st.integers(1, 4))
    def unpark(self, chunk: int, worker: int) -> None:
        self.shard.unpark(FIRST + chunk, worker)
        model = self.chunks[chunk]
        model.waiting = [w for w in model.waiting if w.worker != worker]

    def check_replies(self, chunk: int, replies: list[Reply], expected: list[Waiting]) -> None:
        model = self.chunks[chunk]
        actual = [
            (r.worker, r.step, r.version, r.lag, r.staleness, r.dropped, r.has_payload)
            for r in replies
        ]
        assert actual == [model.answer(waiting) for waiting in expected]
        for reply, waiting in zip(replies, expected, strict=True):
            assert reply.chunk == FIRST + chunk
            self.check_bound(model.rule, reply, is_latest=reply.step == model.clocks[reply.worker])
            if waiting.place is not None:
                assert model.values is not None
                codec, _, offset = waiting.place.codec.partition(" at ")
                answer = written(model.values, codec)
                at = int(offset or 0)
                assert waiting.place.memory[at : at + len(answer)] == answer

    @staticmethod
    def check_bound(rule: Rule, reply: Reply, *, is_latest: bool) -> None:
        bound = rule.bound if rule.bound_max is None else rule.bound_max
        if is_latest and bound is not None and rule.unit == "clocks":
            assert reply.lag <= bound

    @invariant()
    def memory_is_held_as_long_as_it_is_needed_and_no_longer(self) -> None:
        if not hasattr(self, "shard"):
            return
        held = {id(memory) for memory in self.memory if is_held(memory)}
        assert held == set().union(*(chunk.held() for chunk in self.chunks))
        self.memory = [memory for memory in self.memory if id(memory) in held]

    @invariant()
    def nobody_waits_who_may_go_on(self) -> None:
        """Whatever call made it so has answered."""
        for chunk in getattr(self, "chunks", []):
            assert not [w for w in chunk.waiting if chunk.admits(w.worker)]

    @invariant()
    def minimums_never_decrease(self) -> None:
        if not hasattr(self, "shard"):
            return
        minimums = [self.shard.minimum(FIRST + chunk) for chunk in range(len(SPECS))]
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
                assert self.shard.pull(FIRST + index, None, out) == (chunk.version, [])
                assert out.tobytes() == chunk.values.tobytes()


class ChangingMachine(ShardMachine):
    """The rule is changed at any moment, to any other, and rounds are given up."""

    @rule(name=st.sampled_from(sorted(RULES)))
    def set_rule(self, name: str) -> None:
        replies = self.shard.set_rule(RULES[name])
        for index, chunk in enumerate(self.chunks):
            of_chunk = [reply for reply in replies if reply.chunk == FIRST + index]
            self.check_replies(index, of_chunk, chunk.set_rule(RULES[name]))

    @rule()
    def give_up_rounds(self) -> None:
        clocks = {w: max(chunk.clocks[w] for chunk in self.chunks) for w in self.live}
        replies = self.shard.give_up_rounds()
        for index, chunk in enumerate(self.chunks):
            of_chunk = [reply for reply in replies if reply.chunk == FIRST + index]
            self.check_replies(index, of_chunk, chunk.give_up_round(clocks))


@pytest.mark.parametrize("name", RULES)
def test_any_sequence_of_messages_under_one_rule(name: str) -> None:
    machine = type("Machine", (ShardMachine,), {"first_rule": name})
    run_state_machine_as_test(
        machine, settings=settings(deadline=None, stateful_step_count=60, max_examples=50)
    )


def test_any_sequence_of_messages_and_of_rules() -> None:
    machine = type("Machine", (ChangingMachine,), {"first_rule": "bsp"})
    run_state_machine_as_test(
        machine, settings=settings(deadline=None, stateful_step_count=60, max_examples=200)
    )
