"""Keeps what the workers did and were answered, and says in the end whether all of it was right."""

from collections import Counter
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from leash.ps.policy import Rule
from leash.ps.wire.layout import Chunk, Layout
from leash.ps.wire.segment import SegmentMap
from simulation.checks.oracle import HALVES, Wrong
from simulation.checks.toy import Gradients, Slab, first_values, toy_of, view
from simulation.scenario import Scenario

Place = tuple[int, int]  # an epoch, and a position in it
Label = tuple[int, int, int]  # a generation, a version in it, and the step that was answered
COUNTED: Final = 16  # the first values of a chunk, which only grow: see toy.py
ROOM: Final = 1 / 64  # of sums of means


@dataclass(frozen=True, slots=True)
class Memory:
    """A worker's memory, which a server may have mapped."""

    bytes: npt.NDArray[np.uint8]
    places: SegmentMap


@dataclass(slots=True)
class Pushed:
    """One step of a worker."""

    places: list[Place]  # the samples behind it
    gradients: Gradients
    is_taken: bool = False  # by chunk 0
    is_left_out: bool = False  # of the mean that it was pushed for
    is_repeated: bool = False  # to another server


@dataclass(slots=True)
class Lease:
    """What a worker was leased last."""

    incarnation: int
    number: int
    answer: dict[str, Any]
    epoch: int
    first: int
    stop: int


