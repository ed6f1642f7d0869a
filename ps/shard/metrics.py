"""Counts what happens in a run, for `state`, for summary.json and for events.jsonl."""

import json
import logging
import math
import time
import traceback
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from leash.ps._core import EngineCounts, Record
from leash.ps.errors import ProtocolError, SegmentError
from leash.ps.policy import Rule
from leash.ps.runs.demo_logs import DemoLogs
from leash.ps.runs.events import EventLog
from leash.ps.runs.position import Position, SharePosition, Trained
from leash.ps.shard.data_counts import CLOSED, FAILED_HERE, STRANGERS, DataCounts, together
from leash.ps.shard.members import Members
from leash.ps.shard.worker_counts import WorkerCounts
from leash.ps.wire.intake import WHY_CLOSED, Conduct
from leash.ps.wire.messages import Remember, Report
from leash.ps.words import DONE, EVICTED, LIVE, TIMED_OUT, wait_fraction

LOG: Final = logging.getLogger(__name__)

RATE_SPAN_S: Final = 2.0  # samples/s of the live table is a mean over about so many seconds
OPTIONS_REMEMBERED: Final = 1024  # so many tables of options become no event when they come again
TRAINING_EVENT_S: Final = 1.0  # a worker's reports become events at most this often
CLOSED_TOLD: Final = 256  # closed connections that the log tells of, each host and reason once


# Errors that are part of a normal run: no peer sent anything wrong.
NO_REFUSALS: Final = ("stopping", "superseded", "missing_options", "nonfinite")
# Nor is memory that cannot be shared, since a worker only tries whether it can be. It may not try
# for ever.
NOT_COUNTED: Final = (*NO_REFUSALS, SegmentError.code)


