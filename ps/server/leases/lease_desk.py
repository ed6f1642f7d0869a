"""Grants leases to members, by which of their steps were answered."""

from collections.abc import Iterable, Mapping
from typing import Final

from leash.ps.errors import HeaderError, NotReadyError, PlanMismatchError
from leash.ps.options.plan import LEASE, STATIC, WEIGHTED, choose_data_plan, parse_local_steps
from leash.ps.options.server import ServerOptions
from leash.ps.runs.journal import Granted, Journal, LeaseChange, Released
from leash.ps.runs.position import LeasePosition
from leash.ps.runs.unfinished import Unfinished
from leash.ps.server.leases.leases import Leases
from leash.ps.server.shards.shards import Shards
from leash.ps.shard.members import Member, Members
from leash.ps.shard.metrics import Metrics
from leash.ps.wire.messages import Lease, Leased, Remember
from leash.ps.words import LIVE, RESTING, named_workers, ranges


class LeaseDesk:
    """Applies requests for leases, and leaves of workers, to the run. It has no sockets."""

    def __init__(
        self,
        options: ServerOptions,
        policy: str,
        members: Members,
        metrics: Metrics,
        shards: Shards,
    ) -> None:
        self.planned: Final = choose_data_plan(options, policy, has_allocation=False)
        self.journal: Journal = Journal(None)  # whoever has a run directory gives another
        self._members: Final = members
        self._metrics: Final = metrics
        self._shards: Final = shards
        self._weighted: Final = options.batch_plan == WEIGHTED
        self._local_steps: Final = parse_local_steps(options.local_steps)
        self._leases = self._no_leases()
        self._behind: Final[dict[int, int]] = {}  # rank ▸ how many epochs are behind it, by leases

    def _no_leases(self) -> Leases:
        return Leases(weighted=self._weighted, local_steps=self._local_steps)

    @property
    def data_plan(self) -> str:
        """The data plan that the workers follow: leases, if any of them has asked for one."""
        return LEASE if self._leases.in_use else STATIC

    def lease(self, member: Member, msg: Lease, *, lockstep: bool) -> Leased:
        """Answers a worker's request for a lease.

        Raises:
            HeaderError, PlanMismatchError: this run cannot honour the request.
            NotReadyError: the training has not begun.
        """
        if member.is_observer:
            raise HeaderError("lease.worker: expected a rank from 1; an observer does not train")
        if not self._metrics.started:
            raise NotReadyError(f"waiting for {named_workers(self._members.missing[:20])}")
        if self.planned != LEASE:
            raise PlanMismatchError("this run has fixed shares: --data-plan static")
        had_rested = self._leases.is_resting(msg.worker)
        answered = self._metrics.workers[msg.worker].answered
        leased = self._leases.ask(msg, answered, lockstep=lockstep)
        if not had_rested:  # who rests asks many times a second, and holds nothing until it returns
            self.journal.lease(Granted(msg, answered, lockstep))
        self._metrics.samples_twice = self._leases.samples_twice
        behind = self._leases.epochs_behind(msg.worker, answered)
        self._behind[msg.worker] = max(behind, self._behind.get(msg.worker, 0))
        if self._leases.is_resting(msg.worker) and not had_rested:
            self._rest(member)
        return leased

    def release(self, worker: int, *, lockstep: bool, is_stopping: bool = False) -> None:
        """Frees the samples that this worker was leased and has no answer for.

        Where the run is stopping, nobody gets them any more, and none is used twice.
        """
        counts = self._metrics.workers[worker]
        # Under bsp the step's mean leaves out a gradient whose worker has gone before the answer.
        applied = 0 if lockstep else counts.unanswered
        if self._leases.holds(worker):
            self.journal.release(Released(worker, counts.answered, applied))
        self._leases.release(worker, counts.answered, applied)
        if not is_stopping:
            self._metrics.samples_twice = self._leases.samples_twice

    def position(self) -> LeasePosition | None:
        """How far the leases are, if only answered samples count; None if there are none."""
        return self._leases.position({w: c.answered for w, c in self._metrics.workers.items()})

    def go_on(self, position: LeasePosition) -> None:
        """Goes on where the leases of an earlier run were."""
        self._leases.go_on(position)

    def note_position(self) -> None:
        """Notes in the journal where leases go on: where a checkpoint was, or at the beginning."""
        self.journal.leases_at(self._leases.position({}) or LeasePosition(0, 0, {}))

    def restore(self, changes: Iterable[LeaseChange], told: Mapping[int, Remember]) -> None:
        """Makes the leases what they were when the server before this one died.

        What was leased then and is not answered is free again.

        Args:
            changes: as the journal has kept them.
            told: rank ▸ what it says of the newest lease that it got. An answer that was lost with
                the server brought it none; what a disk did not take is not among the changes.
        """
        leases, holding = self._no_leases(), dict[int, Granted]()
        for change in changes:
            match change:
                case Granted():
                    leases.ask(change.request, change.answered, lockstep=change.lockstep)
                    holding[change.request.worker] = change
                case Released():
                    leases.release(change.worker, change.answered, change.applied)
                    holding.pop(change.worker, None)
                case LeasePosition():
                    leases, holding = self._no_leases(), {}
                    leases.go_on(change)
        self._leases = leases
        for worker, granted in holding.items():
            since = _answered_since(granted.request, told.get(worker))
            released = Released(worker, granted.answered + since, 0)
            self.journal.release(released)
            leases.release(worker, released.answered, released.applied)
        self._metrics.samples_twice = leases.samples_twice

    def complete_epochs(self) -> None:
        """Counts completed epochs: by the leases, or by the workers' reports if there are none."""
        if self._leases.in_use:
            self._metrics.complete(self._leases.completed)
        else:
            self._metrics.complete_epochs(self._members)

    @property
    def planned_epochs(self) -> int | None:
        """How many epochs are leased, as the workers say; None where nobody has asked yet."""
        return self._leases.planned

    def epochs_of(self, worker: int) -> int:
        """How many epochs a worker has completed: as it reports, or by its leases.

        A loop of the user's own reports none.
        """
        return max(self._metrics.workers[worker].epoch, self._behind.get(worker, 0))

    def is_used_up(self) -> bool:
        """Whether samples were leased, and all of all epochs are done."""
        return self._leases.in_use and not self._leases.left()

    def unfinished(self, state: str) -> list[Unfinished]:
        """What is left of the epochs that were to be leased; nothing if there are no leases.

        Args:
            state: how the workers have left that were to train on it.
        """
        left = self._leases.left()
        if not left:
            return []
        return [Unfinished(None, state, ranges(left), sum(left.values()))]

    def state_of(self, member: Member) -> str:
        """The state of a member as people see it, which may also be that it rests."""
        is_resting = member.state == LIVE and self._leases.is_resting(member.worker)
        return RESTING if is_resting else member.state

    def _rest(self, member: Member) -> None:
        """Has nobody wait for this member's steps: it may take none any more."""
        self._metrics.leave(member.worker, member.incarnation, RESTING)
        self._shards.leave(member, RESTING)


def _answered_since(request: Lease, told: Remember | None) -> int:
    """How many samples of what was asked for a worker was answered, by what it says."""
    if told is None or (told.lease, told.holder) != (request.number, request.incarnation):
        return 0  # the lease never reached it, or it speaks of another
    return told.answered
