"""Decides who trains on which samples, by leases of an epoch's permutation.

Every epoch is a permutation of all training samples, which workers compute for themselves from the
seed and the epoch. A lease is a range of its positions. A position is free, held by a worker, or
done, which it is once the server has answered the push with it. When a worker goes, its positions
without an answer are free again. So without failures every sample is used exactly once an epoch,
and with failures at least once.

No lease has a single sample, nor is one left for the next: a lease takes one more position instead,
which its worker trains on in its last batch (`leash.worker.datasets.base.in_batches`).

Under `drop` and `backup` the server may answer a push and leave its gradient out. Those samples
count as used and are not leased again; `dropped_pushes` counts such pushes.

::

    train ──▸ asks again: all of it is done ──▸ train, in this epoch or the next
                                            ├─▸ rest: nothing is left, but others have not finished
                                            │     └─▸ return: a worker has gone; say hello, and ask
                                            └─▸ over
"""

import copy
import math
from bisect import bisect
from dataclasses import dataclass, field
from typing import Final

from leash.ps.errors import HeaderError, PlanMismatchError, SupersededError
from leash.ps.runs.position import LeasePosition
from leash.ps.server.leases.pacing import (
    Pace,
    RoundPlanner,
    last_samples,
    lease_samples,
    samples_together,
)
from leash.ps.wire.messages import OVER, REST, RETURN, TRAIN, Lease, Leased

# A lease has no fewer samples, where the data set has more: batch normalization fails on a batch of
# one sample, and whoever got that sample next would fail too.
LEAST: Final = 2
SPEEDS: Final = (1e-6, 1e12)  # samples/s: a reported speed is brought into this range


class EpochPositions:
    """Knows which positions of one epoch's permutation are free, and how many are done."""

    def __init__(self, size: int, free: list[range] | None = None) -> None:
        """Begins with all positions free, or with these, ascending, where an earlier run ended."""
        self._size: Final = size
        self._free: Final = [range(size)] if free is None else free  # ascending
        self._done = size - self.free
        self.last_free: int = 0  # how many were free when they first made no round for everybody

    @property
    def free(self) -> int:
        """How many positions are free."""
        return sum(map(len, self._free))

    @property
    def free_ranges(self) -> list[tuple[int, int]]:
        """The free positions as ranges that do not touch: (first, stop) pairs, ascending."""
        found: list[tuple[int, int]] = []
        for free in self._free:
            begins_at = free.start
            if found and found[-1][1] == begins_at:
                begins_at = found.pop()[0]
            found.append((begins_at, free.stop))
        return found

    @property
    def left(self) -> int:
        """How many positions are not done."""
        return self._size - self._done

    @property
    def is_complete(self) -> bool:
        """Whether all positions are done."""
        return self.left == 0

    def take(self, most: int) -> range:
        """Takes a range of free positions, about `most` at most. REQUIRES: some are free.

        It neither takes nor leaves a single position, where there are more.
        """
        first = self._free.pop(0)
        most = max(most, LEAST)
        if len(first) - most < LEAST:
            most = len(first)
        if first[most:]:
            self._free.insert(0, first[most:])
        return first[:most]

    def finish(self, held: range, done: int) -> int:
        """Notes that the first `done` of these are done; the others are free again.

        A single one joins those that are free beside it, or else takes the one before it back.

        Returns:
            How many that are done are free again, 0 or 1.
        """
        back = held[done:]
        place = bisect([free.start for free in self._free], held.start)
        if len(back) == 1 and place < len(self._free) and self._free[place].start == held.stop:
            back = range(back.start, self._free.pop(place).stop)
        again = 1 if len(back) == 1 and done > 0 else 0
        if back:
            self._free.insert(place, range(back.start - again, back.stop))
        self._done += done - again
        return again


@dataclass(frozen=True, slots=True)
class Held:
    """A range of positions that a worker was leased and has not said to be done with."""

    epoch: int
    positions: range
    begins_at: int  # this worker's answered samples when it comes to the first position

    def done(self, answered: int) -> int:
        """How many of the positions are done, by this worker's answered samples."""
        return max(0, min(answered - self.begins_at, len(self.positions)))


@dataclass(slots=True)
class Holder:
    """What a worker that asks for leases holds, and how fast it is."""

    pace: Pace
    number: int = 0  # number of its newest request
    answer: Leased | None = None  # the answer to that request
    # In the order in which it trains on them; several only for a worker that draws ahead.
    held: list[Held] = field(default_factory=list)
    resting: bool = False