def conduct_of(code: str) -> Conduct:
    """What an error with this code, as the answer to a message, has shown of its sender."""
    if code == ProtocolError.code:
        return Conduct.FATAL
    return Conduct.STRANGER if code in NO_REFUSALS else Conduct.WRONG


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One measurement of an evaluator."""

    epoch: int
    accuracy: float | None  # None for a regression
    loss: float | None  # None where it is not finite
    samples: int
    seconds: float  # of training when it arrived


class Metrics:
    """The counters of one run; what is worth an event is written as one, too."""

    def __init__(
        self,
        rule: Rule,
        events: EventLog,
        step_events: int,
        now: Callable[[], float] = time.monotonic,
        demo_logs: DemoLogs | None = None,
    ) -> None:
        self.workers: dict[int, WorkerCounts] = {}
        self.evaluations: list[Evaluation] = []
        self.epoch: int = 0  # how many every worker has completed
        self.samples_twice: int = 0  # how many were leased again after they had been applied
        self.healed_chunks: int = 0  # how many got newer values from workers than a checkpoint's
        self.lost_updates: int = 0  # steps without an answer at a server's death, pushed no more
        self.own: Final = DataCounts()  # the counts of this process
        self.of_shards: dict[int, DataCounts] = {}  # those that the other shards sent last
        self.evictions: int = 0
        self._failed_at: Final[set[tuple[str, str, int]]] = set()
        self._told_closed: Final[set[tuple[str, str]]] = set()
        self._rule = rule
        self.events: Final = events
        self._demo_logs: Final = demo_logs
        self._step_events: Final = step_events if events.is_open else 0
        self._now: Final = now
        # Options for parameter groups: those that came last, where none came None; which of late
        # have become events; and which slot goes by which, as the last event of them told.
        self.groups: list[dict[str, Any]] | None = None
        self._group_of_slot: list[int] = []
        self._told_options: Final[OrderedDict[tuple[str, bytes], None]] = OrderedDict()
        self._told_slots: bytes = b""
        self._earlier: dict[int, SharePosition] = {}  # of each rank, where this run goes on
        self._planned: dict[int, int] = {}  # how many epochs each rank is to train, likewise
        self._before: Trained = Trained()
        self._started_s: float | None = None
        self._ended_s: float | None = None

    # What happens.

    @property
    def started(self) -> bool:
        """Whether training has begun."""
        return self._started_s is not None

    def go_on(self, position: Position) -> None:
        """Counts on from where an earlier run was."""
        self.epoch, self._earlier = position.epoch, dict(position.shares)

    def count_on(self, before: Trained) -> None:
        """Counts on from what earlier servers of this run have trained."""
        self._before = before

    def go_on_with_plans(self, planned: Mapping[int, int]) -> None:
        """Goes by what each rank is to train, as it has told a server before this one.

        Args:
            planned: rank ▸ how many epochs of its share.
        """
        self._planned = dict(planned)

    def position_of(self, worker: int) -> SharePosition:
        """How far this rank is in its share; at the beginning if it has none."""
        return self.workers[worker].position if worker in self.workers else SharePosition()

    def shares(self) -> dict[int, SharePosition]:
        """How far each rank is that has a share of its own, here or in the run before this one."""
        has_shares = any(counts.share for counts in self.workers.values())
        # One that has not told its share yet is at its beginning, however far the others are.
        own = {rank: c.position for rank, c in self.workers.items()} if has_shares else {}
        return {**self._earlier, **own}

    def start(self, workers: list[int]) -> None:
        """Notes that training begins, with these workers."""
        self._started_s = self._now()
        for counts in self.workers.values():
            counts.mark_s = self._started_s
        self.events.write(
            "started", **self._rule.settings(), workers=workers, step_events=self._step_events
        )

    def set_rule(self, rule: Rule) -> None:
        """Notes that the run goes by this rule from now on."""
        self._rule = rule
        self.events.write("policy_changed", **rule.settings())
        self.events.flush()

    def scale_rate(self, workers: int) -> None:
        """Notes that a mean of so many gradients is applied with so many times the rate."""
        self.events.write("lr_scaled", workers=workers, factor=workers)

    def stall_ended(self, workers: list[int]) -> None:
        """Notes that these workers waited for each other under backup, and now go on."""
        self.events.write("stall_ended", workers=workers)

    def end(self) -> None:
        """Notes that the last worker has left, so that the time of training ends here."""
        if self._ended_s is None:
            self._ended_s = self._now()

    def join(self, worker: int, incarnation: int, name: str, first_step: int) -> None:
        """Notes that a worker has joined; an observer is worker 0."""
        if worker:
            self.expect(worker)
            self.workers[worker].begin_again()
            self._ended_s = None  # if all workers had left, training goes on with this one
        self.events.write(
            "joined", worker=worker, incarnation=incarnation, name=name, first_step=first_step
        )

    def expect(self, worker: int) -> None:
        """Counts for a worker that is here, and joins once its first step is known."""
        if worker not in self.workers:
            counts = self.workers[worker] = WorkerCounts(mark_s=self._now())
            counts.planned_epochs = self._planned.get(worker, 0)
            if worker in self._earlier:
                counts.go_on(self._earlier[worker])

    def heal(self, generation: int, workers: list[int], chunks: int, lost: int) -> None:
        """Notes that these workers go on with a server that was started again.

        Args:
            generation: how many servers the run has had.
            workers: those who are here.
            chunks: how many got newer values from them than the checkpoint has.
            lost: how many steps of theirs were lost.
        """
        self.healed_chunks += chunks
        self.lost_updates += lost
        self.events.write(
            "healed", generation=generation, workers=workers, chunks=chunks, lost_updates=lost
        )

    def restore(self, shares: Mapping[int, SharePosition], told: Mapping[int, Remember]) -> None:
        """Goes by what a journal and the workers themselves tell of how far they are.

        Args:
            shares: rank ▸ how far it is by the journal; `samples` is not known there.
            told: rank ▸ what it says itself.
        """
        # A server that began again while nobody was at work knows of no shares any more.
        others = {rank: SharePosition() for rank, own in told.items() if own.epochs}
        for rank, share in {**others, **shares}.items():
            own, position = told.get(rank), share
            if own is not None and own.epochs >= share.epochs:
                position = replace(share, epochs=own.epochs, samples=own.samples)
            self._earlier[rank] = position
            if rank in self.workers:
                self.workers[rank].go_on(position)

    def leave(self, worker: int, incarnation: int, reason: str) -> None:
        """Notes that a worker has left or rests, and why."""
        self.evictions += worker > 0 and reason == EVICTED
        self.events.write("left", worker=worker, incarnation=incarnation, reason=reason)

    def add_counts(self, counts: EngineCounts) -> None:
        """Adds what the engine of this process's shard has counted."""
        self.own.add(counts)

    def count_push(self, worker: int, step: int, samples: int, at_s: float) -> None:
        """Counts a step that was pushed to the last of its chunks, chunk 0."""
        counts = self.workers[worker]
        counts.steps += 1
        counts.samples += samples
        counts.unanswered = samples
        counts.pushed_s = at_s
        if self._records(step):
            self.events.write("push", at_s, worker=worker, step=step)

    def count_reply(self, reply: Record) -> None:
        """Counts the answer about chunk 0 of a step."""
        counts = self.workers[reply.worker]
        counts.lag = reply.lag
        if self._demo_logs:
            self._demo_logs.add_step(self.epoch, reply.worker, counts.unanswered, reply.staleness)
        counts.answered += counts.unanswered
        counts.unanswered = 0
        counts.answer(reply.at_s)
        if self._records(reply.step):
            dropped = {"dropped": True} if reply.dropped else {}
            self.events.write(
                "step", reply.at_s, worker=reply.worker, step=reply.step, lag=reply.lag,
                staleness=reply.staleness, **dropped,
            )  # fmt: skip

    def note_duplicate(self, push: Record) -> None:
        """Notes a push that came again."""
        self.events.write(
            "duplicate", push.at_s, worker=push.worker, chunk=push.chunk, step=push.step
        )

    def count_publish(self, worker: int, chunk: int) -> None:
        """Notes that a worker's values of a chunk became everybody's. Chunk 0 is one of them."""
        if chunk == 0:
            self.events.write("published", worker=worker)

    def note_nonfinite(self, push: Record, slot: str) -> None:
        """Notes a gradient, or with worker 0 a mean, with a NaN or an infinity in this slot."""
        self.events.write(
            "nonfinite", push.at_s, worker=push.worker, chunk=push.chunk, step=push.step, slot=slot
        )

    def note_options(self, worker: int, groups: list[dict[str, Any]], group_of_slot: bytes) -> None:
        """Notes the options that a worker gives; equal ones of several workers are one event."""
        self.groups, self._group_of_slot = groups, list(group_of_slot)
        key = (json.dumps(groups), group_of_slot)
        if key in self._told_options:
            self._told_options.move_to_end(key)
            return
        self._told_options[key] = None
        if len(self._told_options) > OPTIONS_REMEMBERED:
            self._told_options.popitem(last=False)
        is_new = group_of_slot != self._told_slots
        slots: dict[str, Any] = {"group_of_slot": list(group_of_slot)} if is_new else {}
        self._told_slots = group_of_slot
        self.events.write("options", worker=worker, groups=groups, **slots)

    def note_different_options(self, step: int, workers: list[int]) -> None:
        """Notes, and says, that two workers gave different options for one step."""
        LOG.warning(
            "workers %d and %d have different options for their parameter groups, from step %d on; "
            "each mean goes by those of the lowest rank in it", *workers, step,
        )  # fmt: skip
        self.events.write("options_differ", step=step, workers=workers)

    def count_refusal(self, error: ProtocolError) -> None:
        """Counts an error that a peer was sent, unless it is part of a normal run."""
        if error.code not in NOT_COUNTED:
            self.own.refusals[error.code] += 1

    def count_strangers(self, connections: int) -> None:
        """Counts connections that were refused before a message could come."""
        if connections:
            self.own.refusals[STRANGERS] += connections

    def refusal(self, error: Exception) -> ProtocolError:
        """Makes the error for the peer whose message led to `error`.

        One that is no ProtocolError is a defect of ours, which is told. The caller that sends the
        answer counts it with `count_refusal`, as `protocol`.
        """
        if isinstance(error, ProtocolError):
            return error
        self._tell_defect("a message could not be handled; the run goes on", error)
        name = type(error).__name__
        return ProtocolError(f"the server failed at this message, as its log tells: {name}")

    def fail(self, what: str, error: Exception) -> None:
        """Tells and counts a defect of ours at which no peer gets an error.

        Args:
            what: could not be done, as the beginning of a sentence.
            error: that came instead.
        """
        self._tell_defect(f"{what}; the run goes on", error)
        self.own.refusals[FAILED_HERE] += 1

    def attempt(self, what: str, step: Callable[[], object]) -> None:
        """Does a step of the server's own; a failure is told and counted, and ends nothing."""
        try:
            step()
        except Exception as error:
            self.fail(what, error)

    def _tell_defect(self, text: str, error: Exception) -> None:
        """Logs a defect with its traceback, once for each place in the code."""
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = (type(error).__name__, frame.filename, frame.lineno or 0)
        if place not in self._failed_at:
            self._failed_at.add(place)
            if isinstance(error, MemoryError):  # no defect, and where it was tells nothing
                LOG.error("out of memory: %s", text)
            else:
                LOG.error(text, exc_info=error)

    def count_closed(self, counts: Counter[str], examples: Iterable[tuple[str, str]]) -> None:
        """Counts connections that were closed since they cost too much, and tells of some.

        Args:
            counts: how many, by reason.
            examples: the reason and the host of some; each pair is told once.
        """
        if not counts:
            return
        self.own.refusals[CLOSED] += counts.total()
        for example in examples:
            if example in self._told_closed or len(self._told_closed) >= CLOSED_TOLD:
                continue
            self._told_closed.add(example)
            reason, host = example
            LOG.warning("closed a connection of %s: %s", host, WHY_CLOSED[reason])

    def happened(self, event: str, details: dict[str, Any]) -> None:
        """Writes an event of another shard."""
        self.events.write(event, **details)

    def shard_lost(self, shard: int, process: int, how: str) -> None:
        """Notes that a shard is lost, and how."""
        self.events.write("shard_lost", shard=shard, process=process, how=how)
        self.events.flush()

    def report(self, msg: Report) -> None:
        """Notes what a worker reports: its plan; or its loss, and how it spends its time."""
        counts = self.workers[msg.worker]
        if msg.kind == "plan":
            counts.plan(msg.epoch, msg.samples)
            return
        counts.compute_s, counts.wait_s = msg.compute_s, msg.wait_s
        if (loss := _number(msg.loss)) is not None:  # NaN means that there was no step to report
            counts.loss = loss
        if self._demo_logs:
            epoch = msg.epoch - (msg.kind == "epoch")  # the one that it speaks of, from 0
            self._demo_logs.add_loss(epoch, msg.worker, msg.samples, msg.loss)
        self._measure_rate(counts)
        self._tell_training(counts, msg)
        if msg.kind == "epoch":
            counts.complete(msg.epoch)
            self.events.write("epoch", worker=msg.worker, epoch=msg.epoch, loss=counts.loss)

    def complete_epochs(self, members: Members) -> None:
        """Counts the epochs that every worker has completed which takes part or is done."""
        counted = (LIVE, DONE, TIMED_OUT)
        taking_part = [w for w, m in members.workers.items() if m.state in counted]
        self.complete(min((self.workers[worker].epoch for worker in taking_part), default=0))

    def complete(self, epoch: int) -> None:
        """Notes that this epoch is completed."""
        if epoch > self.epoch:
            self.epoch = epoch
            self.events.write("epoch_completed", epoch=epoch)
            if self._demo_logs:
                self._demo_logs.end_epochs(epoch, self.train_seconds)
            self.events.flush()

    def evaluate(self, msg: Report) -> None:
        """Notes what an evaluator has measured."""
        accuracy, loss = _number(msg.accuracy), _number(msg.loss)
        evaluation = Evaluation(msg.epoch, accuracy, loss, msg.samples, self.train_seconds)
        self.evaluations.append(evaluation)
        if self._demo_logs and msg.epoch:
            self._demo_logs.add_accuracy(msg.epoch - 1, accuracy)
        self.events.write(
            "evaluated", epoch=msg.epoch, accuracy=accuracy, loss=loss, samples=msg.samples
        )

    @property
    def options_of_groups(self) -> dict[str, Any]:
        """The newest options of parameter groups, and the group of each slot; empty without any."""
        if self.groups is None:
            return {}
        return {"groups": self.groups, "group_of_slot": self._group_of_slot}

    # What it comes to.

    @property
    def data(self) -> DataCounts:
        """The sums of all shards' counts."""
        return together([self.own, *self.of_shards.values()])

    @property
    def train_seconds(self) -> float:
        """Seconds from the start of training, to its end if it has ended; of all servers."""
        if self._started_s is None:
            return self._before.seconds
        until_s = self._now() if self._ended_s is None else self._ended_s
        return self._before.seconds + until_s - self._started_s

    @property
    def steps(self) -> int:
        """Steps of all workers together, and of all servers."""
        return self._before.steps + sum(counts.steps for counts in self.workers.values())

    @property
    def samples(self) -> int:
        """Samples of all workers together, and of all servers."""
        return self._before.samples + sum(counts.samples for counts in self.workers.values())

    @property
    def trained(self) -> Trained:
        """How much was trained so far, by this server and all before it."""
        return Trained(round(self.train_seconds, 3), self.steps, self.samples)

    def accuracy_by_epoch(self) -> list[float | None]:
        """The test accuracy after each epoch; None for one that ended too soon to be measured."""
        newest = {e.epoch: e.accuracy for e in self.evaluations}
        return [newest.get(epoch) for epoch in range(1, self.epoch + 1)]

    def summary(self) -> dict[str, Any]:
        """The part of summary.json that is counted."""
        seconds, last = self.train_seconds, self.evaluations[-1] if self.evaluations else None
        by_rank, data = sorted(self.workers.items()), self.data
        spent = [counts.spent_s for counts in self.workers.values()]
        waiting = wait_fraction(sum(w for w, _ in spent), sum(c for _, c in spent))
        return {
            "epochs": self.epoch,
            "steps": self.steps,
            "samples": self.samples,
            "samples_twice": self.samples_twice,
            "healed_chunks": self.healed_chunks,
            "lost_updates": self.lost_updates,
            "train_seconds": round(seconds, 3),
            "steps_per_second": round(self.steps / seconds, 2) if seconds > 0 else 0.0,
            "test_accuracy": last.accuracy if last else None,
            "test_loss": last.loss if last else None,
            "test_accuracy_by_epoch": self.accuracy_by_epoch(),
            "max_lag": data.max_lag,
            "mean_staleness": round(data.mean_staleness, 3),
            "max_staleness": data.max_staleness,
            "steps_by_worker": {str(w): c.steps for w, c in by_rank},
            "wait_fraction": _rounded(waiting),
            "wait_fraction_by_worker": {
                str(w): _rounded(wait_fraction(*c.spent_s)) for w, c in by_rank
            },
            "groups": self.groups,
            "bytes_pushed": data.bytes_pushed,
            "bytes_answered": data.bytes_answered,
            "duplicate_pushes": data.duplicates,
            "nonfinite_chunks": data.nonfinite_chunks,
            "dropped_pushes": data.dropped,
            "refused_messages": data.refused,
            "refused_connections": data.refusals[STRANGERS],
            "failed_messages": data.refusals[ProtocolError.code],
            "failures": data.refusals[ProtocolError.code] + data.refusals[FAILED_HERE],
            "closed_connections": data.refusals[CLOSED],
            "evictions": self.evictions,
        }

    def worker_state(self, worker: int) -> dict[str, Any]:
        """The counts of one worker, for a row of the live table."""
        counts = self.workers[worker]
        return {
            "worker": worker,
            "step": counts.steps,
            "epoch": counts.epoch,
            "lag": counts.lag,
            "samples": counts.samples,
            "samples_per_s": round(self._rate(counts), 1),
            "loss": counts.loss,
            "wait_fraction": _rounded(wait_fraction(*counts.spent_s)),
        }

    def _tell_training(self, counts: WorkerCounts, msg: Report) -> None:
        """Writes a report as an event, but not each: they come several times a second."""
        now = self._now()
        if now - counts.told_s >= TRAINING_EVENT_S:
            counts.told_s = now
            self.events.write(
                "training", worker=msg.worker, step=msg.step, samples=msg.samples,
                loss=_number(msg.loss), compute_s=_number(msg.compute_s),
                wait_s=_number(msg.wait_s),
            )  # fmt: skip

    def _measure_rate(self, counts: WorkerCounts) -> None:
        now = self._now()
        if now - counts.mark_s >= RATE_SPAN_S:
            new_samples = counts.samples - counts.mark_samples
            counts.samples_per_s = new_samples / (now - counts.mark_s)
            counts.mark_s, counts.mark_samples = now, counts.samples

    def _rate(self, counts: WorkerCounts) -> float:
        """The samples a second of the newest span, or of what there is of the first one."""
        if counts.samples_per_s:
            return counts.samples_per_s
        new_samples, span_s = counts.samples - counts.mark_samples, self._now() - counts.mark_s
        return new_samples / span_s if span_s > 0 else 0.0

    def _records(self, step: int) -> bool:
        return self._step_events > 0 and step % self._step_events == 0


def _rounded(share: float | None) -> float | None:
    return None if share is None else round(share, 4)


def _number(value: float) -> float | None:
    """The number; None for one that JSON cannot write."""
    return value if math.isfinite(value) else None
