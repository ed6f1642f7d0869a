"""Answers the control socket's messages: decides who takes part, and knows how the run stands.

::

    waiting ──every expected worker is here──▸ started ──all have left──▸ finished ──▸ closed
                                                  └──stop(reason)────────────────────▸ closed
"""

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final, TypeAlias

import msgpack

from leash.ps.errors import (
    HeaderError,
    LayoutError,
    PayloadSizeError,
    ShardLostError,
    StoppingError,
    UsageError,
    shown,
)
from leash.ps.options.addresses import shown_learners
from leash.ps.options.optimizer import optimizer_on_server
from leash.ps.options.outer_optimizer import outer_of
from leash.ps.options.plan import LEASE
from leash.ps.options.server import ServerOptions
from leash.ps.options.staleness import check_softens
from leash.ps.policy import BACKUP, BSP, Rule, rule_from_message
from leash.ps.recovery.recovery import Recovery
from leash.ps.runs.journal import Journal, Remembered
from leash.ps.runs.position import Position
from leash.ps.runs.unfinished import Unfinished, ranges
from leash.ps.runs.unwritten import Unwritten
from leash.ps.server.leases.lease_desk import LeaseDesk
from leash.ps.server.saves import Saves
from leash.ps.server.settings import run_settings
from leash.ps.server.shards.shards import Shards
from leash.ps.shard.crew import TOLD_BY_COMMAND, Crew
from leash.ps.shard.holdups import HoldUps
from leash.ps.shard.identities import NOBODY, Identities
from leash.ps.shard.members import Member, Members
from leash.ps.shard.metrics import Metrics
from leash.ps.shard.rank_giver import RankGiver
from leash.ps.wire.codecs import CODECS
from leash.ps.wire.frames import error_message
from leash.ps.wire.layout import Layout
from leash.ps.wire.messages import (
    STACK_MAX_NBYTES,
    TEXT_MAX,
    Beat,
    Beaten,
    Bye,
    CheckpointPiece,
    Dismiss,
    Dismissed,
    Hello,
    Lease,
    Message,
    Ok,
    Read,
    Remember,
    Report,
    Save,
    Saved,
    Set,
    State,
    Status,
    Stop,
    Welcome,
)
from leash.ps.words import (
    BYE_REASONS,
    DONE,
    EVICTED,
    LIVE,
    REPLACED,
    TIMED_OUT,
    WAITING,
    is_good_end,
    stopped_for,
)

MAX_MISSING: Final = 256
BEATS_PER_EVICTION: Final = 5
STACKS_MAX_NBYTES: Final = 1 << 18  # in one `state`
REPORT_KINDS: Final = ("plan", "training", "epoch", "evaluation")
ControlAnswer: TypeAlias = tuple[Message, bytes | None]
Handler: TypeAlias = Callable[[Message, bytes | None], ControlAnswer]

ALL_DONE: Final = "all of its work is done; a new run needs a new server"
ALL_GONE: Final = "all workers are gone"