class Leases:
    """The leases of one run. Only requests and leaves change them; no sockets, no clock."""

    def __init__(self, *, weighted: bool, local_steps: int | None) -> None:
        """Begins with nothing granted.

        Args:
            weighted: batches are in proportion to the workers' speeds.
            local_steps: steps between two pushes; None for as many as let all push together.
        """
        self.completed: int = 0  # how many epochs are
        self.samples_twice: int = 0  # how many were applied, and then leased to another worker
        self._planner: Final = RoundPlanner(weighted=weighted, local_steps=local_steps)
        self._size = 0  # samples of an epoch; the first request says how many, and also
        self._planned = 0  # how many epochs there are
        self._earlier: LeasePosition | None = None  # where the run goes on, before that request
        self._begun = 0
        self._epochs: dict[int, EpochPositions] = {}  # those that have begun and are not completed
        self._holders: dict[int, Holder] = {}

    @property
    def in_use(self) -> bool:
        """Whether any worker has asked for a lease."""
        return self._size > 0

    def is_resting(self, worker: int) -> bool:
        """Whether nothing was left for this worker when it asked last, so that it rests."""
        return worker in self._holders and self._holders[worker].resting

    def holds(self, worker: int) -> bool:
        """Whether this worker has asked for a lease since it came."""
        return worker in self._holders

    def ask(self, msg: Lease, answered: int, *, lockstep: bool) -> Leased:
        """Answers a request; one that comes again gets the same answer.

        Args:
            msg: the request.
            answered: how many samples of this worker were answered so far.
            lockstep: whether all push equally often, whatever their speed, as under bsp.

        Raises:
            HeaderError: a number in it is out of its range or order.
            SupersededError: it is a copy of an older request than the newest.
            PlanMismatchError: its data, or its number of epochs, is not the run's.
        """
        self._require_agreement(msg)
        newcomer = Holder(Pace(msg.batch_size))
        holder = self._holders.get(msg.worker, newcomer)
        if msg.number == holder.number and holder.answer is not None:
            return holder.answer
        if 0 < msg.number < holder.number:
            raise SupersededError(f"lease.number: a copy of {msg.number}, which was answered")
        if msg.number != holder.number + 1:
            raise HeaderError(f"lease.number: expected {holder.number + 1}, got {msg.number}")
        self._size, self._planned = msg.samples, msg.epochs  # no refused request chooses them
        self._holders[msg.worker] = holder
        if msg.number == 1:  # it lost its leases by its hello, and trains on what it had drawn
            self.samples_twice += msg.ahead
        self._settle(holder, None if msg.ahead == 0 else answered)
        holder.number = msg.number
        holder.pace = Pace(msg.batch_size, _believable(msg.samples_per_s))
        holder.answer = self._next(msg, holder, answered + msg.ahead, lockstep=lockstep)
        return holder.answer

    def release(self, worker: int, answered: int, applied: int) -> None:
        """Frees what this worker held and had no answer for: it has gone.

        Args:
            worker: its rank.
            answered: as in `ask`.
            applied: the samples of its step that was applied and has no answer.
        """
        holder = self._holders.pop(worker, None)
        if holder is None:
            return
        left = sum(len(held.positions) - held.done(answered) for held in holder.held)
        self.samples_twice += min(applied, left)
        for held in reversed(holder.held):  # so that ranges that follow one another are joined
            self.samples_twice += self._finish(held, held.done(answered))

    @property
    def planned(self) -> int | None:
        """How many epochs there are; None before the first request."""
        return self._planned or None

    def epochs_behind(self, worker: int, answered: int) -> int:
        """How many epochs are behind a worker, by what it holds; those of all if that is nothing.

        Args:
            worker: its rank.
            answered: as in `ask`.
        """
        holder = self._holders.get(worker)
        epochs = [
            held.epoch for held in (holder.held if holder else ())
            if held.done(answered) < len(held.positions)
        ]  # fmt: skip
        return min(epochs) - 1 if epochs else self.completed

    def left(self) -> dict[int, int]:
        """How many samples of each epoch that is not completed are not done: epoch ▸ samples."""
        return {
            number: self._epochs[number].left if number in self._epochs else self._size
            for number in range(self.completed + 1, self._planned + 1)
        }

    def position(self, answered: dict[int, int]) -> LeasePosition | None:
        """How far the leases are, if nothing counts as done that was not answered.

        Args:
            answered: of each worker, how many of its samples were, as in `ask`.

        Returns:
            The position; None if no worker has asked for a lease yet, here or in the run that goes
            on here.
        """
        if not self.in_use:
            return self._earlier
        freed = copy.deepcopy(self)
        for worker in list(freed._holders):
            freed.release(worker, answered[worker], 0)
        free = {number: epoch.free_ranges for number, epoch in sorted(freed._epochs.items())}
        return LeasePosition(self._size, freed.completed, free)

    def go_on(self, position: LeasePosition) -> None:
        """Goes on where an earlier run was. REQUIRES: no worker has asked for a lease yet."""
        self._earlier = position
        self.completed = position.completed
        self._begun = max(position.free, default=position.completed)
        for number, ranges in position.free.items():
            free = [range(first, stop) for first, stop in ranges]
            self._epochs[number] = EpochPositions(position.samples, free)

    # How it is done.

    def _require_agreement(self, msg: Lease) -> None:
        """Refuses a plan that cannot be, or that is not the run's."""
        for name in ("samples", "epochs", "batch_size"):
            if getattr(msg, name) < 1:
                raise HeaderError(f"lease.{name}: expected 1 or more, got 0")
        if not self.in_use:
            self._require_earlier(msg)
            return
        for what, own, theirs in (
            ("training samples", self._size, msg.samples),
            ("epochs", self._planned, msg.epochs),
        ):
            if own != theirs:
                raise PlanMismatchError(
                    f"worker {msg.worker}: this run has {own} {what}, got {theirs}; give every "
                    "worker the same data and the same --epochs"
                )

    def _require_earlier(self, msg: Lease) -> None:
        """Refuses other data than those of the run that goes on here."""
        if self._earlier is not None and self._earlier.samples not in (0, msg.samples):
            raise PlanMismatchError(
                f"worker {msg.worker}: the run of the checkpoint had {self._earlier.samples} "
                f"training samples, got {msg.samples}; give the same data"
            )

    def _next(self, msg: Lease, holder: Holder, begins_at: int, *, lockstep: bool) -> Leased:
        worker, number = msg.worker, self._epoch_with_work()
        if number is None:
            is_over = self.completed >= self._planned
            holder.resting = not is_over and msg.ahead == 0
            return _without_work(worker, holder, OVER if is_over else REST)
        if holder.resting:
            return _without_work(worker, holder, RETURN)
        paces = {w: other.pace for w, other in self._holders.items() if not other.resting}
        rounds = self._planner.plan(paces, lockstep=lockstep)
        epoch, own = self._epochs[number], rounds[worker]
        free, is_last = epoch.free, number == self._planned
        if is_last and free < samples_together(rounds):
            epoch.last_free = max(epoch.last_free, free)
            most = last_samples(worker, free, epoch.last_free, paces, rounds, lockstep=lockstep)
        else:
            most = lease_samples(worker, holder.number, free, paces, rounds, lockstep=lockstep)
        positions = epoch.take(most)
        holder.held.append(Held(number, positions, begins_at))
        return Leased(
            worker, holder.number, TRAIN, number, positions.start, len(positions),
            own.batch_size, own.local_steps,
        )  # fmt: skip

    def _epoch_with_work(self) -> int | None:
        """The lowest epoch with free positions; begins the next one if none has any.

        An earlier run may have begun more epochs than are planned now.
        """
        for number, epoch in sorted(self._epochs.items()):
            if epoch.free and number <= self._planned:
                return number
        if self._begun >= self._planned:
            return None
        self._begun += 1
        self._epochs[self._begun] = EpochPositions(self._size)
        return self._begun

    def _settle(self, holder: Holder, answered: int | None) -> None:
        """Lets go of the ranges that a worker has done.

        Args:
            holder: the worker's.
            answered: how many of its samples were answered so far; None if it is done with all.
        """
        done = [
            held for held in holder.held
            if answered is None or held.done(answered) == len(held.positions)
        ]  # fmt: skip
        holder.held = [held for held in holder.held if held not in done]
        for held in done:
            self._finish(held, len(held.positions))

    def _finish(self, held: Held, done: int) -> int:
        """Notes that the first `done` of these positions are done; the others are free again.

        Returns:
            How many of these will be leased again all the same.
        """
        again = self._epochs[held.epoch].finish(held.positions, done)
        while (first := self._epochs.get(self.completed + 1)) and first.is_complete:
            del self._epochs[self.completed + 1]
            self.completed += 1
        return again


def _believable(samples_per_s: float) -> float:
    """Makes a reported speed finite and not negative; 0 stands for an unknown one."""
    if not math.isfinite(samples_per_s) or samples_per_s <= 0:
        return 0.0
    return min(max(samples_per_s, SPEEDS[0]), SPEEDS[1])


def _without_work(worker: int, holder: Holder, order: str) -> Leased:
    return Leased(worker, holder.number, order, 0, 0, 0, 0, 0)
