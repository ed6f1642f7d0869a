"""Sends a step's gradients while backward still computes further ones.

::

    backward   layer 3 │ layer 2      │ layer 1   │
    hooks            ▼               ▼           ▼
    slab       ... ▐███████████████████ chunk 1 ▌▐ chunk 0 ... first_ready falls from the end to 0
    wire                             chunk 2 ▸   chunk 1 ▸   chunk 0 ▸  step() waits for the answers

Chunks go in one fixed order, from the last to the first, which is about the order in which backward
completes them. A chunk is complete when all slots in it are.
"""

import threading
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, Final, Protocol, SupportsIndex

import torch
from torch import Tensor
from torch.autograd import Variable
from torch.utils.hooks import RemovableHandle

from leash.ps.errors import EvictedError, LeashError, UsageError
from leash.ps.wire.layout import Chunk, Layout
from leash.worker.client import StepInfo
from leash.worker.client.arguments import checked_samples
from leash.worker.client.memory import Slab
from leash.worker.optim.outside_changes import OutsideChanges, first_changed
from leash.worker.optim.sent_gradient import SentGradient, is_for, is_kept, sent_gradient
from leash.worker.optim.slabs import ModelSlabs, Place
from leash.worker.optim.step_path import NO_INNER, agreed_samples

TWICE: Final = (
    "a gradient was computed twice in one step, which has been sent in part: call step() after "
    "every backward; to add gradients up, make PSOptimizer with overlap=False (leash worker: "
    "--no-overlap); optimizer.rejoin() gives this step up"
)
REPLACED: Final = (
    "the gradient of {} was changed, replaced or removed after it had been sent: with overlap, "
    "what changes gradients before step() needs PSOptimizer with overlap=False (leash worker: "
    "--no-overlap)"
)
NOT_ZEROED: Final = (
    "with overlap, step() uses gradients up, and those of the last step were not zeroed: call "
    "optimizer.zero_grad() before begin_step() and one backward() for each step; to use gradients "
    "again or to add them up, make PSOptimizer with overlap=False (leash worker: --no-overlap)"
)
BUFFER_CHANGED: Final = (
    "buffer {} was changed after it had been sent: with overlap, shared buffers leave with the "
    "first gradient; change it before backward or after step(), or make PSOptimizer with "
    "overlap=False (leash worker: --no-overlap)"
)
SENT_BY_ANOTHER: Final = (
    "the gradient of {} was sent by another PSOptimizer: give each parameter to one optimizer, and "
    "close() the one before if this one takes its place"
)
NOT_BEGUN: Final = (
    "with overlap, call optimizer.begin_step(samples=...) before backward, once a step; or make "
    "PSOptimizer with overlap=False"
)


class StepClient(Protocol):
    """The part of `leash.worker.client.client.Client` that a step uses."""

    @property
    def chunks(self) -> tuple[Chunk, ...]:
        """The layout's chunks, in the order of the slab."""
        ...

    def begin_step(
        self, gradients: Slab, parameters: Slab, samples: int, *,
        absent: Collection[int], held: Slab | None,
    ) -> None:  # fmt: skip
        """Opens a step over a slab of gradients and one for the parameters that come back."""
        ...

    def advance(self, first_ready: int) -> None:
        """Sends what may go, now that the chunks from this one on are complete. Never waits."""
        ...

    def finish_step(self) -> StepInfo:
        """Sends the rest, and waits for all answers."""
        ...