class Coordinator:
    """Answers control messages. It has no sockets, so that tests need none."""

    def __init__(
        self,
        options: ServerOptions,
        rule: Rule,
        members: Members,
        metrics: Metrics,
        shards: Shards,
        now: Callable[[], float] = time.monotonic,
        holdups: HoldUps | None = None,
        identities: Identities | None = None,
    ) -> None:
        self.stopping: str = ""
        self.asked_to_stop: str = ""  # why the run is to end that somebody has asked to end
        self.saves: Saves = Saves(now, is_possible=False)  # whoever writes checkpoints gives others
        self.unwritten: Unwritten = Unwritten()  # likewise
        self.is_writing = False  # whether the run is over, and its results are being written
        self.journal: Journal = Journal(None)  # whoever has a run directory gives another
        self._options: Final = options
        self.rule: Rule = rule  # the one that the run goes by now
        self._members: Final = members
        self._metrics: Final = metrics
        self._shards: Final = shards
        self._identities: Final = identities or Identities(None, members)
        self._now: Final = now
        self.holdups: Final = holdups or HoldUps(members, now)
        self._desk: Final = LeaseDesk(options, rule.policy.name, members, metrics, shards)
        self._codecs: Final[set[str]] = set()  # in which workers send gradients
        self._deserted_s: float | None = None  # since when no worker has been live
        self._generation = 0  # how many servers the run has had; 0 without a journal
        self._remembered: Remembered = Remembered()  # by the servers before this one
        self._died_in_lockstep = False  # whether that was under bsp
        self._recovery: Recovery | None = None  # until those who took part there go on
        self.rank_giver: Final = RankGiver(members, self._identities)
        self.crew: Final = Crew(options, members, metrics, self._trains_on)
        self._handlers: Final = {
            Beat: self._on_beat,
            Lease: self._on_lease,
            Report: self._on_report,
            Remember: self._on_remember,
            Status: self._on_status,
            Set: self._on_set,
            Save: self._on_save,
            Read: self._on_read,
            Stop: self._on_stop,
            Bye: self._on_bye,
            Dismiss: self._on_dismiss,
        }

    def answer(self, message: Message, payload: bytes | None, user: str = NOBODY) -> ControlAnswer:
        """Answers a control message. No message ends the run.

        Args:
            message: the request.
            payload: of it, if it has one.
            user: the public key of its sender, if the socket takes those alone who have one.
        """
        try:
            self._identities.require(message, user)
            if isinstance(message, Hello):
                return self._on_hello(message, payload, user)
            handler: Handler = self._handlers[type(message)]  # type: ignore[assignment]
            return handler(message, payload)
        except Exception as error:
            refusal = self._metrics.refusal(error)
            self._metrics.count_refusal(refusal)
            return error_message(refusal, getattr(message, "worker", 0)), None

    # Messages.

    def _on_hello(self, msg: Hello, payload: bytes | None, user: str) -> ControlAnswer:
        _require_role(msg)
        if msg.role == "worker" and payload is None:
            raise LayoutError("hello: expected the worker's layout as payload")
        msg = self._with_rank(msg, user)
        self._require_open(msg.worker)
        # All checks come first: a hello that is refused must not choose the run's model.
        codec = _agreed_codec(msg.codecs)
        if (again := self._members.greeted(msg.worker, msg.number, user)) is not None:
            return self._welcome(again, codec), self._layout_payload()
        self._members.require_room(msg.worker)
        layout = Layout.unpack(payload) if payload is not None else None
        if layout is not None:
            self._shards.require_layout(layout)
        earlier = self._members.workers.get(msg.worker)
        member, before = self._members.hello(
            msg.worker, msg.name, msg.number, user, msg.place, msg.seat
        )
        if before is not None:
            self._leave(before, REPLACED)
        try:
            if self._recovery is not None and not member.is_observer:
                self._shards.admit(member)
                member.was_early = True
            else:
                member.first_step = self._shards.join(member)
        except ShardLostError:
            self._members.forget(member)  # no shard waits for it, and metrics do not know it
            raise
        self._identities.bind(member.worker, user)
        if not member.is_observer:
            self.journal.joined(member.worker, member.incarnation, user, member.place)
            self.rank_giver.note(member.worker, member.place)
        if self._recovery is not None and not member.is_observer:
            self._metrics.expect(member.worker)
        else:
            self._metrics.join(member.worker, member.incarnation, member.name, member.first_step)
        if not member.is_observer:
            self._codecs.add(codec)
            if epochs := self._metrics.position_of(member.worker).epochs:
                self.journal.epoch(member.worker, epochs)  # it is told now that those are done
            self.crew.joined(member, is_back=earlier is not None and earlier.state == EVICTED)
        self._start_if_complete()
        return self._welcome(member, codec), self._layout_payload()

    def _with_rank(self, msg: Hello, user: str) -> Hello:
        """Puts a rank into a hello that takes any. Raises StoppingError, or what refuses it."""
        if not msg.any_rank:
            return msg
        if self.stopping or self.finished:
            raise StoppingError(self.stopping or ALL_DONE)
        given = replace(msg, worker=self.rank_giver.rank_for(msg, user), any_rank=False)
        self._identities.require(given, user)
        return given

    def _require_open(self, worker: int) -> None:
        """Raises StoppingError if the run is over for a newcomer of this rank."""
        if worker and self.stopping:
            raise StoppingError(self.stopping)
        before = self._members.workers.get(worker)
        was_done = self._members.come_and_go if before is None else before.state == DONE
        if self.closed or (self.finished and was_done):
            raise StoppingError(self.stopping or ALL_DONE)

    def _on_beat(self, msg: Beat, payload: bytes | None) -> ControlAnswer:
        stack = "" if payload is None else _checked_stack(payload)
        member = self._members.require_current(msg.worker, msg.incarnation)
        self._members.note_phase(member, msg.phase, msg.phase_s, stack)
        # A good end ends the workers' training at once; an observer first evaluates once more.
        ends_now = not (member.is_observer and is_good_end(self.stopping))
        missing = [] if self._metrics.started else self._missing()[:MAX_MISSING]
        beaten = Beaten(
            self._metrics.started,
            missing,
            self._initializer == msg.worker,
            self._shards.initialized,
            self._metrics.epoch,
            self.finished,
            self.stopping if ends_now else "",
            self.holdups.words()[:TEXT_MAX] if msg.phase == WAITING else "",
            self.holdups.wants_stack(member),
            member.first_step if member.was_early else 0,
            member.told,
        )
        return beaten, None

    def _on_lease(self, msg: Lease, _: bytes | None) -> ControlAnswer:
        member = self._members.require_current(msg.worker, msg.incarnation)
        if self.stopping:
            raise StoppingError(self.stopping)
        leased = self._desk.lease(member, msg, lockstep=self.rule.policy.average)
        self._desk.complete_epochs()
        return leased, None

    def _on_report(self, msg: Report, _: bytes | None) -> ControlAnswer:
        member = self._members.require_counted(msg.worker, msg.incarnation)
        if msg.kind not in REPORT_KINDS or (msg.kind == "evaluation") != member.is_observer:
            raise HeaderError(f"report.kind: not for this process: {msg.kind!r}")
        if not msg.number or msg.number > member.reported:  # otherwise it has come before
            member.reported = msg.number
            self._count_report(member, msg)
        return Ok(msg.worker, 0, 0, True), None

    def _on_remember(self, msg: Remember, _: bytes | None) -> ControlAnswer:
        self._members.require_current(msg.worker, msg.incarnation)
        is_awaited = self._recovery is not None and msg.worker > 0
        if self._recovery is not None and is_awaited:
            self._recovery.take(msg)
            self._end_recovery_if_over()
        return Ok(msg.worker, 0, 0, is_awaited), None

    def _on_status(self, msg: Status, _: bytes | None) -> ControlAnswer:
        if msg.stacks:
            self.holdups.ask_all()
        return State(), msgpack.packb(self.state())

    def _on_set(self, msg: Set, _: bytes | None) -> ControlAnswer:
        try:
            rule = rule_from_message(
                msg.policy, msg.staleness, msg.staleness_max, msg.backup_workers, msg.bound_unit
            )
            rule.require_workers(self._options.least)
            check_softens(self._options, optimizer_on_server(self._options), rule)
        except UsageError as error:
            raise HeaderError(f"set: {error}") from error
        if rule != self.rule:
            self.journal.rule(rule)
            self.go_by(rule)
        return Ok(0, 0, 0, True), None

    def _on_save(self, msg: Save, _: bytes | None) -> ControlAnswer:
        if self._shards.model is not None and not self._shards.initialized:
            self._shards.count_up()  # a shard may have its values, and not have told so yet
        # What a server has that was started again is its workers' only once all have offered it.
        has_values = self._shards.initialized and self._recovery is None
        nbytes = self.saves.ask(msg.number, has_values=has_values)
        return Saved(msg.number, nbytes is not None, nbytes or 0), None

    def _on_read(self, msg: Read, _: bytes | None) -> ControlAnswer:
        return CheckpointPiece(msg.number, msg.offset), self.saves.read(msg.number, msg.offset)

    def _on_stop(self, msg: Stop, _: bytes | None) -> ControlAnswer:
        self.asked_to_stop = self.asked_to_stop or stopped_for(msg.reason)[:TEXT_MAX]
        return Ok(0, 0, 0, True), None

    def _on_bye(self, msg: Bye, _: bytes | None) -> ControlAnswer:
        if msg.reason not in BYE_REASONS:
            raise HeaderError(f"bye.reason: expected one of {', '.join(BYE_REASONS)}, "
                              f"got {msg.reason!r}")  # fmt: skip
        if not self._members.has_said_bye(msg.worker, msg.incarnation, msg.reason):
            member = self._members.require_counted(msg.worker, msg.incarnation)
            member.told = msg.why or member.told
            if member.state == EVICTED:
                self._count_bye(member, msg.reason)
            else:
                self._leave(member, msg.reason)
        return Ok(msg.worker, 0, 0, True), None

    def _on_dismiss(self, msg: Dismiss, _: bytes | None) -> ControlAnswer:
        if bool(msg.worker) == bool(msg.host):
            raise HeaderError("dismiss: expected a rank, or a host")
        live = self._members.at(msg.host)
        if msg.worker:
            live = [member for member in self._members.live if member.worker == msg.worker]
        for member in live:
            member.told = member.told or TOLD_BY_COMMAND
        return Dismissed([member.worker for member in live[:MAX_MISSING]]), None

    # Time.

    def tick(self) -> None:
        """Evicts members that have been silent for too long, or whose key was revoked.

        Call it a few times a second.
        """
        for member in self._members.silent():
            self._leave(member, EVICTED)
        for member in self._identities.revoked():
            self._leave(member, EVICTED)
        self._end_recovery_if_over()
        self.crew.look(self.rule)
        self._look_who_waits()
        if self.rule.policy is BACKUP and self.trains and not self.stopping:
            self._end_stall()
        if not self._metrics.started or self._members.any_live:
            self._deserted_s = None
        elif self._deserted_s is None:
            self._deserted_s = self._now()

    def _look_who_waits(self) -> None:
        """Notes for whom others wait; evicts those that hang, if that was asked for."""
        is_waiting = self._shards.parked > 0
        clocks = self._shards.clocks(self._trains_on) if is_waiting else {}
        self.holdups.look(clocks, is_waiting=is_waiting)
        if self._options.stall_s is not None:
            for worker in self.holdups.stalled(self._options.stall_s):
                self.evict(worker)

    def _end_stall(self) -> None:
        live = [member.worker for member in self._members.live]
        with suppress(ShardLostError):  # the loop hears of that too
            if self._shards.end_stall(live, self._now()):
                self._metrics.stall_ended(live)

    @property
    def deserted(self) -> bool:
        """Whether all workers have left before they were done, and none has come back in time."""
        if self._deserted_s is None or self.finished:
            return False
        return self._now() - self._deserted_s > self._options.rejoin_s

    @property
    def finished(self) -> bool:
        """Whether training is over: nobody is live, and nobody is to come back.

        One of them has come to the end of its work, or all that was asked for is trained.
        """
        if not self._metrics.started or self._members.any_live:
            return False
        if self.stopping:
            return True
        over = self._members.any_done or self._is_all_trained()
        return over and not self.coming_back

    @property
    def coming_back(self) -> list[int]:
        """The ranks that were evicted a while ago and owe work, where nobody works any more."""
        if not self._metrics.started or self._members.any_live:
            return []
        since_s = self._now() - self._options.rejoin_s
        away = {
            member.worker for member in self._members.workers.values()
            if member.state == EVICTED and member.left_s >= since_s
        }  # fmt: skip
        return sorted(p.worker for p in self.unfinished() if p.worker in away) if away else []

    def _is_all_trained(self) -> bool:
        """Whether it is known what was to be trained, and all of it is."""
        planned = (counts.planned_epochs for counts in self._metrics.workers.values())
        is_known = self._desk.is_used_up() or all(planned)
        return is_known and not self.unfinished()

    @property
    def closed(self) -> bool:
        """Whether the run is over and all observers have left too, so that the server may end."""
        gone = not self._members.any_live and not self._members.observers
        return gone and (self.finished or bool(self.stopping))

    @property
    def data_plan(self) -> str:
        """The data plan that the workers follow: leases, if any of them has asked for one."""
        return self._desk.data_plan

    def unfinished(self) -> list[Unfinished]:
        """What this run was asked to train, as far as it is known, and has not trained by now."""
        if not self._metrics.started:
            return []
        states = {member.state for member in self._members.workers.values()}
        of_leases = TIMED_OUT if TIMED_OUT in states and states <= {DONE, TIMED_OUT} else ""
        shares = [self._unfinished_share(member) for member in self._members.workers.values()]
        return [*self._desk.unfinished(of_leases), *(part for part in shares if part is not None)]

    def evict(self, worker: int) -> None:
        """Evicts a worker that broke the contract."""
        member = self._members.workers.get(worker)
        if member is not None and member in self._members.live:
            self._leave(member, EVICTED)

    # Going on.

    def go_by(self, rule: Rule) -> None:
        """Has the run go by this rule from now on."""
        self.rule = rule
        # First, so that its event comes before those of the replies that it releases.
        self._metrics.set_rule(rule)
        self._shards.set_rule(rule)

    @property
    def trains(self) -> bool:
        """Whether there are workers that train now."""
        return self._metrics.started and self._members.any_live

    @property
    def in_lockstep(self) -> bool:
        """Whether workers now train by bsp, so that between two steps all chunks are alike."""
        return self.rule.policy is BSP and self.trains

    def position(self) -> Position:
        """How far the training is."""
        return Position(
            self._options.chosen_seed, self._metrics.epoch, self._metrics.shares(),
            self._desk.position(), self._anew(), self._generation,
        )  # fmt: skip

    def go_on(self, earlier: Position, *, has_died: bool = False) -> None:
        """Goes on where another run was. REQUIRES: no worker has joined yet.

        Args:
            earlier: where that is.
            has_died: it is this run, whose server has died, and may have been about to end.

        Raises:
            UsageError: the samples are shuffled otherwise now, or nothing is left to train.
        """
        earlier.require_seed(self._options.chosen_seed)
        if not has_died:
            earlier.require_epochs(self._options.epochs)
        if not (earlier.shares or earlier.leases):
            return  # loops of people's own, which know how far they were
        has_leases = self._desk.planned == LEASE
        position = earlier.for_ranks(self._members.ranks, has_leases=has_leases)
        self._metrics.go_on(position)
        if position.leases is not None:
            self._desk.go_on(position.leases)

    def recover(self, remembered: Remembered, journal: Journal, generation_of_values: int) -> None:
        """Goes on with a run whose server has died. REQUIRES: no worker has joined yet.

        Args:
            remembered: by the servers before this one.
            journal: where this one notes what a later one has to know; it has begun.
            generation_of_values: of the server that had the values which the shards have; 0 if
                they have none.
        """
        self.journal = self._desk.journal = journal
        self._generation, self._remembered = remembered.generation + 1, remembered
        self._identities.ranks.update(remembered.keys)
        self._metrics.healed_chunks = remembered.healed_chunks
        self._metrics.lost_updates = remembered.lost_updates
        self._metrics.go_on_with_plans(remembered.planned)
        self.expect_no_more(remembered.done)
        if remembered.started and remembered.awaited:
            until_s = self._now() + self._options.evict_s
            self._recovery = Recovery(remembered.awaited, until_s)
            self._shards.begin_healing(generation_of_values)
            self._died_in_lockstep = (remembered.rule or self.rule).policy is BSP
            return
        self._note_position()
        planned = self._options.epochs
        if remembered.started and planned is not None and self._metrics.epoch >= planned:
            self._note_absent()
            self._start([])  # all is trained, and all have said bye

    def _end_recovery_if_over(self) -> None:
        """Has the workers go on, once all have told what they remember, or enough have."""
        live = [member.worker for member in self._members.live]
        if self._recovery is None or not self._recovery.is_over(live, self._now()):
            return
        recovery, self._recovery = self._recovery, None
        chunks = self._shards.healed_chunks
        if chunks:
            self._restore(recovery)
        else:
            self._note_position()  # what was trained after the checkpoint is lost
        in_lockstep = self.rule.policy is BSP and self._died_in_lockstep
        if in_lockstep:
            self._shards.begin_at_healed()
        for member in self._members.live:
            member.first_step = self._shards.join(member)
            self._metrics.join(member.worker, member.incarnation, member.name, member.first_step)
        if in_lockstep:
            self._shards.skip_healed()
        self._note_absent()
        self.journal.healed(chunks, recovery.lost)
        self._metrics.heal(self._generation, live, chunks, recovery.lost)
        self._start(live)

    def _note_position(self) -> None:
        """Notes in the journal that the run goes on from a checkpoint, or begins anew."""
        self._desk.note_position()
        self.journal.shares_at(self._metrics.shares())

    def _note_absent(self) -> None:
        """Knows who has not come, and may owe work: whoever took part counts as evicted."""
        for rank, state in self._remembered.states.items():
            if rank not in self._members.workers:
                self._members.remember(rank, EVICTED if state == LIVE else state)
                if state == LIVE:
                    self.journal.left(rank, 0, EVICTED)
                self._metrics.expect(rank)
        self._desk.complete_epochs()

    def _restore(self, recovery: Recovery) -> None:
        """Goes by the journal, as the model has what was trained after the checkpoint too."""
        told = recovery.told
        newest = {worker: (own.lease, own.answered) for worker, own in told.items()}
        self._desk.restore(self._remembered.leases, newest)
        self._metrics.restore(self._remembered.shares, told)
        self._desk.complete_epochs()

    def _missing(self) -> list[int]:
        """The ranks without whom training does not begin."""
        if self._recovery is None:
            return self._members.missing
        live = [member.worker for member in self._members.live]
        return self._recovery.missing(live, self._now())

    def expect_no_more(self, ranks: Iterable[int]) -> None:
        """Does not wait for workers which an earlier server of this run has seen off as done.

        What they have trained after the checkpoint, or in an epoch that is planned no more, they
        would have to train again, so of those that have a share only the ones count that are
        through with it.
        """
        shares, planned = self._metrics.shares(), self._options.epochs
        for rank in ranks:
            if planned is not None and rank in shares and shares[rank].epochs >= planned:
                self._members.expect_no_more(rank)

    def _anew(self) -> list[str]:
        """What begins anew in a run that goes on from here."""
        keeping = sorted(name for name in self._codecs if CODECS[name].value_nbytes is None)
        rounding = sorted(self._codecs - {*keeping, "f32"})
        anew = [f"what {name} has left over of gradients" for name in keeping]
        anew += [f"what workers have of parameters, rounded to {name}" for name in rounding]
        if outer_of(self._options) is not None:
            anew.append("the workers' own optimizers")
        return anew

    # For people.

    def state(self) -> dict[str, Any]:
        """How the run stands: the payload of `state`; docs/wire-format.md lists its keys."""
        summary = self._metrics.summary()
        rows = [self._worker_row(member) for _, member in sorted(self._members.workers.items())]
        _fit_stacks(rows)
        return {
            **summary,
            **self._settings(),
            "learners": shown_learners(self._members.ranks, None),
            "started": self._metrics.started,
            "finished": self.finished,
            "unfinished": [u.as_dict() for u in self.unfinished()] if self.finished else [],
            "stopping": self.stopping,
            "missing": [] if self._metrics.started else self._missing(),
            "observers": len(self._members.observers),
            "shards": self._options.shards,
            "data_ports": self._shards.ports,
            "chunk_nbytes": self._options.chunk_nbytes,
            "initialized": self._shards.initialized,
            "model_nbytes": self._shards.layout.nbytes if self._shards.layout else 0,
            "parked": self._shards.parked,
            "not_written": self.unwritten.lasting,
            "writing": self.is_writing,
            "awaited": self.holdups.as_dicts(),
            "coming_back": self.coming_back,
            "most_at_once": self.crew.most_at_once,
            "table": rows,
        }

    # How it is done.

    def _trains_on(self, worker: int) -> bool:
        """Whether this rank is live, and has not come to rest."""
        member = self._members.workers.get(worker)
        return member is not None and self._desk.state_of(member) == LIVE

    def _count_bye(self, member: Member, reason: str) -> None:
        """Notes how a worker has left that was evicted before it could say so."""
        self._members.leave(member, reason)
        self.journal.left(member.worker, member.incarnation, reason)
        self._metrics.leave(member.worker, member.incarnation, reason)
        self._desk.complete_epochs()

    def _count_report(self, member: Member, msg: Report) -> None:
        if member.is_observer:
            self._metrics.evaluate(msg)
        else:
            self._metrics.report(msg)
            if msg.kind == "plan":
                self.journal.plan(msg.worker, msg.samples, msg.epoch)
            elif msg.kind == "epoch":
                self.journal.epoch(msg.worker, msg.epoch)
            self._desk.complete_epochs()

    def _leave(self, member: Member, state: str) -> None:
        self._members.leave(member, state)
        self._metrics.leave(member.worker, member.incarnation, state)
        self._shards.leave(member, state)
        if not member.is_observer:
            self.journal.left(member.worker, member.incarnation, state)
            if not self.stopping:
                self.crew.left(member)
            self._metrics.workers[member.worker].complete_answered()
            self._desk.release(
                member.worker, lockstep=self.rule.policy.average, is_stopping=bool(self.stopping)
            )
            self._desk.complete_epochs()
            if self._metrics.started and not self._members.any_live:
                self._metrics.end()
                # Who hears that training is over also hears whether there is a model to evaluate:
                # a short run ends before the other shards' next counts come by themselves.
                with suppress(ShardLostError):  # the loop ends a run that has lost a shard
                    self._shards.count_up()

    def _unfinished_share(self, member: Member) -> Unfinished | None:
        """What is left of this worker's own share; None if it is nothing, or it has no share."""
        counts = self._metrics.workers[member.worker]
        if counts.planned_epochs:
            epochs, samples = counts.epochs_left, counts.samples_left
            if not epochs:
                return None
            return Unfinished(member.worker, member.state, ranges(epochs), samples)
        # A loop of the user's own has told no plan: it alone knows whether it is done. What a
        # worker with leases has not done others do, and so it is where statistics are summed (EM).
        others_do_it = self._desk.data_plan == LEASE or self._options.optimizer == "sum"
        if member.state == DONE or others_do_it:
            return None
        return Unfinished(member.worker, member.state, "", None)

    @property
    def _initializer(self) -> int | None:
        """The rank that is to send the first values of every chunk: the lowest live one."""
        live = self._members.live
        awaited = self._metrics.started and not self._shards.initialized
        return live[0].worker if awaited and live else None

    def _start_if_complete(self) -> None:
        complete = len(self._members.observers) >= self._options.observers
        if self._recovery is not None or self._metrics.started:
            return
        if complete and not self._members.missing:
            self._start([member.worker for member in self._members.live])

    def _start(self, live: list[int]) -> None:
        self.journal.started()
        self._metrics.start(live)
        self._shards.start()

    def _welcome(self, member: Member, codec: str) -> Welcome:
        begins_at = self._metrics.position_of(member.worker)
        return Welcome(
            member.worker,
            member.incarnation,
            member.first_step,
            chunk_nbytes=self._options.chunk_nbytes,
            window=self._options.window,
            data_ports=self._shards.ports,
            beat_s=self._options.evict_s / BEATS_PER_EVICTION,
            evict_s=float(self._options.evict_s),
            settings=self._settings(),
            first_chunks=self._shards.first_chunks,
            codec=codec,
            epochs=begins_at.epochs,
            samples=begins_at.samples,
            share=begins_at.share,
            generation=self._generation,
            heals=self._recovery is not None,
        )

    def _layout_payload(self) -> bytes | None:
        return self._shards.layout.pack() if self._shards.layout else None

    def _settings(self) -> dict[str, Any]:
        return run_settings(self._options, self.rule, self._members.ranks, self._desk.planned)

    def _worker_row(self, member: Member) -> dict[str, Any]:
        return {
            **self._metrics.worker_state(member.worker),
            "name": member.name,
            "incarnation": member.incarnation,
            "state": self._desk.state_of(member),
            **self.holdups.row_of(member),
            "silence_s": round(self._members.silence_s(member), 1),
        }


