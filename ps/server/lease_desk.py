"""Leases as the coordinator gives them: to members, by what their answered steps tell."""

from typing import Final

from leash.ps.errors import HeaderError, NotReadyError, PlanMismatchError
from leash.ps.options.commands import ServerOptions
from leash.ps.options.plan import LEASE, STATIC, WEIGHTED, choose_data_plan, parse_local_steps
from leash.ps.server.leases import Leases
from leash.ps.server.shards import Shards
from leash.ps.shard.members import Member, Members
from leash.ps.shard.metrics import Metrics
from leash.ps.wire.messages import Lease, Leased
from leash.ps.words import LIVE, RESTING


class LeaseDesk:
    """What requests for leases, and leaves, do to a run. No sockets."""

    def __init__(
        self,
        options: ServerOptions,
        policy: str,
        members: Members,
        metrics: Metrics,
        shards: Shards,
    ) -> None:
        self.planned: Final = choose_data_plan(options, policy, has_allocation=False)
        self._members: Final = members
        self._metrics: Final = metrics
        self._shards: Final = shards
        self._leases: Final = Leases(
            weighted=options.batch_plan == WEIGHTED,
            local_steps=parse_local_steps(options.local_steps),
        )

    @property
    def data_plan(self) -> str:
        """What workers train on: leases, if any of them has asked for one."""
        return LEASE if self._leases.in_use else STATIC

    def lease(self, member: Member, msg: Lease, *, lockstep: bool) -> Leased:
        """The answer to a worker's request.

        Raises:
            HeaderError, PlanMismatchError: a request that cannot be honoured in this run.
            NotReadyError: the training has not begun.
        """
        if member.is_observer:
            raise HeaderError("lease.worker: expected a rank from 1; an observer does not train")
        if not self._metrics.started:
            raise NotReadyError(f"waiting for workers {self._members.missing[:20]}")
        if self.planned != LEASE:
            raise PlanMismatchError("this run has fixed shares: --data-plan static")
        had_rested = self._leases.is_resting(msg.worker)
        answered = self._metrics.workers[msg.worker].answered
        leased = self._leases.ask(msg, answered, lockstep=lockstep)
        if self._leases.is_resting(msg.worker) and not had_rested:
            self._rest(member)
        return leased

    def release(self, worker: int, *, lockstep: bool) -> None:
        """What this worker was leased and has no answer for is given to others."""
        counts = self._metrics.workers[worker]
        # Under bsp a contribution without an answer was left out of its step's mean.
        applied = 0 if lockstep else counts.unanswered
        self._leases.release(worker, counts.answered, applied)
        self._metrics.samples_twice = self._leases.samples_twice

    def complete_epochs(self) -> None:
        """Counts the epochs that are completed, by leases or, where there are none, by reports."""
        if self._leases.in_use:
            self._metrics.complete(self._leases.completed)
        else:
            self._metrics.complete_epochs(self._members)

    def state_of(self, member: Member) -> str:
        """A member's state, for people."""
        is_resting = member.state == LIVE and self._leases.is_resting(member.worker)
        return RESTING if is_resting else member.state

    def _rest(self, member: Member) -> None:
        """It stays a member, but nobody waits for its steps: it may have none any more."""
        self._metrics.leave(member.worker, member.incarnation, RESTING)
        self._shards.leave(member, RESTING)
