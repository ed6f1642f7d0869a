"""Tells of the workers of a run that come and go, and what that means for the learning rate."""

from collections import deque
from collections.abc import Callable
from typing import Final

from leash.ps.options.optimizer import with_rates
from leash.ps.options.server import ServerOptions
from leash.ps.policy import Rule
from leash.ps.shard.members import Member, Members
from leash.ps.shard.metrics import Metrics
from leash.ps.words import FAILED, STOPPED, WHY_GONE, why_stopped

TOLD_BY_COMMAND: Final = "leash leave"


class Crew:
    """Notes who joins and leaves while a run goes on, in lines for people and as events.

    Attributes:
        news: the lines that nobody has shown yet.
        most_at_once: how many workers were live at the same time, at most.
    """

    def __init__(
        self, options: ServerOptions, members: Members, metrics: Metrics,
        trains_on: Callable[[int], bool],
    ) -> None:  # fmt: skip
        """Has nothing to tell yet.

        Args:
            options: what the server was started with.
            members: who takes part.
            metrics: takes the events.
            trains_on: whether a worker of this rank is live and has not come to rest.
        """
        self.news: deque[str] = deque()
        self.most_at_once = 0
        self._scales: Final = with_rates(options).lr_scaling == "linear"
        self._members: Final = members
        self._metrics: Final = metrics
        self._trains_on: Final = trains_on
        self._scaled = 0  # for how many workers the rate was told last

    def joined(self, member: Member, *, is_back: bool = False) -> None:
        """Notes that a worker has joined.

        Args:
            member: of its newest process.
            is_back: it was evicted before, so that others tell of it.
        """
        self.most_at_once = max(self.most_at_once, len(self._members.live))
        if self._metrics.started and not is_back:
            self.news.append(f"{member} joins; {self._counted('take part')}")

    def left(self, member: Member) -> None:
        """Notes that a worker has left before its work was done, unless others tell of that."""
        if self._metrics.started and member.state in (STOPPED, FAILED):
            why = why_stopped(member.told) if member.told else WHY_GONE.get(member.state, "")
            self.news.append(
                f"worker {member.worker} leaves: {why or member.state}; {self._counted('go on')}"
            )

    def look(self, rule: Rule) -> None:
        """Tells the learning rate of a mean, if the number of workers in it has changed."""
        if not (self._metrics.started and rule.policy.average and self._scales):
            return
        training = sum(self._trains_on(member.worker) for member in self._members.live)
        together = max(1, training - rule.backup_workers)
        if training and together != self._scaled:
            before, self._scaled = self._scaled, together
            self._metrics.scale_rate(together)
            if before:
                self.news.append(
                    f"an update is now a mean of {together}, applied with {together} x --lr "
                    "(--lr-scaling linear)"
                )

    def _counted(self, verb: str) -> str:
        live = len(self._members.live)
        of_one = {"take part": "takes part", "go on": "goes on"}
        return f"{live} {of_one[verb] if live == 1 else verb}"