class Progress:
    """Knows which chunks of a step are complete.

    Attributes:
        chunks: the layout's.
        first_ready: from this chunk to the last, all chunks are complete.
    """

    def __init__(self, layout: Layout, chunks: tuple[Chunk, ...]) -> None:
        """Finds the chunks that each slot has a part in; no chunk is complete yet.

        Args:
            layout: of the model.
            chunks: as `layout` was cut.
        """
        starts = [chunk.start for chunk in chunks]
        self._chunks_of: Final = [
            range(bisect_right(starts, offset) - 1, bisect_left(starts, offset + slot.nbytes))
            if slot.nbytes
            else range(0)
            for offset, slot in zip(layout.offsets, layout.slots, strict=True)
        ]
        slots = [0] * len(chunks)  # how many slots have a part in each chunk
        for span in self._chunks_of:
            for chunk in span:
                slots[chunk] += 1
        self.chunks: Final = chunks
        self._slots: Final = slots
        self.restart()

    def restart(self) -> None:
        """Begins a new step, of which no chunk is complete."""
        self._missing = self._slots.copy()
        self.first_ready = len(self.chunks)

    def complete(self, slot: int) -> None:
        """Notes that a slot's numbers are in the slab; to be called once a step for each slot."""
        for chunk in self._chunks_of[slot]:
            self._missing[chunk] -= 1
            assert self._missing[chunk] >= 0
        while self.first_ready and not self._missing[self.first_ready - 1]:
            self.first_ready -= 1


