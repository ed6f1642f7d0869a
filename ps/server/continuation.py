"""Goes on with a run: where a checkpoint of another is, or where a server before this one has died.

::

    checkpoint ─▸ go_on ──────────────────────────────────────────▸ the run begins as any other
    journal ────▸ recover ─▸ those who took part have told what they remember ─▸ end_if_over
                        └──▸ nobody was at work: nobody is waited for

Between `recover` and `end_if_over` it recovers: whoever says hello is counted, but does not train.
"""

from collections.abc import Callable, Collection, Iterable
from typing import Final

from leash.ps.options.outer_optimizer import outer_of
from leash.ps.options.plan import LEASE
from leash.ps.options.server import ServerOptions
from leash.ps.policy import BSP, Rule
from leash.ps.recovery.recovery import Recovery
from leash.ps.runs.journal import Journal, Remembered
from leash.ps.runs.position import Position
from leash.ps.server.leases.lease_desk import LeaseDesk
from leash.ps.server.shards.shards import Shards
from leash.ps.shard.members import Member, Members
from leash.ps.shard.metrics import Metrics
from leash.ps.wire.codecs import CODECS
from leash.ps.wire.messages import Remember
from leash.ps.words import EVICTED, LIVE


class Continuation:
    """Knows where the training is, and brings all of the run to where it was before.

    Attributes:
        generation: how many servers the run has had, this one included; 0 without a journal.
    """

    def __init__(
        self, options: ServerOptions, members: Members, metrics: Metrics, shards: Shards,
        desk: LeaseDesk, now: Callable[[], float],
    ) -> None:  # fmt: skip
        """Begins with a run that has just begun.

        Args:
            options: what the server was started with.
            members: who takes part.
            metrics: the counts of the run.
            shards: all shards as one.
            desk: of the leases.
            now: seconds on a clock that never goes back.
        """
        self.generation: int = 0
        self._options: Final = options
        self._members: Final = members
        self._metrics: Final = metrics
        self._shards: Final = shards
        self._desk: Final = desk
        self._now: Final = now
        self._codecs: Final[set[str]] = set()  # in which workers send gradients
        self._answers: Final[set[str]] = set()  # and in which parameters come back to them
        self._journal: Journal = Journal(None)
        self._remembered: Remembered = Remembered()  # by the servers before this one
        self._died_in_lockstep = False  # all their workers were in the same step, as under bsp
        self._recovery: Recovery | None = None  # until those who took part there go on

    # From a checkpoint.

    def position(self) -> Position:
        """How far the training is."""
        return Position(
            self._options.chosen_seed, self._metrics.epoch, self._metrics.shares(),
            self._desk.position(), self._anew(), self.generation,
        )  # fmt: skip

    def note_codecs(self, codec: str, answer_codec: str) -> None:
        """Notes how a worker's gradients travel, and the parameters that come back.

        Args:
            codec: of the gradients.
            answer_codec: of the parameters; empty for the one in which that is answered.
        """
        self._codecs.add(codec)
        self._answers.add(answer_codec if answer_codec in CODECS else CODECS[codec].reply)

    def _anew(self) -> list[str]:
        """What begins anew in a run that goes on from here."""
        keeping = sorted(name for name in self._codecs if CODECS[name].value_nbytes is None)
        rounding = sorted(self._answers - {"f32"})
        anew = [f"what {name} has left over of gradients" for name in keeping]
        anew += [f"what workers have of parameters, rounded to {name}" for name in rounding]
        if outer_of(self._options) is not None:
            anew.append("the workers' own optimizers")
        return anew

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

    # After a server that has died.

    def recover(
        self, remembered: Remembered, journal: Journal, generation_of_values: int, rule: Rule
    ) -> bool:
        """Goes on with a run whose server has died. REQUIRES: no worker has joined yet.

        Args:
            remembered: by the servers before this one.
            journal: where this one notes what a later one has to know; it has begun.
            generation_of_values: of the server that had the values which the shards have; 0 if
                they have none.
            rule: that the run goes by, unless another was set.

        Returns:
            Whether all is trained, and all have said bye.
        """
        self._journal = self._desk.journal = journal
        self.generation, self._remembered = remembered.generation + 1, remembered
        self._metrics.healed_chunks = remembered.healed_chunks
        self._metrics.lost_updates = remembered.lost_updates
        self._metrics.go_on_with_plans(remembered.planned)
        self._expect_no_more(remembered.done)
        if remembered.started and remembered.awaited:
            self._begin_recovery(remembered.awaited, generation_of_values, rule)
            return False
        planned = self._options.epochs
        is_over = remembered.started and planned is not None and self._metrics.epoch >= planned
        if remembered.started and not is_over:
            # All had left, but some may not have heard so, and have newer values than a checkpoint.
            self._begin_recovery(remembered.done, generation_of_values, rule)
            return False
        self._note_position()
        if is_over:
            self._note_absent()
        return is_over

    def _begin_recovery(self, awaited: list[int], generation_of_values: int, rule: Rule) -> None:
        until_s = self._now() + self._options.evict_s
        self._recovery = Recovery(awaited, until_s)
        self._shards.begin_healing(generation_of_values)
        remembered = self._remembered
        is_bsp = (remembered.rule or rule).policy is BSP
        self._died_in_lockstep = is_bsp and not remembered.was_set

    @property
    def recovers(self) -> bool:
        """Whether the run waits for those who took part when the server before this one died."""
        return self._recovery is not None

    def take(self, told: Remember) -> bool:
        """Notes what a worker remembers; returns whether anybody waits for it."""
        if self._recovery is None or told.worker == 0:
            return False
        self._recovery.take(told)
        return True

    def missing(self) -> list[int]:
        """The ranks without whom training does not begin."""
        if self._recovery is None:
            return self._members.missing
        return self._recovery.missing(self._live(), self._now())

    def end_if_over(self, rule: Rule) -> bool:
        """Has the workers go on, once all have told what they remember, or enough have.

        Args:
            rule: that the run goes by now.

        Returns:
            Whether they do, and the run is to start with them.

        Raises:
            ShardLostError: a shard is lost; the recovery is not over then.
        """
        live = self._live()
        if self._recovery is None or not self._recovery.is_over(live, self._now()):
            return False
        recovery, chunks = self._recovery, self._shards.healed_chunks
        if chunks:
            self._restore(recovery)
        else:
            self._note_position()  # what was trained after the checkpoint is lost
        in_step: list[int] = []
        if rule.policy is BSP and self._died_in_lockstep:
            healed = self._shards.healed_step
            in_step = recovery.in_step(healed + 1)
            if in_step:
                self._shards.begin_at(healed)
        self._join_all(in_step)
        self._recovery = None
        self._note_absent()
        lost = recovery.lost(in_step)
        self._journal.healed(chunks, lost)
        self._metrics.heal(self.generation, live, chunks, lost)
        return True

    def _join_all(self, in_step: Collection[int]) -> None:
        """Has all begin: those in the step that they told of, the others with one that is new."""
        members = self._members.live
        for member in members:
            if member.worker in in_step:
                member.in_step = True
                self._join(member)
        if in_step:
            self._shards.skip_healed()
        for member in members:
            if not member.in_step:
                self._join(member)

    def _join(self, member: Member) -> None:
        member.first_step = self._shards.join(member)
        self._metrics.join(member.worker, member.incarnation, member.name, member.first_step)

    # How it is done.

    def _live(self) -> list[int]:
        return [member.worker for member in self._members.live]

    def _expect_no_more(self, ranks: Iterable[int]) -> None:
        """Does not wait for workers which an earlier server of this run has seen off as done.

        What they have trained after the checkpoint, or in an epoch that is planned no more, they
        would have to train again, so of those that have a share only the ones count that are
        through with it.
        """
        shares, planned = self._metrics.shares(), self._options.epochs
        for rank in ranks:
            if planned is not None and rank in shares and shares[rank].epochs >= planned:
                self._members.expect_no_more(rank)

    def _note_position(self) -> None:
        """Notes in the journal that the run goes on from a checkpoint, or begins anew."""
        self._desk.note_position()
        self._journal.shares_at(self._metrics.shares())

    def _note_absent(self) -> None:
        """Knows who has not come, and may owe work: whoever took part counts as evicted."""
        for rank, state in self._remembered.states.items():
            if rank not in self._members.workers:
                self._members.remember(rank, EVICTED if state == LIVE else state)
                if state == LIVE:
                    self._journal.left(rank, 0, EVICTED)
                self._metrics.expect(rank)
        self._desk.complete_epochs()

    def _restore(self, recovery: Recovery) -> None:
        """Goes by the journal, as the model has what was trained after the checkpoint too."""
        told = recovery.told
        self._desk.restore(self._remembered.leases, told)
        self._metrics.restore(self._remembered.shares, told)
        self._desk.complete_epochs()
