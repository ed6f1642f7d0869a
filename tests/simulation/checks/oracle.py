"""What a shard has to do with each message, written as plainly as docs/wire-format.md says it.

It shares no code with the shards, and is slow where they are fast: for every chunk it keeps a dict
of clocks and a list of requests, and looks at all of them after every message. What the shard then
sends has to be what this model expects: no answer too early or too late, none twice, none missing,
with these very parameters.
"""

from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np

from leash.ps.policy import ASP, BACKUP, BSP, DROP, DSSP, VERSIONS, Rule
from leash.ps.wire.layout import Chunk
from simulation.checks.toy import DTYPES, Values

HALVES: Final = ("f16", "bf16")
TOLERANCE: Final = 1 / 256  # of means whose weights are no exact numbers


@dataclass(slots=True)
class Request:
    """A push that was taken, and whose gradient or answer still waits."""

    worker: int
    step: int
    samples: int
    staleness: int
    gradient: Values | None  # while it waits for a mean; None also where there is none
    contributes: bool = False  # to a mean, for which it waits
    awaits: bool = True  # an answer
    in_round: bool = False  # of `backup`: it waits for the round that is open


class Released(NamedTuple):
    """An answer that a shard sent, for one chunk."""

    worker: int
    step: int
    version: int
    lag: int
    staleness: int
    joined: bool  # with answers of neighbours: the least version, the largest lag and staleness
    raw: bytes | None  # the parameters in this codec; None: the worker has them already
    codec: str


class Wrong(Exception):  # noqa: N818
    """What a shard did is not what it has to do."""