class StepStream:
    """Brings a step's gradients from backward to the server, and the parameters back.

    With overlap the stream takes a gradient as soon as backward has computed it, and ``grad`` is a
    `SentGradient` from then on, until it is zeroed. Without overlap a gradient stays where autograd
    made it, until it is zeroed, so that whoever uses it has what torch would give; `finish` copies
    it.

    Hooks run in the threads that run backward: the one that called it for parameters on the
    processor, and one of torch's for each GPU. A lock keeps two of them from using the client at
    once, where a model lies on several devices. `finish` needs none: backward is over by then.

    Attributes:
        overlap: whether gradients leave during backward.
        is_open: whether a part of the step has been taken.
    """

    pending: Final = 0  # every step is a push

    def __init__(
        self, slabs: ModelSlabs, client: StepClient, *, overlap: bool,
        on_backward: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        """With overlap, hooks into the backward pass of every parameter.

        Args:
            slabs: hold the model's tensors.
            client: pushes the steps.
            overlap: whether gradients leave during backward.
            on_backward: called when the first gradient of such a backward is there.
        """
        self._on_backward: Final = on_backward
        self.overlap: Final = overlap
        self._slabs: Final = slabs
        self._client: Final = client
        self._hooks: Final[dict[int, RemovableHandle]] = {}
        self._stand_ins: Final[dict[int, Tensor]] = {}  # for gradients that were sent, by slot
        self._failure: LeashError | None = None  # an error after which no step is taken any more
        self._progress = Progress(slabs.layout, client.chunks)
        self._outside: Final = OutsideChanges(slabs)
        self._hook_lock = threading.Lock()
        self._unzeroed: set[int] = set()  # with overlap: slots whose gradients the last step sent
        self._reset()
        self._add_hooks()

    def _reset(self) -> None:
        self.is_open: bool = False
        self._samples: int | None = None  # how many are behind the step, from `begin`
        self._taken: set[int] = set()  # slots that were read: they are in the slab or on their way
        self._absent: set[int] = set()  # those of them that have no gradient
        self._skips = False  # whether the step leaves out all gradients
        self._sent_buffers: list[tuple[Place, Tensor]] = []  # those that left before `finish`
        self._kept: list[tuple[Place, Tensor, int]] = []  # sent gradients that others keep
        self._evicted: EvictedError | None = None
        self._in_backward = False  # whether a backward that sends gradients has not come to its end
        self._is_finishing = False  # whether `finish` has begun, and not come to its end

    def _add_hooks(self) -> None:
        """With overlap, hooks into the parameters that need a gradient by now and have no hook."""
        if not self.overlap:
            return
        for slot, place in enumerate(self._slabs.places):
            if place.is_parameter and place.tensor.requires_grad and slot not in self._hooks:
                register: Any = place.tensor.register_post_accumulate_grad_hook
                self._hooks[slot] = register(self._hook(slot))

    def _hook(self, slot: int) -> Callable[[Tensor], None]:
        def take(_: Tensor) -> None:
            with self._hook_lock:
                self._on_gradient(slot)

        return take

    # The step.

    @property
    def every(self) -> int:
        """How many steps make one push: 1, and no other number."""
        return 1

    @every.setter
    def every(self, every: int) -> None:
        if every != 1:
            raise UsageError(NO_INNER.format(every))

    @property
    def is_begun(self) -> bool:
        """Whether `begin` was called for the next step."""
        return self._samples is not None

    @property
    def is_broken_off(self) -> bool:
        """Whether a step, or a backward that sends gradients, ended in the middle."""
        return (self._is_finishing or self._in_backward) and self._failure is None

    @property
    def kept(self) -> Slab:
        """The common parameters that this worker had before the step that it is in."""
        return self._slabs.parameters

    def begin(self, samples: SupportsIndex) -> None:
        """Notes how many samples are behind the gradients that backward is about to compute.

        Args:
            samples: how many.

        Raises:
            UsageError: gradients were sent already that no `finish` has followed yet; or a
                parameter was changed outside a step.
            LeashError: what ended this worker's part before.
        """
        self._require_sound()
        if self.is_open:
            raise UsageError(TWICE)
        self._outside.check()
        self._unzeroed = {slot for slot in self._unzeroed if self._has_stand_in(slot)}
        self._samples = checked_samples(samples)
        self._add_hooks()

    def finish(self, samples: SupportsIndex | None = None, *, skips: bool = False) -> StepInfo:
        """Sends what has not been sent, waits for all answers, and makes them the parameters.

        Args:
            samples: how many are behind the gradients, if `begin` was not told; 1 if neither was.
            skips: leaves the gradients out, so that the step contributes nothing.

        Returns:
            What happened to the step.

        Raises:
            UsageError: a parameter was changed outside a step; or a gradient, or that there is
                none, or a buffer, after it had been sent; or a gradient of the step before was not
                zeroed. Nothing more is sent; if a part was sent, the step is lost.
            EvictedError: the server went on without this worker, and the step is lost; call
                `recover`.
            LeashError: whatever else ended this worker's part, during backward or now.
        """
        sent_s = self._send_arriving()
        self._require_sound()
        agreed = 0 if skips else agreed_samples(self._samples, samples)
        self._outside.check()
        self._outside.check_part()
        if not self.is_open:
            self._require_untouched()
        self._is_finishing = True
        self._require_untouched()
        self._skips = skips
        with self._remembering():
            if self._evicted is not None:
                raise self._evicted
            info = self._exchange(agreed)
        self._unzeroed = {slot for slot in self._taken if self._has_stand_in(slot)}
        self._flip(self._absent)
        return replace(info, wait_s=info.wait_s + sent_s)

    def flush(self) -> None:
        """Nothing to do: no step is ever pending."""

    def clear_sent(self, *, zeros: bool) -> None:
        """Takes away what stands for gradients that the last step has sent.

        Args:
            zeros: puts zeros in their place; otherwise None.
        """
        for slot in filter(self._has_stand_in, self._unzeroed):
            tensor = self._slabs.places[slot].tensor
            tensor.grad = torch.zeros_like(tensor, requires_grad=False) if zeros else None
        self._unzeroed = set()

    def recover(self, pull: Callable[[Slab], int]) -> int:
        """Forgets a step that was lost or broken off, and takes over the common parameters.

        Args:
            pull: fills a slab with them and returns their version.

        Returns:
            That version.
        """
        self._is_finishing = True  # a `recover` that is broken off is made good by the next one
        self._failure = None
        # Between the end of a hook and its release of the lock an exception may have come too.
        self._hook_lock = threading.Lock()
        self._slabs.settle()
        self._slabs.settle_places()
        version = pull(self._slabs.gradients)
        self._slabs.forget_gradients()  # they belong to parameters that are gone
        self._unzeroed = set()
        self._flip()
        return version

    def reload(self, pull: Callable[[Slab], int]) -> int:
        """Takes over the common parameters between two steps; gradients stay as they are.

        Args:
            pull: fills a slab with them and returns their version.

        Returns:
            That version.
        """
        self._is_finishing = True  # one that is broken off is made good as a step is
        self._slabs.settle()
        version = pull(self._slabs.parameters)
        self._slabs.show()
        self._outside.mark()
        self._is_finishing = False
        return version

    def state(self) -> dict[str, Any]:
        """Says that every step was pushed."""
        return {"inner": None, "local_steps": 1, "round": None}

    def load_state(self, own: Mapping[str, Any]) -> None:
        """Checks that there is nothing to take over.

        Args:
            own: what `state` of another stream has told.

        Raises:
            UsageError: it is that of an inner optimizer.
        """
        if own["inner"] is not None:
            raise UsageError(
                "load_state_dict: this is the state of a PSOptimizer with an inner optimizer; make "
                "this one with inner=... too"
            )

    def close(self) -> None:
        """Removes the hooks; a second call does nothing."""
        for hook in self._hooks.values():
            hook.remove()
        self._hooks.clear()
        for place in self._slabs.places:
            if isinstance(place.tensor.grad, SentGradient):
                place.tensor.grad = None

    # How it is done.

    def _flip(self, absent: Collection[int] = ()) -> None:
        self._slabs.flip(absent)
        self._outside.mark()
        self._reset()  # last: what is broken off before is made good

    def _exchange(self, samples: int) -> StepInfo:
        self._open(samples)
        for slot in reversed(range(len(self._slabs.places))):
            if slot not in self._taken:
                self._take(slot)
        staged_s = self._await_copies()
        info = self._client.finish_step()
        return replace(info, wait_s=info.wait_s + staged_s)

    def _open(self, samples: int) -> None:
        """Opens the step, and takes the slots that backward will not compute."""
        if self.is_open:
            return
        gradients = self._slabs.gradients
        self._client.begin_step(
            gradients, gradients, samples, absent=self._absent, held=self._slabs.parameters
        )
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
        place = self._slabs.places[slot]
        is_absent = place.is_parameter and (self._skips or place.tensor.grad is None)
        if is_absent:
            self._absent.add(slot)
        elif not place.is_parameter and not self._is_finishing:
            self._sent_buffers.append((place, place.tensor.detach().clone()))
        if self._slabs.take(slot, is_absent=is_absent):
            self._progress.complete(slot)

    def _send_arriving(self) -> float:
        """Sends what hooks have taken while the GPU still computes; returns the seconds waited.

        A GPU is often far behind the thread that runs backward. All that comes after this, such as
        a look at the parameters, would wait until the GPU has computed the last gradient. An error
        is raised by whatever comes next.
        """
        if not self.is_open or self._evicted is not None or self._failure is not None:
            return 0.0
        self._is_finishing = True  # if it is broken off, the step is
        waited_s = 0.0
        with suppress(LeashError), self._remembering():
            waited_s = self._await_copies()
        self._is_finishing = False
        return waited_s

    def _await_copies(self) -> float:
        """Sends the copies from a GPU as they arrive.

        Returns:
            The seconds that took, without those in which the GPU still computed.
        """
        staging = self._slabs.staging
        if staging is None:
            return 0.0
        began_s = time.perf_counter()
        computed = staging.computed()
        for slot in staging.await_all():
            if not computed.query():
                began_s = time.perf_counter()
            self._progress.complete(slot)
            self._client.advance(self._progress.first_ready)
        return time.perf_counter() - began_s

    def _on_gradient(self, slot: int) -> None:
        """Takes a gradient that backward has just computed, and sends the chunks it completes."""
        place = self._slabs.places[slot]
        tensor = place.tensor
        if tensor.grad is None:
            return  # frozen since the forward pass: torch calls the hook, and accumulates nothing
        if isinstance(tensor.grad, SentGradient):
            raise UsageError(SENT_BY_ANOTHER.format(place.slot.name))
        try:
            if self._evicted is None and self._failure is None:
                self._stream(slot)
        finally:
            # So that a second backward makes a new gradient and adds nothing to this one, which is
            # being sent.
            tensor.grad = self._stand_in(slot, tensor) if slot in self._taken else None

    def _stand_in(self, slot: int, parameter: Tensor) -> Tensor:
        stand_in = self._stand_ins.get(slot)
        if stand_in is None or not is_for(stand_in, parameter):
            stand_in = self._stand_ins[slot] = sent_gradient(parameter)
        return stand_in

    def _stream(self, slot: int) -> None:
        if self._slabs.staging is not None:
            self._slabs.staging.require_no_capture()
        if self._samples is None:
            raise UsageError(NOT_BEGUN)
        if slot in self._taken:
            self._failure = UsageError(TWICE)
            raise self._failure
        if not self.is_open:
            self._require_zeroed(slot)
        self._note_kept(slot)
        # `finish` raises what ends this worker's part: a training loop expects it from step().
        self._note_backward()
        with suppress(LeashError), self._remembering():
            self._open(self._samples)
            self._take(slot)
            self._send()

    def _note_backward(self) -> None:
        """Has torch tell when this backward comes to its end, which one that fails never does."""
        if not self._in_backward:
            self._in_backward = True
            self._on_backward()
            Variable._execution_engine.queue_callback(self._end_backward)

    def _end_backward(self) -> None:
        self._in_backward = False

    def _has_stand_in(self, slot: int) -> bool:
        return isinstance(self._slabs.places[slot].tensor.grad, SentGradient)

    def _require_zeroed(self, first: int) -> None:
        """Refuses the first gradient of a step that would be added to those of the step before.

        Its own slot cannot tell any more: autograd has added it to what stood there. If there is no
        other slot, what `begin` has seen counts.

        Raises:
            UsageError: the text names the mend.
        """
        others = self._unzeroed - {first}
        if any(map(self._has_stand_in, others)) or self._unzeroed == {first}:
            raise UsageError(NOT_ZEROED)

    def _note_kept(self, slot: int) -> None:
        """Keeps a gradient that another hook keeps too, to see whether it is changed after this."""
        place = self._slabs.places[slot]
        if is_kept(place.tensor):
            assert place.tensor.grad is not None
            self._kept.append((place, place.tensor.grad, place.tensor.grad._version))

    def _require_untouched(self) -> None:
        """Refuses a step of which anything was changed after it had been sent.

        Raises:
            UsageError: the text names the parameter or buffer.
        """
        if not self.overlap:
            return
        for slot, place in enumerate(self._slabs.places):
            if not place.is_parameter:
                continue
            if slot not in self._taken:
                if self._has_stand_in(slot):
                    raise UsageError(NOT_ZEROED)
                continue
            left = None if slot in self._absent else self._stand_ins.get(slot, place.tensor.grad)
            if place.tensor.grad is not left:
                raise UsageError(REPLACED.format(place.slot.name))
        for place, gradient, version in self._kept:
            if gradient._version != version:
                raise UsageError(REPLACED.format(place.slot.name))
        if (changed := first_changed(self._sent_buffers)) is not None:
            raise UsageError(BUFFER_CHANGED.format(changed.slot.name))

    def _send(self) -> None:
        if self._slabs.staging is not None:
            for slot in self._slabs.staging.arrived():
                self._progress.complete(slot)
        self._client.advance(self._progress.first_ready)

    @contextmanager
    def _remembering(self) -> Iterator[None]:
        """Keeps an error, so that every later call of this step raises it again."""
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
