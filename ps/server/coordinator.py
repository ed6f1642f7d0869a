"""Answers the control socket's messages: decides who takes part, and knows how the run stands.

::

    waiting ──every expected worker is here──▸ started ──all have left──▸ finished ──▸ closed
                                                  └──stop(reason)────────────────────▸ closed
"""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final, TypeAlias

import msgpack

from leash.ps.errors import (
    HeaderError,
    ShardLostError,
    StoppingError,
)
from leash.ps.options.server import ServerOptions
from leash.ps.policy import BACKUP, BSP, Rule
from leash.ps.runs.journal import Journal, Remembered
from leash.ps.runs.position import SharePosition
from leash.ps.runs.unfinished import Unfinished
from leash.ps.server.checks import (
    agreed_codec,
    checked_rule,
    checked_stack,
    require_kind,
    require_role,
)
from leash.ps.server.continuation import Continuation
from leash.ps.server.leases.lease_desk import LeaseDesk
from leash.ps.server.leases.work_left import WorkLeft
from leash.ps.server.saves import Saves
from leash.ps.server.shards.shards import Shards
from leash.ps.server.standing import Standing
from leash.ps.shard.crew import TOLD_BY_COMMAND, Crew
from leash.ps.shard.holdups import HoldUps
from leash.ps.shard.identities import NOBODY, Identities
from leash.ps.shard.members import Member, Members
from leash.ps.shard.metrics import Metrics
from leash.ps.shard.rank_giver import RankGiver
from leash.ps.trackers.logged import Logged
from leash.ps.wire.frames import error_message
from leash.ps.wire.layout import Layout
from leash.ps.wire.messages import (
    TEXT_MAX,
    Beat,
    Beaten,
    Bye,
    CheckpointPiece,
    Dismiss,
    Dismissed,
    Hello,
    Lease,
    Log,
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
    WAITING,
    is_good_end,
    stopped_for,
)

MAX_MISSING: Final = 256
BEATS_PER_EVICTION: Final = 5
ControlAnswer: TypeAlias = tuple[Message, bytes | None]
Handler: TypeAlias = Callable[[Message, bytes | None], ControlAnswer]

ALL_DONE: Final = "all of its work is done; a new run needs a new server"
ALL_GONE: Final = "all workers are gone"


