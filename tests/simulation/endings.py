"""How a run may end. Every other end is a violation."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from leash.ps.errors import LeashError, NotAllowedError, ServerUnreachableError, StoppingError
from leash.ps.server.coordinator import ALL_GONE
from leash.ps.server.loop import SHARD_RESTARTS
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
        worker.is_out_of_patience for worker in cluster.workers
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
        part.state in (DONE, STOPPED) if server.has_lost_work and not server.book.may_forget
        else part.state == STOPPED or _has_told(cluster.workers[part.worker - 1])
        for part in server.run.coordinator.unfinished() if part.worker
    }  # fmt: skip
    return (server.has_lost_work or server.book.may_forget) and is_lost <= {True}


def _is_killed_while_it_stops(cluster: "Cluster") -> bool:
    """Whether a server that had told workers to stop was killed before it ended.

    They have gone, and whoever started the server again waits for them in vain.
    """
    parts = cluster.server.run.coordinator.unfinished()
    missing = [cluster.workers[part.worker - 1] for part in parts if part.worker]
    return cluster.told_to_stop and all(
        isinstance(worker.failure, StoppingError) or worker.stays_away for worker in missing
    )


def _has_told(worker: "SimulatedWorker") -> bool:
    """Whether a server knew that this one was done: it had told, or was told so when it came."""
    return worker.has_told or isinstance(worker.failure, StoppingError)


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


def _is_shard_lost_at_end(cluster: "Cluster") -> bool:
    """Whether a shard was lost of a run that was to end, or whose server had begun again often.

    A run is to end where somebody has asked for it, or where all its workers have told that they
    are done: those have nothing any more to heal a server with.
    """
    server = cluster.server
    is_ending = cluster.told_to_stop or all(_needs_nobody(worker) for worker in cluster.workers)
    is_last = server.lost_shards >= SHARD_RESTARTS
    return server.ended.startswith("shard ") and (is_ending or is_last)


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


# The first that explains an end gives it its name.
RIGHT: Final[dict[str, Explains]] = {
    "done": lambda cluster: cluster.server.ended == "done",
    "told to stop": lambda cluster: (
        cluster.told_to_stop and cluster.server.ended.partition(":")[0] in ("SIGTERM", STOPPED)
    ),
    "killed while it stops": lambda cluster: (
        cluster.server.book.generation > 1
        and cluster.server.ended in ("incomplete", ALL_GONE)
        and _is_killed_while_it_stops(cluster)
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
    "a shard is lost at the end": _is_shard_lost_at_end,
    "out of patience": lambda cluster: (
        cluster.server.ended in ("incomplete", ALL_GONE) and _has_given_up(cluster)
    ),
}


def require_right(cluster: "Cluster") -> str:
    """Says how a run has ended, in a few words.

    Raises:
        Wrong: it should not have ended so, or it has not ended.
    """
    server = cluster.server
    if server.status is None and not (waits_for_others(cluster) or _is_nobody_left(cluster)):
        where = ", ".join(f"worker {w.rank}: {w.where}" for w in cluster.workers)
        raise Wrong(f"the run has not come to its end long after the last fault; {where}")
    for name, explains in RIGHT.items():
        if explains(cluster):
            return name
    failures = [f"worker {w.rank}: {w.failure!r}" for w in cluster.workers if w.failure]
    raise Wrong(f"ended as {server.ended!r}; {', '.join(failures)}")
