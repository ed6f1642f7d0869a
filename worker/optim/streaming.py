"""A step's gradients leave while backward still computes the next ones.

::

    backward   layer 3 │ layer 2      │ layer 1   │
    hooks            ▼               ▼           ▼
    slab       ... ▐███████████████████ chunk 1 ▌▐ chunk 0 ... first_ready falls from the end to 0
    wire                             chunk 2 ▸   chunk 1 ▸   chunk 0 ▸  step() waits for the answers

Chunks go in one fixed order, from the last to the first, which is about the order in which backward
completes them. A chunk is complete when all slots in it are.
"""

import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, Final, Protocol

from torch import Tensor
from torch.utils.hooks import RemovableHandle

from leash.ps.errors import EvictedError, LeashError, UsageError
from leash.ps.wire.layout import Chunk, Layout
from leash.worker.client import StepInfo
from leash.worker.client.memory import Slab
from leash.worker.optim.slabs import ModelSlabs
from leash.worker.optim.step_path import NO_INNER, agreed_samples

TWICE: Final = (
    "a gradient was computed twice in one step, which has been sent in part: call step() after "
    "every backward; to add gradients up, make PSOptimizer with overlap=False (leash worker: "
    "--no-overlap)"
)
NOT_BEGUN: Final = (
    "with overlap, call optimizer.begin_step(samples=...) before backward, once a step; or make "
    "PSOptimizer with overlap=False"
)


class StepClient(Protocol):
    """Of leash.worker.client.client.Client, what a step needs."""

    chunks: tuple[Chunk, ...]

    def begin_step(self, gradients: Slab, parameters: Slab, samples: int) -> None: ...
    def advance(self, first_ready: int) -> None: ...
    def finish_step(self) -> StepInfo: ...


class Progress:
    """Which chunks of a step are complete."""

    def __init__(self, layout: Layout, chunks: tuple[Chunk, ...]) -> None:
        starts = [chunk.start for chunk in chunks]
        self._chunks_of: Final = [
            range(bisect_right(starts, offset) - 1, bisect_left(starts, offset + slot.nbytes))
            if slot.nbytes
            else range(0)
            for offset, slot in zip(layout.offsets, layout.slots, strict=True)
        ]
        slots = [0] * len(chunks)  # that each chunk has a part of
        for span in self._chunks_of:
            for chunk in span:
                slots[chunk] += 1
        self.chunks: Final = chunks
        self._slots: Final = slots
        self.restart()

    def restart(self) -> None:
        """A new step: nothing is complete."""
        self._missing = self._slots.copy()
        self.first_ready = len(self.chunks)  # from here to the end, all chunks are complete

    def complete(self, slot: int) -> None:
        """Notes that a slot's numbers are in the slab. Once a step for each slot."""
        for chunk in self._chunks_of[slot]:
            self._missing[chunk] -= 1
            assert self._missing[chunk] >= 0
        while self.first_ready and not self._missing[self.first_ready - 1]:
            self.first_ready -= 1