def _require_role(msg: Hello) -> None:
    """Checks that a hello is a worker's with a rank, or an observer's. Raises HeaderError."""
    is_right = (msg.worker == 0) if msg.role == "observer" else bool(msg.worker or msg.any_rank)
    if msg.role not in ("worker", "observer") or not is_right:
        raise HeaderError(
            "hello: expected role worker with a rank from 1, or role observer with worker 0, "
            f"got {msg.role!r} and {msg.worker}"
        )
    if msg.any_rank and msg.role == "observer":
        raise HeaderError("hello.any_rank: an observer has no rank")


def _fit_stacks(rows: list[dict[str, Any]]) -> None:
    """Leaves out the stacks of the last rows, where all of them would be too much for a message."""
    room = STACKS_MAX_NBYTES
    for row in rows:
        room -= len(row["stack"].encode())
        if room < 0:
            row["stack"], row["stack_s"] = "", None


def _checked_stack(payload: bytes) -> str:
    """Reads the payload of a `beat`. Raises PayloadSizeError."""
    if len(payload) > STACK_MAX_NBYTES:
        raise PayloadSizeError(
            f"beat: expected at most {STACK_MAX_NBYTES} bytes of a stack, got {len(payload)}"
        )
    return payload.decode(errors="replace")


def _agreed_codec(offered: list[str]) -> str:
    """Chooses the first offered codec for gradients that this server knows, or HeaderError."""
    known = [name for name, codec in CODECS.items() if codec.dtype == "f32"]
    for name in offered:
        if name in known:
            return name
    raise HeaderError(f"hello.codecs: expected one of {', '.join(known)}, got {shown(offered)}")