@dataclass(slots=True)
class NaiveChunk:
    """One chunk: its parameters, whose steps it has, who waits."""

    chunk: Chunk
    rule: Rule
    values: Values | None = None  # None: no first values have come
    version: int = 0
    floor: int = 0  # the smallest clock never decreases, whoever joins or leaves
    clocks: dict[int, int] = field(default_factory=dict)
    pulled: dict[int, int] = field(default_factory=dict)  # the version that each worker has
    computing: dict[int, int] = field(default_factory=dict)  # likewise, of those who do not wait
    staleness: dict[int, int] = field(default_factory=dict)  # of each worker's newest push
    left_out: dict[int, int] = field(default_factory=dict)  # no gradient counts up to this clock
    requests: list[Request] = field(default_factory=list)  # in the order in which they came
    at_once: list[Request] = field(default_factory=list)  # answers to steps before the newest
    generation: int = 0  # of the server whose values these are; 0: there are none
    is_healed: bool = False  # a worker had newer ones than the server, which was started again
    healed_step: int = 0  # the step of a worker whose answer they are, if that was asked for

    # What happens.

    def join(self, worker: int, clock: int) -> None:
        if worker in self.clocks:
            raise Wrong(f"{self._name}: worker {worker} joins, who takes part already")
        if clock < self.minimum:
            raise Wrong(f"{self._name}: worker {worker} begins at step {clock + 1}, which is not "
                        f"new: {self._state}")  # fmt: skip
        self.clocks[worker] = clock
        self.pulled[worker] = self.computing[worker] = self.version
        self.staleness[worker] = 0

    def leave(self, worker: int) -> None:
        for kept in (self.clocks, self.pulled, self.computing, self.staleness, self.left_out):
            kept.pop(worker, None)
        self.requests = [r for r in self.requests if r.worker != worker]

    def pull(self, worker: int) -> None:
        if worker in self.clocks:
            self.pulled[worker] = self.version
            if worker in self.computing:
                self.computing[worker] = self.version

    def set_rule(self, rule: Rule) -> None:
        before, self.rule = self.rule, rule
        if not rule.policy.average:
            for request in self.requests:
                if request.contributes:
                    self._apply(request.gradient)
                    request.gradient, request.contributes = None, False
        for request in self.requests:
            into_round = before.policy in (BSP, BACKUP) and rule.policy is BACKUP
            request.in_round = into_round and (request.awaits or request.in_round)
        self.computing = {w: self.pulled[w] for w in self.clocks if not self._waiting(w)}

    def give_up_rounds(self, clocks: dict[int, int]) -> None:
        """Has nobody wait for the round that is open, and each worker's step count no more.

        Args:
            clocks: worker ▸ the step that it is in.
        """
        for request in self.requests:
            request.gradient, request.contributes, request.in_round = None, False, False
        self.left_out = {w: clocks[w] for w in self.clocks}

    def why_refused(self, worker: int, step: int) -> str:
        """Says why a push of a live worker is refused; empty if it is not."""
        if self.values is None:
            return "not_ready"
        if worker not in self.clocks:  # nobody waits for it: it rests
            return "evicted"
        waiting = self._waiting(worker)
        if waiting is not None and step == waiting.step + 1:
            return "too_many"
        return "resync" if step > self.clocks[worker] + 1 else ""

    def push(self, worker: int, step: int, samples: int, gradient: Values | None) -> None:
        """Takes the next push of a worker. REQUIRES: it is not refused, and new.

        Args:
            worker: whose.
            step: its number.
            samples: how many are behind it.
            gradient: None if its slots have none.
        """
        policy = self.rule.policy
        self.clocks[worker] = step
        self.computing.pop(worker, None)
        staleness = self.version - self.pulled[worker]
        self.staleness[worker] = staleness
        request = Request(worker, step, samples, staleness, None)
        if policy is BACKUP:
            if staleness == 0 and step > self.left_out.get(worker, 0):
                request.gradient, request.in_round = gradient, True
                request.contributes = True
        elif policy is BSP:
            request.gradient, request.contributes = gradient, True
        elif policy is not DROP or staleness <= (self.rule.staleness_limit or 0):
            self._apply(gradient)
        self.requests.append(request)

    def push_again(self, worker: int, step: int) -> bool:
        """Takes a copy of an earlier push; tells if it takes the place of one that waits."""
        for request in self.requests:
            if (request.worker, request.step) == (worker, step) and request.awaits:
                return True
        again = Request(worker, step, 0, self.staleness[worker], None)
        if step == self.clocks[worker]:
            self.computing.pop(worker, None)
            again.in_round = any(r.in_round for r in self.requests if r.worker == worker)
            self.requests.append(again)
        else:
            self.at_once.append(again)
        return False

    def stop(self) -> None:
        """Has everybody answered that the run is stopping; means that are not complete wait on."""
        for request in self.requests:
            request.awaits = False

    def copied(self) -> "NaiveChunk":
        """This chunk as it is now, without those who take part."""
        return NaiveChunk(
            self.chunk, self.rule, self.values, self.version, generation=self.generation,
            is_rounded=self.is_rounded,
        )  # fmt: skip

    def heal(self, generation: int, version: int, step: int, values: Values) -> bool:
        """Takes what a worker offers if it is newer; tells whether it is."""
        if (generation, version) <= (self.generation, self.version):
            return False
        self.generation, self.version, self.healed_step = generation, version, step
        self.values, self._raw, self.is_rounded, self.is_healed = values, None, True, True
        return True

    def skip_healed(self) -> None:
        """Counts the step as taken whose gradients are in the values, if it is the first one."""
        for worker, clock in self.clocks.items():
            self.clocks[worker] = clock + (self.healed_step == clock + 1)

    # What follows.

    def settle(self, released: list[Released]) -> None:
        """Checks the answers that a shard sent after something happened.

        Raises:
            Wrong: they are not what they should be.
        """
        minimum = self.minimum
        if self.rule.policy.average:
            self._apply_means(minimum)
        due = self._due(minimum) if self.requests else []
        if self.at_once:
            due += self.at_once
            self.at_once = []
        if not due and not released:
            return
        left = {(r.worker, r.step): r for r in released}
        if len(left) != len(released):
            raise Wrong(f"{self._name}: answered twice: {self._listed(released)}")
        if self.rule.policy is DSSP:
            due += self._granted(minimum, left)
        for request in due:
            answer = left.pop((request.worker, request.step), None)
            if answer is None:
                raise Wrong(
                    f"{self._name}: worker {request.worker} has no answer to step {request.step}, "
                    f"though {self._state}"
                )
            self._check(request, answer, minimum)
        if left:
            raise Wrong(f"{self._name}: answered too early: {self._listed([*left.values()])}, "
                        f"while {self._state}")  # fmt: skip
        for request in due:
            self._go_on(request)
        if due:
            self.requests = [r for r in self.requests if r.awaits or r.contributes]

    def check(self, raw: bytes, codec: str) -> None:
        """Checks parameters that were answered in this codec."""
        assert self.values is not None
        if codec == self.chunk.dtype:
            if self._raw is None:
                self._raw = self.values.astype(DTYPES[codec]).tobytes()
            if raw == self._raw:
                return
        self.check_values(naive_values(codec, raw, self.chunk), is_half=codec in HALVES)

    def check_values(self, values: Values, *, is_half: bool = False) -> None:
        """Checks numbers that should be the parameters."""
        assert self.values is not None
        room = TOLERANCE + np.abs(self.values) / 128 * is_half
        room *= is_half or self.is_rounded
        if (np.abs(values - self.values) > room).any():
            raise Wrong(f"{self._name}: answered\n  {values.tolist()}\nshould be\n"
                        f"  {self.values.tolist()}")  # fmt: skip

    _raw: bytes | None = None  # the values as a worker is answered them, once that was asked
    is_rounded: bool = False  # a mean was taken, so that values are no whole numbers any more

    @property
    def minimum(self) -> int:
        if self.clocks:
            least = min(self.clocks.values())
            self.floor = max(self.floor, least)
        return self.floor

    def _waiting(self, worker: int) -> Request | None:
        for request in self.requests:
            if request.worker == worker and request.awaits:
                return request
        return None

    def _apply(self, gradient: Values | None) -> None:
        if gradient is None:
            return
        assert self.values is not None
        self._raw = None
        self.version += 1
        self.values = gradient if self.chunk.kind == "buffer" else self.values - gradient

    def _apply_means(self, minimum: int) -> None:
        policy = self.rule.policy
        if policy is BSP:
            waiting = [r for r in self.requests if r.contributes and r.step <= minimum]
            for step in sorted({r.step for r in waiting}):
                self._apply_mean([r for r in waiting if r.step == step])
        elif policy is BACKUP:
            sent = {r.worker for r in self.requests if r.in_round}
            if sent and len(sent) >= max(1, len(self.clocks) - self.rule.backup_workers):
                self._apply_mean([r for r in self.requests if r.contributes])
                for request in self.requests:
                    request.in_round = False

    def _apply_mean(self, requests: list[Request]) -> None:
        requests.sort(key=lambda r: (r.worker, r.step))
        gradients = [r.gradient for r in requests if r.gradient is not None]
        if gradients:
            assert self.values is not None
            self.is_rounded = True
            self._raw = None
            self.version += 1
            if self.chunk.kind == "buffer":
                self.values = gradients[-1]
            else:
                samples = sum(r.samples for r in requests)
                total: Any = sum(
                    r.samples * r.gradient.astype("<f8")
                    for r in requests if r.gradient is not None
                )  # fmt: skip
                self.values = self.values.astype("<f8") - total / samples
        for request in requests:
            request.gradient, request.contributes = None, False

    def _due(self, minimum: int) -> list[Request]:
        """The requests whose answers go out now."""
        rule, waiting = self.rule, [r for r in self.requests if r.awaits]
        if not waiting:
            return []
        if rule.policy is ASP or rule.policy is DROP:
            return waiting
        if rule.policy is BACKUP:
            return [r for r in waiting if not r.in_round]
        if rule.bound_unit == VERSIONS:
            oldest = min(self.computing.values(), default=None)
            is_fresh = oldest is None or self.version - oldest <= (rule.bound or 0)
            return waiting if is_fresh else []
        most = minimum + (rule.bound or 0)
        return [r for r in waiting if self.clocks[r.worker] <= most]

    def _granted(self, minimum: int, answers: dict[tuple[int, int], Released]) -> list[Request]:
        """Those that dssp let go on though they are beyond its lower limit, as it may."""
        low, high = minimum + (self.rule.bound or 0), minimum + (self.rule.bound_max or 0)
        return [
            r for r in self.requests
            if r.awaits and low < self.clocks[r.worker] <= high and (r.worker, r.step) in answers
        ]  # fmt: skip

    def _check(self, request: Request, answer: Released, minimum: int) -> None:
        expected = self.version, self.clocks[request.worker] - minimum, request.staleness
        came = answer.version, answer.lag, answer.staleness
        if came == expected:
            is_right = True
        else:
            least_most = expected[0] >= came[0], expected[1] <= came[1], expected[2] <= came[2]
            is_right = answer.joined and all(least_most)
        if not is_right:
            raise Wrong(f"{self._name}, worker {request.worker}, step {request.step}: answered "
                        f"version, lag, staleness {came}, should be {expected}")  # fmt: skip
        if answer.raw is not None:
            self.check(answer.raw, answer.codec)

    def _go_on(self, request: Request) -> None:
        request.awaits = False
        if request.step == self.clocks[request.worker]:
            self.pulled[request.worker] = self.computing[request.worker] = self.version

    @property
    def _name(self) -> str:
        return f"chunk {self.chunk.index}"

    @property
    def _state(self) -> str:
        waiting = {r.worker: r.step for r in self.requests if r.awaits}
        return f"{self.rule} has clocks {self.clocks}, version {self.version}, waiting {waiting}"

    @staticmethod
    def _listed(answers: list[Released]) -> str:
        return ", ".join(f"step {a.step} of worker {a.worker}" for a in answers)


def naive_values(codec: str, payload: Any, chunk: Chunk) -> Values:
    """Decodes a payload, without the core."""
    values = chunk.values
    match codec:
        case "f32" | "f64":
            return np.frombuffer(payload, DTYPES[codec])
        case "f16":
            return np.frombuffer(payload, "<f2").astype("<f4")
        case "bf16":
            halves = np.frombuffer(payload, "<u2").astype("<u4")
            return (halves << 16).view("<f4")
        case "topk":
            count = len(payload) // 8
            dense = np.zeros(values, "<f4")
            dense[np.frombuffer(payload, "<u4", count)] = np.frombuffer(
                payload, "<f4", count, 4 * count
            )
            return dense
    raise Wrong(f"codec {codec}: never sent here")
