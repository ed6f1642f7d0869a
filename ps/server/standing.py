"""Tells people how a run stands: the payload of `state`."""

from typing import Any, Final

from leash.ps.options.addresses import shown_learners
from leash.ps.options.server import ServerOptions
from leash.ps.policy import Rule
from leash.ps.runs.unwritten import Unwritten
from leash.ps.server.leases.lease_desk import LeaseDesk
from leash.ps.server.leases.work_left import WorkLeft
from leash.ps.server.settings import run_settings
from leash.ps.server.shards.shards import Shards
from leash.ps.shard.crew import Crew
from leash.ps.shard.holdups import HoldUps
from leash.ps.shard.members import Member, Members
from leash.ps.shard.metrics import Metrics
from leash.ps.trackers.logged import Logged, fit_logged

STACKS_MAX_NBYTES: Final = 1 << 18  # in one `state`


class Standing:
    """Collects what people hear of a run from those who know it.

    Attributes:
        unwritten: what cannot be written; whoever writes files gives another.
        is_writing: whether the run is over, and its results are being written.
    """

    def __init__(
        self, options: ServerOptions, members: Members, metrics: Metrics, shards: Shards,
        desk: LeaseDesk, holdups: HoldUps, crew: Crew, work_left: WorkLeft, logged: Logged,
    ) -> None:  # fmt: skip
        """Collects nothing yet.

        Args:
            options: what the server was started with.
            members: who takes part.
            metrics: the counts of the run.
            shards: all shards as one.
            desk: of the leases.
            holdups: for whom others wait.
            crew: who has come and gone.
            work_left: what is left to train.
            logged: what the workers' loops log.
        """
        self.unwritten: Unwritten = Unwritten()
        self.is_writing: bool = False
        self._options: Final = options
        self._members: Final = members
        self._metrics: Final = metrics
        self._shards: Final = shards
        self._desk: Final = desk
        self._holdups: Final = holdups
        self._crew: Final = crew
        self._work_left: Final = work_left
        self._logged: Final = logged

    def settings(self, rule: Rule) -> dict[str, Any]:
        """The settings of the run, which goes by this rule: those of `welcome`, too."""
        return run_settings(self._options, rule, self._members.ranks, self._desk.planned)

    def state(
        self, rule: Rule, *, stopping: str, is_finished: bool, missing: list[int]
    ) -> dict[str, Any]:
        """How the run stands; docs/wire-format.md lists the keys.

        Args:
            rule: that the run goes by now.
            stopping: why it ends, if it is to.
            is_finished: whether training is over.
            missing: the ranks without whom it does not begin.
        """
        summary = self._metrics.summary()
        rows = [self._row(member) for _, member in sorted(self._members.workers.items())]
        _fit_stacks(rows)
        fit_logged(rows)
        unfinished = self._work_left.unfinished() if is_finished else []
        return {
            **summary,
            **self.settings(rule),
            # What the workers ask for is what is trained, and a server need not be told.
            "planned_epochs": self._desk.planned_epochs or self._options.epochs,
            "learners": shown_learners(self._members.ranks, None),
            "started": self._metrics.started,
            "finished": is_finished,
            "unfinished": [part.as_dict() for part in unfinished],
            "stopping": stopping,
            "missing": missing,
            "observers": len(self._members.observers),
            "shards": self._options.shards,
            "data_ports": self._shards.ports,
            "chunk_nbytes": self._options.chunk_nbytes,
            "initialized": self._shards.initialized,
            "model_nbytes": self._shards.layout.nbytes if self._shards.layout else 0,
            "parked": self._shards.parked,
            "not_written": self.unwritten.lasting,
            "writing": self.is_writing,
            "awaited": self._holdups.as_dicts(),
            "coming_back": self._work_left.coming_back,
            "most_at_once": self._crew.most_at_once,
            "table": rows,
        }

    def _row(self, member: Member) -> dict[str, Any]:
        """A row of the table: a worker."""
        return {
            **self._metrics.worker_state(member.worker),
            "epoch": self._desk.epochs_of(member.worker),
            "name": member.name,
            "incarnation": member.incarnation,
            "state": self._desk.state_of(member),
            **self._holdups.row_of(member),
            "silence_s": round(self._members.silence_s(member), 1),
            "logged": self._logged.newest_of(member.worker),
        }


def _fit_stacks(rows: list[dict[str, Any]]) -> None:
    """Leaves out the stacks of the last rows, where all of them would be too much for a message."""
    room = STACKS_MAX_NBYTES
    for row in rows:
        room -= len(row["stack"].encode())
        if room < 0:
            row["stack"], row["stack_s"] = "", None
