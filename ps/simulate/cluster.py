"""What a simulated cluster is made of: its workers, its network, its failures."""

from dataclasses import dataclass

from leash.ps.slowness.grammar import Slowness


@dataclass(frozen=True, slots=True)
class Failures:
    """Workers die at random, and come back."""

    mtbf_s: float  # mean time between the failures of one worker
    restart_s: float  # until it, or its replacement, takes part again
    evict_s: float  # until the others stop waiting for it


@dataclass(frozen=True, slots=True)
class Cluster:
    """Machines, as far as time is concerned."""

    compute: list[Slowness]  # of a batch; for each worker
    slow: list[Slowness]  # beside it
    ratios: list[float]  # a worker takes 1/r times its own time to compute
    network: list[Slowness]  # one way
    server_s: float = 0.0  # that the server works on a push
    transfer_s: float = 0.0  # that a model takes through the server's link, either way
    failures: Failures | None = None

    @property
    def workers(self) -> int:
        return len(self.slow)