class Coordinator:
    """Answers control messages. It has no sockets, so that tests need none.

    Attributes:
        stopping: why the run ends, as members are told; empty while it goes on.
        asked_to_stop: why the run is to end that somebody has asked to end.
        saves: the checkpoints that somebody has asked for; whoever writes any gives others.
        journal: where joins, leaves and rules are noted; whoever has a run directory gives another.
        rule: the one that the run goes by now.
        holdups: for whom others wait.
        rank_giver: gives ranks to those who take any.
        crew: who has come and gone.
        work_left: what is left to train.
        continuation: how the run goes on where it was before.
        logged: what the workers' loops log.
        standing: what people hear of the run.
    """

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
        self.asked_to_stop: str = ""
        self.saves: Saves = Saves(now, is_possible=False)
        self.journal: Journal = Journal(None)
        self._options: Final = options
        self.rule: Rule = rule
        self._members: Final = members
        self._metrics: Final = metrics
        self._shards: Final = shards
        self._identities: Final = identities or Identities(None, members)
        self._now: Final = now
        self.holdups: Final = holdups or HoldUps(members, now)
        self._desk: Final = LeaseDesk(options, rule.policy.name, members, metrics, shards)
        self.rank_giver: Final = RankGiver(members, self._identities)
        self.crew: Final = Crew(options, members, metrics, self._trains_on)
        self.work_left: Final = WorkLeft(options, members, metrics, self._desk, now)
        self.continuation: Final = Continuation(options, members, metrics, shards, self._desk, now)
        self.logged: Final = Logged(metrics.events, now)
        self.standing: Final = Standing(
            options, members, metrics, shards, self._desk, self.holdups, self.crew, self.work_left,
            self.logged,
        )  # fmt: skip
        self._handlers: Final = {
            Beat: self._on_beat,
            Lease: self._on_lease,
            Report: self._on_report,
            Log: self._on_log,
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
        require_role(msg, payload)
        msg = self._with_rank(msg, user)
        self._require_open(msg.worker)
        # All checks come first: a hello that is refused must not choose the run's model.
        codec = agreed_codec(msg.codecs)
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
            if self.continuation.recovers and not member.is_observer:
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
        if self.continuation.recovers and not member.is_observer:
            self._metrics.expect(member.worker)
        else:
            self._metrics.join(member.worker, member.incarnation, member.name, member.first_step)
        if not member.is_observer:
            self.continuation.note_codecs(codec, msg.answer)
            self._note_epochs(member.worker)  # it is told now that those are done
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
        stack = checked_stack(payload)
        member = self._members.require_current(msg.worker, msg.incarnation)
        self._members.note_phase(member, msg.phase, msg.phase_s, stack)
        # A good end ends the workers' training at once; an observer first evaluates once more.
        ends_now = not (member.is_observer and is_good_end(self.stopping))
        missing = self._missing()[:MAX_MISSING]
        first_step, position = 0, SharePosition()
        if member.was_early and self._metrics.started:
            first_step = member.first_step
            position = self._metrics.position_of(msg.worker)
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
            first_step,
            member.told,
            position.epochs,
            position.samples,
            position.share,
            member.in_step,
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
        require_kind(msg, is_observer=member.is_observer)
        if not msg.number or msg.number > member.reported:  # otherwise it has come before
            member.reported = msg.number
            self._count_report(member, msg)
        return Ok(msg.worker, 0, 0, True), None

    def _on_log(self, msg: Log, payload: bytes | None) -> ControlAnswer:
        member = self._members.require_counted(msg.worker, msg.incarnation)
        if member.is_observer:
            raise HeaderError("log: expected a worker")
        is_new = self.logged.take(msg, payload) if payload else False
        return Ok(msg.worker, 0, 0, is_new), None

    def _on_remember(self, msg: Remember, _: bytes | None) -> ControlAnswer:
        self._members.require_current(msg.worker, msg.incarnation)
        is_awaited = self.continuation.take(msg)
        if is_awaited:
            self._end_recovery_if_over()
        return Ok(msg.worker, 0, 0, is_awaited), None

    def _on_status(self, msg: Status, _: bytes | None) -> ControlAnswer:
        if msg.stacks:
            self.holdups.ask_all()
        return State(), msgpack.packb(self.state())

    def _on_set(self, msg: Set, _: bytes | None) -> ControlAnswer:
        if self.stopping:
            raise StoppingError(self.stopping)
        rule = checked_rule(msg, self._options)
        if rule != self.rule:
            self.journal.rule(rule)
            self.go_by(rule)
        return Ok(0, 0, 0, True), None

    def _on_save(self, msg: Save, _: bytes | None) -> ControlAnswer:
        if self._shards.model is not None and not self._shards.initialized:
            self._shards.count_up()  # a shard may have its values, and not have told so yet
        # What a server has that was started again is its workers' only once all have offered it.
        has_values = self._shards.initialized and not self.continuation.recovers
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
        self.work_left.look()

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
        return not self.finished and self.work_left.is_deserted

    @property
    def finished(self) -> bool:
        """Whether training is over: nobody is live, and nobody is to come back."""
        if self.stopping:
            return self._metrics.started and not self._members.any_live
        return self.work_left.is_nobodys

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
        return self.work_left.unfinished()

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

    def recover(self, remembered: Remembered, journal: Journal, generation_of_values: int) -> None:
        """Goes on with a run whose server has died. REQUIRES: no worker has joined yet.

        Args:
            remembered: by the servers before this one.
            journal: where this one notes what a later one has to know; it has begun.
            generation_of_values: of the server that had the values which the shards have; 0 if
                they have none.
        """
        self.journal = journal
        self._identities.ranks.update(remembered.keys)
        if self.continuation.recover(remembered, journal, generation_of_values, self.rule):
            self._start([])

    def _end_recovery_if_over(self) -> None:
        """Has the workers go on, once all have told what they remember, or enough have."""
        with suppress(ShardLostError):  # the loop hears of that too, and all begin again
            if self.continuation.end_if_over(self.rule):
                self._start([member.worker for member in self._members.live])

    def _missing(self) -> list[int]:
        """The ranks without whom training does not begin; none once it has."""
        return [] if self._metrics.started else self.continuation.missing()

    # For people.

    def state(self) -> dict[str, Any]:
        """How the run stands: the payload of `state`; docs/wire-format.md lists its keys."""
        return self.standing.state(
            self.rule, stopping=self.stopping, is_finished=self.finished, missing=self._missing()
        )

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
            self._note_epochs(member.worker)  # which it could not report
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

    def _note_epochs(self, worker: int) -> None:
        """Notes in the journal how many epochs of its share a worker has completed, if any."""
        if epochs := self._metrics.position_of(worker).epochs:
            self.journal.epoch(worker, epochs)

    @property
    def _initializer(self) -> int | None:
        """The rank that is to send the first values of every chunk: the lowest live one."""
        live = self._members.live
        awaited = self._metrics.started and not self._shards.initialized
        return live[0].worker if awaited and live else None

    def _start_if_complete(self) -> None:
        complete = len(self._members.observers) >= self._options.observers
        if self.continuation.recovers or self._metrics.started:
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
            settings=self.standing.settings(self.rule),
            first_chunks=self._shards.first_chunks,
            codec=codec,
            epochs=begins_at.epochs,
            samples=begins_at.samples,
            share=begins_at.share,
            generation=self.continuation.generation,
            heals=self.continuation.recovers,
        )

    def _layout_payload(self) -> bytes | None:
        return self._shards.layout.pack() if self._shards.layout else None