class StepStream:
    """The way of a step's gradients from backward to the server, and of the parameters back.

    With overlap a gradient belongs to the stream as soon as it has been computed, and ``grad`` is
    None from then on. Without, it stays readable until `finish`.

    Hooks run in the thread that runs backward: torch's own, for parameters on a GPU. The thread
    that called backward waits for it meanwhile, so the client is never used by two at once.
    """

    pending: Final = 0  # every step is a push

    def __init__(self, slabs: ModelSlabs, client: StepClient, *, overlap: bool) -> None:
        self.overlap: Final = overlap
        self._slabs: Final = slabs
        self._client: Final = client
        self._hooks: Final[dict[int, RemovableHandle]] = {}
        self._failure: LeashError | None = None  # ended the stream for good
        self._progress = Progress(slabs.layout, client.chunks)
        self._reset()
        self._add_hooks()

    def _reset(self) -> None:
        self.is_open: bool = False  # part of the step has been taken
        self._samples: int | None = None  # told by `begin`
        self._taken: set[int] = set()  # slots that were read; they are in the slab, or on their way
        self._evicted: EvictedError | None = None

    def _add_hooks(self) -> None:
        """To parameters that need a gradient, by now."""
        for slot, place in enumerate(self._slabs.places):
            if place.is_parameter and place.tensor.requires_grad and slot not in self._hooks:
                register: Any = place.tensor.register_post_accumulate_grad_hook
                self._hooks[slot] = register(self._hook(slot))

    def _hook(self, slot: int) -> Callable[[Tensor], None]:
        if self.overlap:
            return lambda _: self._on_gradient(slot)
        return lambda _: self._slabs.keep_gradient(self._slabs.places[slot])

    # The step.

    @property
    def every(self) -> int:
        """Steps that make one push: 1, and no other number."""
        return 1

    @every.setter
    def every(self, every: int) -> None:
        if every != 1:
            raise UsageError(NO_INNER.format(every))

    @property
    def is_begun(self) -> bool:
        """Whether `begin` was called for the next step."""
        return self._samples is not None

    def begin(self, samples: int) -> None:
        """Tells how many samples are behind the gradients that backward is about to compute."""
        self._require_sound()
        if self.is_open:
            raise UsageError(TWICE)
        self._samples = samples
        self._add_hooks()

    def finish(self, samples: int | None = None) -> StepInfo:
        """Sends what has not been sent, waits for all answers, and makes them the parameters.

        Args:
            samples: behind the gradients, if `begin` was not told; 1 if neither was.

        Raises:
            EvictedError: the server went on without this worker, and the step is lost; `recover`.
            LeashError: whatever else ended this worker's part, during backward or now.
        """
        self._require_sound()
        samples = agreed_samples(self._samples, samples)
        with self._remembering():
            if self._evicted is not None:
                raise self._evicted
            info = self._exchange(samples)
        self._slabs.flip()
        self._reset()
        return info

    def flush(self) -> None:
        """Nothing to do: no step is ever pending."""

    def recover(self, pull: Callable[[Slab], int]) -> int:
        """Forgets a step that was lost, and takes over the common parameters.

        Args:
            pull: fills a slab with them and returns their version.
        """
        self._slabs.settle()
        version = pull(self._slabs.gradients)
        self._slabs.flip()
        self._reset()
        return version

    def close(self) -> None:
        """Takes the hooks off. Twice does no harm."""
        for hook in self._hooks.values():
            hook.remove()
        self._hooks.clear()

    # How it is done.

    def _exchange(self, samples: int) -> StepInfo:
        self._open(samples)
        for slot in reversed(range(len(self._slabs.places))):
            if slot not in self._taken:
                self._take(slot)
        staged_s = self._await_copies()
        info = self._client.finish_step()
        return replace(info, wait_s=info.wait_s + staged_s)

    def _open(self, samples: int) -> None:
        """Begins the step on the wire, with everything that does not wait for backward."""
        if self.is_open:
            return
        gradients = self._slabs.gradients
        self._client.begin_step(gradients, gradients, samples)
        self.is_open = True
        if self._progress.chunks is self._client.chunks:
            self._progress.restart()
        else:
            self._progress = Progress(self._slabs.layout, self._client.chunks)
        for slot, place in enumerate(self._slabs.places):
            if not (place.is_parameter and place.tensor.requires_grad):
                self._take(slot)

    def _take(self, slot: int) -> None:
        self._taken.add(slot)
        if self._slabs.take(slot):
            self._progress.complete(slot)

    def _await_copies(self) -> float:
        """Sends what comes from a GPU as it comes; returns the seconds spent waiting for it."""
        if self._slabs.staging is None:
            return 0.0
        began_s = time.perf_counter()
        for slot in self._slabs.staging.await_all():
            self._progress.complete(slot)
            self._client.advance(self._progress.first_ready)
        return time.perf_counter() - began_s

    def _on_gradient(self, slot: int) -> None:
        """A gradient has been computed, during backward: takes it, and sends what is complete."""
        tensor = self._slabs.places[slot].tensor
        try:
            if self._evicted is None and self._failure is None:
                self._stream(slot)
        finally:
            # A second backward makes another, instead of adding to the one that is being sent.
            tensor.grad = None

    def _stream(self, slot: int) -> None:
        if self._samples is None:
            raise UsageError(NOT_BEGUN)
        if slot in self._taken:
            self._failure = UsageError(TWICE)
            raise self._failure
        # What ends this worker's part comes out of step(), where a loop expects it.
        with suppress(LeashError), self._remembering():
            self._open(self._samples)
            self._take(slot)
            self._send()

    def _send(self) -> None:
        if self._slabs.staging is not None:
            for slot in self._slabs.staging.arrived():
                self._progress.complete(slot)
        self._client.advance(self._progress.first_ready)

    @contextmanager
    def _remembering(self) -> Iterator[None]:
        """Keeps an error, so that nothing goes on after it."""
        try:
            yield
        except EvictedError as evicted:
            self._evicted = evicted
            raise
        except LeashError as failure:
            self._failure = failure
            raise

    def _require_sound(self) -> None:
        if self._failure is not None:
            raise self._failure
