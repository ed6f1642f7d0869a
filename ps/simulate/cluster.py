"""A simulated cluster: its workers, its network, its failures."""

from collections.abc import Sequence
from dataclasses import dataclass

from leash.ps.options.plan import Resize
from leash.ps.slowness.grammar import Slowness


@dataclass(frozen=True, slots=True)
class Failures:
    """How workers die at random, and come back."""

    mtbf_s: float  # the mean time between two failures of one worker
    restart_s: float  # from a failure until the worker, or its replacement, takes part again
    evict_s: float  # from a failure until the others stop waiting for the worker


@dataclass(frozen=True, slots=True)
class Cluster:
    """How long the machines and the network of a cluster take for everything."""

    compute: list[Slowness]  # by rank: what computing a batch takes
    slow: list[Slowness]  # by rank: what delays each batch beside that
    ratios: list[float]  # by rank: r; computing takes 1/r times as long
    network: list[Slowness]  # by rank: what a message takes, one way
    server_s: float = 0.0  # what the server's work on a push takes
    transfer_s: float = 0.0  # what a model takes through the server's link, either way
    failures: Failures | None = None
    at_first: int | None = None  # how many workers the run begins with; None for all
    changes: Sequence[Resize] = ()  # of the number of workers, while the run goes on

    @property
    def workers(self) -> int:
        """How many workers it has, over all of the run."""
        return len(self.slow)

    @property
    def push_limit(self) -> float | None:
        """How many pushes a second the server can take at most; None where nothing limits it."""
        longest_s = max(self.server_s, self.transfer_s)
        return 1 / longest_s if longest_s > 0 else None
