"""How a run may end today though nothing goes wrong any more, and why.

What is not in this table is a violation. `--expect` names those that are taken; the table shrinks
as the ways in which a run ends early are mended.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from leash.ps.errors import LeashError, NotAllowedError, ServerUnreachableError, StoppingError
from leash.ps.server.coordinator import ALL_GONE
from leash.ps.words import DONE, STOPPED
from simulation.checks.oracle import Wrong
from simulation.scenario import KILLED, SHORT_S

if TYPE_CHECKING:
    from simulation.cluster import Cluster
    from simulation.machines.worker import SimulatedWorker

Explains = Callable[["Cluster"], bool]


def _stays_away(cluster: "Cluster") -> bool:
    """Whether a worker was killed, or told to go, and nobody has started it again."""
    return any(worker.stays_away for worker in cluster.workers)


def _has_given_up(cluster: "Cluster") -> bool:
    """Whether an outage outlasted a worker's patience, which was short."""
    return cluster.scenario.patience_s <= SHORT_S and any(
        isinstance(worker.failure, ServerUnreachableError) for worker in cluster.workers
    )


def _is_left_by_choice(cluster: "Cluster") -> bool:
    """Whether all that is missing is of workers that were told to go: nobody waits for those."""
    parts = cluster.server.run.coordinator.unfinished()
    return all(part.state == STOPPED for part in parts)


def _is_lost_with_server(cluster: "Cluster") -> bool:
    """Whether all that is missing was done, and is lost: nobody had it when a server came back.

    Or that server does not know that it was, since the disk did not take its journal.
    """
    server = cluster.server
    is_lost = {
        part.state in (DONE, STOPPED) if server.has_lost_work and not server.may_forget
        else part.state == STOPPED or cluster.workers[part.worker - 1].has_told
        for part in server.run.coordinator.unfinished() if part.worker
    }  # fmt: skip
    return (server.has_lost_work or server.may_forget) and is_lost <= {True}


def _needs_nobody(worker: "SimulatedWorker") -> bool:
    is_over = worker.is_done or worker.stays_away or isinstance(worker.failure, StoppingError)
    return is_over or worker.where == "begins"


def _is_nobody_left(cluster: "Cluster") -> bool:
    """Whether a server was killed when all workers had told it, or were telling, they are done.

    Whoever began after that waits for them.
    """
    server = cluster.server
    is_new = server.book.generation > 1 and server.status is None and not server.run.metrics.started
    return is_new and all(_needs_nobody(worker) for worker in cluster.workers)


def waits_for_others(cluster: "Cluster") -> bool:
    """Whether a worker that nobody has started again is missing for the run to begin."""
    server = cluster.server
    is_missing = _stays_away(cluster) or _has_given_up(cluster)
    return server.status is None and not server.run.metrics.started and is_missing


# By name: what a person reads, and whether it explains the end of this run.
ENDINGS: Final[dict[str, tuple[str, Explains]]] = {
    "shard-lost": (
        "a shard that dies ends the run",
        lambda cluster: cluster.server.ended.startswith("shard "),
    ),
}


def _is_server_away(cluster: "Cluster") -> bool:
    """Whether nobody starts the server again, and its workers are patient, or no longer."""
    if cluster.server.status != KILLED:
        return False
    failures = [worker.failure for worker in cluster.workers if worker.failure is not None]
    right: tuple[type[LeashError], ...] = (ServerUnreachableError, StoppingError)
    if "revoke key" in cluster.happened:
        right = (*right, NotAllowedError)
    is_right = all(isinstance(f, right) for f in failures)
    # A process that was started just now waits for its first answer, as long as it takes.
    has_ended = all(w.has_ended or w.where == "begins" for w in cluster.workers)
    return is_right and (has_ended or cluster.scenario.patience_s == math.inf)


# Nothing is wrong with these.
RIGHT: Final[dict[str, Explains]] = {
    "done": lambda cluster: cluster.server.ended == "done",
    "told to stop": lambda cluster: (
        cluster.told_to_stop and cluster.server.ended.partition(":")[0] in ("SIGTERM", STOPPED)
    ),
    "waits for others": waits_for_others,
    "the server stays away": _is_server_away,
    "workers stay away": lambda cluster: (
        cluster.server.ended in ("incomplete", ALL_GONE) and _stays_away(cluster)
    ),
    "left by themselves": lambda cluster: (
        cluster.server.ended == "incomplete" and _is_left_by_choice(cluster)
    ),
    "lost with the server": lambda cluster: (
        cluster.server.ended == "incomplete" and _is_lost_with_server(cluster)
    ),
    "nobody is left": _is_nobody_left,
    "out of patience": lambda cluster: (
        cluster.server.ended in ("incomplete", ALL_GONE) and _has_given_up(cluster)
    ),
}


def explained(cluster: "Cluster", expected: frozenset[str]) -> tuple[str, ...]:
    """The names of those of the expected endings that explain how this run has ended."""
    return tuple(
        name for name, (_, explains) in ENDINGS.items() if name in expected and explains(cluster)
    )


def unexpected(cluster: "Cluster", expected: frozenset[str]) -> tuple[str, ...]:
    """Says which of the expected endings explain the end of a run; none if it ended well.

    Raises:
        Wrong: nothing explains it.
    """
    found = explained(cluster, expected)
    server = cluster.server
    is_waiting = waits_for_others(cluster) or _is_nobody_left(cluster)
    if server.status is None and not found and not is_waiting:
        where = ", ".join(f"worker {w.rank}: {w.where}" for w in cluster.workers)
        raise Wrong(f"the run has not come to its end long after the last fault; {where}")
    if any(explains(cluster) for explains in RIGHT.values()):
        return ()
    if not found:
        failures = [f"worker {w.rank}: {w.failure!r}" for w in cluster.workers if w.failure]
        raise Wrong(f"ended as {server.ended!r}; {', '.join(failures)}")
    return found
