"""Knows what of a run's training is left, and whether anybody is there to do it, or comes back."""

from collections.abc import Callable
from typing import Final

from leash.ps.options.plan import LEASE
from leash.ps.options.server import ServerOptions
from leash.ps.runs.unfinished import Unfinished
from leash.ps.server.leases.lease_desk import LeaseDesk
from leash.ps.shard.members import Member, Members
from leash.ps.shard.metrics import Metrics
from leash.ps.words import DONE, EVICTED, TIMED_OUT, ranges


class WorkLeft:
    """Compares what a run was asked to train with what its workers have trained by now."""

    def __init__(
        self, options: ServerOptions, members: Members, metrics: Metrics, desk: LeaseDesk,
        now: Callable[[], float],
    ) -> None:  # fmt: skip
        """Begins with a run that nobody has left.

        Args:
            options: what the server was started with.
            members: who takes part.
            metrics: the counts of the run.
            desk: of the leases.
            now: seconds on a clock that never goes back.
        """
        self._options: Final = options
        self._members: Final = members
        self._metrics: Final = metrics
        self._desk: Final = desk
        self._now: Final = now
        self._deserted_s: float | None = None  # since when no worker has been live

    def look(self) -> None:
        """Looks whether any worker is live. Call it a few times a second."""
        if not self._metrics.started or self._members.any_live:
            self._deserted_s = None
        elif self._deserted_s is None:
            self._deserted_s = self._now()

    @property
    def is_deserted(self) -> bool:
        """Whether all workers have left, and none has come back in time."""
        if self._deserted_s is None:
            return False
        return self._now() - self._deserted_s > self._options.rejoin_s

    @property
    def is_nobodys(self) -> bool:
        """Whether training has begun, and nobody is live or is to come back.

        One of the workers has come to the end of its work, or all that was asked for is trained.
        """
        if not self._metrics.started or self._members.any_live:
            return False
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

    def unfinished(self) -> list[Unfinished]:
        """What this run was asked to train, as far as it is known, and has not trained by now."""
        if not self._metrics.started:
            return []
        states = {member.state for member in self._members.workers.values()}
        of_leases = TIMED_OUT if TIMED_OUT in states and states <= {DONE, TIMED_OUT} else ""
        shares = [self._unfinished_share(member) for member in self._members.workers.values()]
        return [*self._desk.unfinished(of_leases), *(part for part in shares if part is not None)]

    # How it is done.

    def _is_all_trained(self) -> bool:
        """Whether it is known what was to be trained, and all of it is."""
        planned = (counts.planned_epochs for counts in self._metrics.workers.values())
        is_known = self._desk.is_used_up() or all(planned)
        return is_known and not self.unfinished()

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
