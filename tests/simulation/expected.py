"""How a run may end today though nothing goes wrong any more, and why.

What is not in this table is a violation. `--expect` names those that are taken; the table shrinks
as the ways in which a run ends early are mended.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from leash.ps.errors import EvictedError, ServerUnreachableError, StoppingError
from leash.ps.server.coordinator import ALL_GONE
from simulation.checks.oracle import Wrong

if TYPE_CHECKING:
    from simulation.cluster import Cluster

Explains = Callable[["Cluster"], bool]
HARMLESS: Final = frozenset(("save", "set", "strange"))  # faults that take no message


def _stays_away(cluster: "Cluster") -> bool:
    """Whether a worker was killed, or told to go, and nobody has started it again."""
    return any(worker.stays_away for worker in cluster.workers)


def _was_left_behind(cluster: "Cluster") -> bool:
    """Whether the others were done while a worker was away that would have come back."""
    late = (ServerUnreachableError, StoppingError)
    has_come_late = any(isinstance(worker.failure, late) for worker in cluster.workers)
    return cluster.server.ended == "incomplete" and has_come_late


def _was_evicted(cluster: "Cluster", where: str) -> bool:
    """Whether the eviction of a worker ended its part, while it did this."""
    return any(
        isinstance(worker.failure, EvictedError) and worker.failed_where == where
        for worker in cluster.workers
    )


def _is_full(cluster: "Cluster") -> bool:
    if "disk full" not in cluster.happened:
        return False
    return isinstance(cluster.failure, OSError) or cluster.server.ended in ("incomplete", ALL_GONE)


def _is_all_trained(cluster: "Cluster") -> bool:
    """Whether every sample was trained on, though the server does not know it after an outage."""
    if not cluster.happened - HARMLESS:
        return False
    try:
        cluster.book.check_samples(exactly_once=False)
    except Wrong:
        return False
    return cluster.server.ended in ("incomplete", ALL_GONE)


def waits_for_others(cluster: "Cluster") -> bool:
    """Whether a worker that nobody has started again is missing for the run to begin."""
    server = cluster.server
    return server.status is None and not server.run.metrics.started and _stays_away(cluster)


# By name: what a person reads, and whether it explains the end of this run.
ENDINGS: Final[dict[str, tuple[str, Explains]]] = {
    "shard-lost": (
        "a shard that dies ends the run",
        lambda cluster: cluster.server.ended.startswith("shard "),
    ),
    "server-killed": (
        "a server that is killed, and started again or not, ends its workers' part",
        lambda cluster: "kill server" in cluster.happened,
    ),
    "disk-full": ("a full disk ends the server", _is_full),
    "left-behind": (
        "the run ends while a worker is away that would have come back",
        _was_left_behind,
    ),
    "evicted-at-start": (
        "a worker that is evicted before its first step ends",
        lambda cluster: _was_evicted(cluster, "begins"),
    ),
    "news-lost": (
        "an outage as a worker ends takes its last report, or its bye, which has 1 s",
        _is_all_trained,
    ),
    "evicted-again": (
        "a worker that is evicted while it joins again ends",
        lambda cluster: _was_evicted(cluster, "joins again"),
    ),
}

# Nothing is wrong with these.
RIGHT: Final[dict[str, Explains]] = {
    "done": lambda cluster: cluster.server.ended == "done",
    "told to stop": lambda cluster: cluster.told_to_stop and cluster.server.ended == "SIGTERM",
    "waits for others": waits_for_others,
    "workers stay away": lambda cluster: (
        cluster.server.ended in ("incomplete", ALL_GONE) and _stays_away(cluster)
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
    if server.status is None and not found and not waits_for_others(cluster):
        where = ", ".join(f"worker {w.rank}: {w.where}" for w in cluster.workers)
        raise Wrong(f"the run has not come to its end long after the last fault; {where}")
    if any(explains(cluster) for explains in RIGHT.values()):
        return ()
    if not found:
        failures = [f"worker {w.rank}: {w.failure!r}" for w in cluster.workers if w.failure]
        raise Wrong(f"ended as {server.ended!r}; {', '.join(failures)}")
    return found