class Book:
    """What happened in one run."""

    def __init__(
        self, scenario: Scenario, rule: Rule, layout: Layout, chunks: tuple[Chunk, ...]
    ) -> None:
        self.scenario: Final = scenario
        self.scenario_rule: Final = rule
        self.layout: Final = layout
        self.chunks: Final = chunks
        self.pushed: Final[dict[tuple[int, int, int], Pushed]] = {}
        self.final: Slab | None = None  # the parameters that the last worker was answered
        # By the number of each hello that this server has heard, and the newest of any server.
        self._incarnations: Final[dict[int, int]] = {}
        self._newest_incarnation = 0
        self._reports: Final[set[tuple[int, int]]] = set()  # incarnation and number of each
        self._leases: Final[dict[int, Lease]] = {}  # of the live workers
        self._done: Final[dict[int, bytearray]] = {}  # by epoch: 1 where a sample's lease is over
        self._memories: Final[dict[int, Memory]] = {}
        self._answers: Final[dict[tuple[int, int, int], list[tuple[Label, bytes | None]]]] = {}
        self._held: Final[dict[int, bytes]] = {}  # the parameters that each worker goes on with
        self.generation: int = 0  # how many servers the run has had
        self.may_forget = False  # whether the disk was full before one died: its journal has gaps
        self.resumed: dict[int, int] = {}  # of which the newest has values, by chunk
        # (worker, chunk) ▸ what its process was answered; and the newest that it has gone on with.
        self._answered: Final[dict[tuple[int, int], dict[Label, bytes | None]]] = {}
        self._has: Final[dict[tuple[int, int], Label]] = {}
        self._places: Final = [(c.index, c.start, c.stop) for c in chunks]

    # What happens.

    def note_memory(self, worker: int, memory: Memory) -> None:
        """Notes the memory of a worker's newest process."""
        self._memories[worker] = memory

    def memory_of(self, worker: int) -> Memory:
        return self._memories[worker]

    def note_step(
        self, worker: int, incarnation: int, step: int, places: list[Place], parameters: Slab,
        gradients: Gradients,
    ) -> None:  # fmt: skip
        """Notes what a worker is about to push, and checks the parameters that it begins with."""
        if parameters.tobytes() != self._held.get(worker):
            raise Wrong(f"worker {worker}, step {step}: it begins with other parameters than those "
                        "that it was answered last")  # fmt: skip
        self.pushed[worker, incarnation, step] = Pushed(places, gradients)

    def note_repeat(self, worker: int, step: int, before: int, incarnation: int) -> None:
        """Notes that a worker pushes what has no answer to another server.

        Args:
            worker: whose.
            step: the one that is open.
            before: the incarnation under which it has pushed so far.
            incarnation: that of now.
        """
        pushed = self.pushed[worker, before, step]
        self.pushed[worker, incarnation, step] = Pushed(
            pushed.places, pushed.gradients, is_repeated=True
        )

    def gradients_of(self, worker: int, incarnation: int, step: int) -> Gradients:
        """What a worker has pushed in a step."""
        pushed = self.pushed.get((worker, incarnation, step))
        if pushed is None:
            raise Wrong(f"worker {worker}: step {step} was taken, which it never pushed")
        return pushed.gradients

    def note_taken(self, worker: int, incarnation: int, step: int) -> None:
        """Notes that chunk 0 has this step."""
        pushed = self.pushed[worker, incarnation, step]
        if pushed.is_taken:
            raise Wrong(f"worker {worker}: step {step} was taken twice")
        pushed.is_taken = True

    def note_left_out(self, worker: int, step: int) -> None:
        """Notes that a worker has gone, whose gradient waited for a mean."""
        newest = max(key for key in self.pushed if key[0] == worker and key[2] == step)
        self.pushed[newest].is_left_out = True

    def note_process(self, worker: int) -> None:
        """Notes that a process of this rank begins, which remembers nothing."""
        self.note_break(worker)
        self._held.pop(worker, None)
        for chunk in self.chunks:
            self._answered.pop((worker, chunk.index), None)
            self._has.pop((worker, chunk.index), None)

    def note_break(self, worker: int) -> None:
        """Notes that a worker gives up the step that it is in: it takes no more answers to it."""
        for key in [key for key in self._answers if key[0] == worker]:
            del self._answers[key]

    def note_answer(
        self, worker: int, step: int, chunk: int, version: int, raw: bytes | None
    ) -> None:
        """Notes the parameters that a worker was answered; to a push that came again, once more.

        None says that it has them.
        """
        label = self.generation, version, step
        self._answers.setdefault((worker, step, chunk), []).append((label, raw))
        self._answered.setdefault((worker, chunk), {})[label] = raw

    def note_end_of_step(self, worker: int, step: int, held: Slab, parameters: Slab) -> None:
        """Checks the parameters that a worker goes on with, in place of those that it has held.

        Step 0 is a pull.
        """
        raw = parameters.tobytes()
        for index, start, stop in self._places:
            came, before = raw[start:stop], held[start:stop].tobytes()
            answers = self._answers.pop((worker, step, index), ())
            fitting = [
                label for label, told in answers if came == (before if told is None else told)
            ]
            if not fitting:
                raise Wrong(f"worker {worker}, step {step}, chunk {index}: it goes on with "
                            "other parameters than it was answered")  # fmt: skip
            self._has[worker, index] = max(fitting)
        self.final = parameters
        self._held[worker] = raw

    # A server that was started again.

    def check_offer(self, worker: int, chunk: int, label: Label, raw: bytes) -> None:
        """Checks what a worker offers: the newest that it has gone on with, or something newer.

        Args:
            worker: whose.
            chunk: which one it is about.
            label: what the offer says of it.
            raw: the values.
        """
        answers = self._answered.get((worker, chunk), {})
        _, start, stop = self._places[chunk]
        held = self._held.get(worker, b"")[start:stop]
        fitting = [
            answer for known, answer in answers.items()
            if known == label
            # Under bsp it went on with another server, and what it has is that one's too.
            or (known[0] < label[0] and known[1:] == label[1:])
        ]  # fmt: skip
        if raw not in [held if answer is None else answer for answer in fitting]:
            raise Wrong(f"worker {worker}, chunk {chunk}: offers something that it was never "
                        f"answered as {label}; it has {sorted(answers)}")  # fmt: skip
        has = self._has.get((worker, chunk), label)
        if label[:2] < has[:2]:
            raise Wrong(f"worker {worker}, chunk {chunk}: offers {label}, but has {has}")

    def check_healed(self, worker: int, chunk: Chunk, values: Any) -> None:
        """Checks that nothing is lost of what a worker has that goes on with a new server.

        Args:
            worker: that has offered what it has.
            chunk: which one to check.
            values: that the server goes on with.
        """
        held = self._held.get(worker)
        if held is None or chunk.kind != "parameter":
            return
        has = view(chunk, np.frombuffer(held, np.uint8))[:COUNTED]
        room = ROOM * (1 + has if self.scenario.codec in HALVES else 1)
        if (values[:COUNTED] < has - room).any():
            raise Wrong(f"chunk {chunk.index}: the server goes on with\n  "
                        f"{values[:COUNTED].tolist()}\nthough worker {worker} has\n  "
                        f"{has.tolist()}")  # fmt: skip

    def check_once(self, chunk: Chunk, values: Any) -> None:
        """Checks that no push was applied twice. REQUIRES: none was but by itself, in f32."""
        for worker in range(1, self.scenario.workers + 1):
            pushes = sum(
                pushed.gradients.values[chunk.index] is not None
                for (who, _, _), pushed in self.pushed.items()
                if who == worker and not pushed.is_repeated
            )  # fmt: skip
            if values[worker - 1] > pushes:
                raise Wrong(f"chunk {chunk.index} has {values[worker - 1]} pushes of worker "
                            f"{worker}, which has made {pushes}")  # fmt: skip

    # Control messages.

    def note_welcome(self, worker: int, number: int, incarnation: int) -> None:
        """Checks that an incarnation is new, unless its hello is one that has come before.

        Args:
            worker: that was welcomed.
            number: of its hello.
            incarnation: which it was given.
        """
        known = self._incarnations.get(number)
        newest = self._newest_incarnation
        is_right = incarnation > newest if known is None else incarnation == known
        if not is_right:
            raise Wrong(f"worker {worker}, hello {number}: was given incarnation {incarnation}, "
                        f"after {newest}; this hello had {known}")  # fmt: skip
        self._incarnations[number] = incarnation
        self._newest_incarnation = max(newest, incarnation)

    def note_new_server(self, resumed: dict[int, int]) -> None:
        """Notes that a server begins, which knows no hello of one before it.

        Args:
            resumed: chunk ▸ the generation of the values that it goes on with, if it has any.
        """
        self.generation += 1
        self.resumed = resumed
        self._incarnations.clear()

    def note_report(self, worker: int, incarnation: int, number: int) -> None:
        """Checks that a report is counted once, however often it has come."""
        if (incarnation, number) in self._reports:
            raise Wrong(f"worker {worker}: report {number} was counted twice")
        self._reports.add((incarnation, number))

    def note_leased(self, incarnation: int, answer: dict[str, Any]) -> None:
        """Checks that no sample is leased to a worker that another has, or that is done."""
        worker, number = answer["worker"], answer["number"]
        before = self._leases.get(worker)
        if before is not None and before.incarnation == incarnation:
            if number == before.number and answer != before.answer:
                raise Wrong(f"worker {worker}: lease {number} was {before.answer}, is {answer}")
            if number > before.number and before.epoch:
                count = before.stop - before.first
                self._done_of(before.epoch)[before.first : before.stop] = b"\1" * count
        epoch, first = answer["epoch"], answer["first"]
        stop = first + answer["count"]
        self._leases[worker] = Lease(incarnation, number, answer, epoch, first, stop)
        if not epoch:
            return
        if any(self._done_of(epoch)[first:stop]):
            raise Wrong(f"worker {worker} is leased what is done: {answer}")
        for other, held in self._leases.items():
            both = held.epoch == epoch and held.first < stop and first < held.stop
            if other != worker and both:
                raise Wrong(f"workers {worker} and {other} are leased the same: {answer}")

    def _done_of(self, epoch: int) -> bytearray:
        if epoch not in self._done:
            self._done[epoch] = bytearray(self.scenario.samples)
        return self._done[epoch]

    def done(self) -> dict[int, bytes]:
        """By epoch, for which positions leases are over."""
        return {epoch: bytes(done) for epoch, done in self._done.items()}

    def go_on(self, done: dict[int, bytes] | None) -> None:
        """Begins anew with the leases, since a server was started again.

        Args:
            done: what was when the checkpoint was begun with which it goes on; None if it goes on
                with what it has noted itself.
        """
        self._leases.clear()
        if done is not None:
            self._done.clear()
            self._done.update((epoch, bytearray(of_epoch)) for epoch, of_epoch in done.items())

    def note_left(self, worker: int) -> None:
        """Notes that others may be leased what this worker had."""
        self._leases.pop(worker, None)

    # What it comes to.

    def check_samples(self, *, exactly_once: bool) -> None:
        """Checks that every sample was trained on.

        Raises:
            Wrong: one was not, or was twice though nothing went wrong.
        """
        used = Counter(
            place for pushed in self.pushed.values() if pushed.is_taken and not pushed.is_left_out
            for place in pushed.places
        )  # fmt: skip
        scenario = self.scenario
        wanted = {(e, n) for e in range(1, scenario.epochs + 1) for n in range(scenario.samples)}
        if missing := wanted - used.keys():
            raise Wrong(f"{len(missing)} samples were never trained on: {sorted(missing)[:5]}")
        if exactly_once and (twice := [place for place, count in used.items() if count > 1]):
            raise Wrong(f"{len(twice)} samples were trained on twice: {sorted(twice)[:5]}")

    def check_bsp(self) -> None:
        """Checks the parameters against one process on the joint batch, bit by bit."""
        reference = bsp_reference(self.scenario, self.chunks)
        assert self.final is not None
        for chunk in self.chunks:
            came, expected = view(chunk, self.final), view(chunk, reference)
            if came.tobytes() != expected.tobytes():
                raise Wrong(f"bsp, chunk {chunk.index}: ended with\n  {came.tolist()}\nshould be\n"
                            f"  {expected.tolist()}")  # fmt: skip


def bsp_reference(scenario: Scenario, chunks: tuple[Chunk, ...]) -> Slab:
    """Trains in one loop what all workers train together under bsp."""
    nbytes = max(chunk.stop for chunk in chunks)
    parameters = np.zeros(nbytes, np.uint8)
    first_values(chunks, parameters)
    models = [toy_of(scenario.layout, rank) for rank in range(1, scenario.workers + 1)]
    total = sum(scenario.batches)
    for step in range(1, scenario.steps + 1):
        sums: list[Any] = [0.0 for _ in chunks]
        for model, samples in zip(models, scenario.batches, strict=True):
            is_absent = scenario.is_absent(model.rank, step)
            gradients = model.gradients(parameters, step, is_absent=is_absent)
            for chunk in chunks:
                values = gradients.values[chunk.index]
                if values is None:
                    continue
                if chunk.kind == "buffer":
                    sums[chunk.index] = values
                else:
                    sums[chunk.index] = sums[chunk.index] + samples * values
        for chunk in chunks:
            values = view(chunk, parameters)
            if chunk.kind == "buffer":
                values[:] = sums[chunk.index]
            else:
                values -= sums[chunk.index] / total
    return parameters
