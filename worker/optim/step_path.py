"""What PSOptimizer asks of the path on which a worker's steps reach the server.

There are two: streaming.py sends the gradients of every step, local_steps.py what several steps of
an inner optimizer have changed.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol, SupportsIndex

from leash.ps.errors import UsageError
from leash.worker.client import StepInfo
from leash.worker.client.arguments import checked_samples
from leash.worker.client.memory import Slab

NO_INNER: Final = "local_steps={}: needs an inner optimizer; make PSOptimizer with inner=..."


class StepPath(Protocol):
    """Brings a step's gradients to the server, and the common parameters back.

    Attributes:
        every: how many steps make one push; to set it to what cannot be raises UsageError.
    """

    every: int

    @property
    def overlap(self) -> bool:
        """Whether gradients leave during backward, so that `begin` has to come before it."""
        ...

    @property
    def is_open(self) -> bool:
        """Whether a part of the next step has been taken, whose gradients are fixed by now."""
        ...

    @property
    def is_begun(self) -> bool:
        """Whether `begin` was called for the next step."""
        ...

    @property
    def pending(self) -> int:
        """How many steps have been taken and not pushed."""
        ...

    @property
    def is_broken_off(self) -> bool:
        """Whether a step ended in the middle, by Ctrl-C for example, so that `recover` is due.

        It is False after an error that ended this worker's part, which the next call raises again.
        """
        ...

    @property
    def kept(self) -> Slab:
        """The common parameters that this worker had before the step or round that it is in.

        They stay as they are until `recover` has returned.
        """
        ...

    def begin(self, samples: SupportsIndex) -> None:
        """Notes how many samples are behind the next step."""
        ...

    def finish(
        self, samples: SupportsIndex | None = None, *, skips: bool = False
    ) -> StepInfo | None:
        """Takes the step, and pushes if it is time to.

        Args:
            samples: how many are behind the step, if `begin` was not told; 1 if neither was.
            skips: leaves the gradients out, so that the step contributes nothing, but counts.

        Returns:
            What happened to the push; None if there was none.

        Raises:
            EvictedError: the server went on without this worker, and what was not answered is
                lost; call `recover`.
            LeashError: whatever else ended this worker's part.
        """
        ...

    def clear_sent(self, *, zeros: bool) -> None:
        """Takes away what stands for gradients that the last step has sent.

        Args:
            zeros: puts zeros in their place; otherwise None.
        """
        ...

    def flush(self) -> StepInfo | None:
        """Pushes the steps that are pending, if there are any.

        Returns:
            What happened to the push; None if there was none.

        Raises:
            LeashError: what `finish` raises.
        """
        ...

    def recover(self, pull: Callable[[Slab], int]) -> int:
        """Forgets what was lost or broken off, and takes over the common parameters.

        Args:
            pull: fills a slab with them and returns their version.

        Returns:
            That version.
        """
        ...

    def reload(self, pull: Callable[[Slab], int]) -> int:
        """Takes over the common parameters between two steps; steps that are pending are over.

        Args:
            pull: fills a slab with them and returns their version.

        Returns:
            That version.
        """
        ...

    def state(self) -> dict[str, Any]:
        """Copies what this worker alone has, in the form that `worker_state.py` shows."""
        ...

    def load_state(self, own: Mapping[str, Any]) -> None:
        """Goes on where another worker was when it told its `state`.

        Args:
            own: what `state` has told.

        Raises:
            UsageError: one of the two has an inner optimizer and the other has none.
        """
        ...

    def close(self) -> None:
        """Forgets the steps that are pending, and lets go of the model.

        A second call does nothing.
        """
        ...


def agreed_samples(told: int | None, samples: SupportsIndex | None) -> int:
    """Decides how many samples are behind a step.

    Args:
        told: what `begin_step` was told; None if it was not called.
        samples: what step() was told; None if nothing.

    Returns:
        The one that was told; 1 if neither was.

    Raises:
        ArgumentError: `samples` is no whole number.
        UsageError: both were told, and they differ.
    """
    if samples is None:
        return 1 if told is None else told
    count = checked_samples(samples)
    if told is None:
        return count
    if count != told:
        raise UsageError(f"step(samples={samples}): begin_step was told {told}; leave it out here")
    return told
