"""What PSOptimizer asks of the path on which a worker's steps reach the server.

There are two: streaming.py sends the gradients of every step, local_steps.py what several steps of
an inner optimizer have changed.
"""

from collections.abc import Callable
from typing import Final, Protocol

from leash.ps.errors import UsageError
from leash.worker.client import StepInfo
from leash.worker.client.memory import Slab

NO_INNER: Final = "local_steps={}: needs an inner optimizer; make PSOptimizer with inner=..."


class StepPath(Protocol):
    """From a step's gradients to the common parameters that answer them."""

    every: int  # steps that make one push; setting one that cannot be raises UsageError

    @property
    def overlap(self) -> bool:
        """Gradients are sent while backward computes others, so `begin` comes before backward."""
        ...

    @property
    def is_open(self) -> bool:
        """Part of the next step has been taken, so that its gradients can't be changed any more."""
        ...

    @property
    def is_begun(self) -> bool:
        """`begin` was called for the next step."""
        ...

    @property
    def pending(self) -> int:
        """Steps that have been taken and not pushed."""
        ...

    def begin(self, samples: int) -> None:
        """Tells how many samples are behind the next step."""
        ...

    def finish(self, samples: int | None = None) -> StepInfo | None:
        """Takes the step, and pushes if it is time to.

        Args:
            samples: behind the step, if `begin` was not told; 1 if neither was.

        Returns:
            What happened to the push; None if there was none.

        Raises:
            EvictedError: the server went on without this worker, and what was not answered is
                lost; `recover`.
            LeashError: whatever else ended this worker's part.
        """
        ...

    def flush(self) -> StepInfo | None:
        """Pushes the steps that are pending. Returns and raises what `finish` does."""
        ...

    def recover(self, pull: Callable[[Slab], int]) -> int:
        """Forgets what was lost, and takes over the common parameters.

        Args:
            pull: fills a slab with them and returns their version.
        """
        ...

    def close(self) -> None:
        """Lets go of the model: what is pending is never pushed. Twice does no harm."""
        ...


def agreed_samples(told: int | None, samples: int | None) -> int:
    """The samples behind a step: as `begin_step` was told, or else step(); 1 if neither was."""
    if told is None:
        return 1 if samples is None else samples
    if samples not in (None, told):
        raise UsageError(f"step(samples={samples}): begin_step was told {told}; leave it out here")
    return told
