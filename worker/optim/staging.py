"""Copies between a GPU and the slabs, through page-locked memory and on a CUDA stream of its own.

::

    computing stream   backward ── gradient k ──┐ gradient k-1 ...        ┌─ wait ─ next forward
    copying stream                              └─ copy k ▸ slab │ event  │
                                                                          │
    this thread        ... event k is over: its chunk may be sent ...  slab ▸ parameters

The slabs themselves are the page-locked memory: no second buffer lies in between. The copying
stream follows the computing stream, so that a gradient is complete when it is read, and nobody
reads a parameter any more when it is overwritten. All copies go through one stream, hence happen in
the order in which they were asked for.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, Protocol

import torch
from torch import Tensor

from leash.ps.errors import UsageError
from leash.worker.client.memory import Slab

CAPTURED: Final = (
    "a CUDA graph is being captured, and replays no hooks, which send gradients with overlap: make "
    "PSOptimizer with overlap=False, and call step() after each replay"
)


class Event(Protocol):
    """A point in the copying stream."""

    def query(self) -> bool:
        """Whether everything before this point is done."""
        ...

    def synchronize(self) -> None:
        """Waits until everything before this point is done."""
        ...


class Gpu(Protocol):
    """What staging asks of CUDA; a test passes an imitation."""

    def holds(self, tensor: Tensor) -> bool:
        """Whether the tensor lies on this GPU."""
        ...

    def register(self, slab: Slab) -> None:
        """Locks the slab's pages, which stay where they are until `unregister`.

        Args:
            slab: begins at the begin of a page.

        Raises:
            UsageError: the system does not allow it.
        """
        ...

    def unregister(self, slab: Slab) -> None:
        """Unlocks the slab's pages; does nothing if they are not locked."""
        ...

    def is_capturing(self) -> bool:
        """Whether what is computed is recorded for a CUDA graph, and not done now."""
        ...

    def follow_compute(self) -> None:
        """Makes the copying stream wait for what the computing stream was given so far."""
        ...

    def hold_compute(self) -> None:
        """Makes the computing stream wait for what the copying stream was given so far."""
        ...

    def copy(self, target: Tensor, source: Tensor) -> None:
        """Copies on the copying stream, converting the dtype; does not wait."""
        ...

    def mark(self) -> Event:
        """Marks the point in the copying stream that is behind all work given so far."""
        ...

    def mark_compute(self) -> Event:
        """Marks the point in the computing stream that is behind all work given so far."""
        ...


class TorchGpu:
    """A GPU as torch knows it."""

    def __init__(self, device: torch.device) -> None:
        self._device: Final = device
        self._stream: Final = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._registered: Final[set[int]] = set()

    def holds(self, tensor: Tensor) -> bool:
        return tensor.device == self._device

    def register(self, slab: Slab) -> None:
        address = slab.ctypes.data
        with torch.cuda.device(self._device):
            status = int(_cudart().cudaHostRegister(address, slab.nbytes, 0))
        if status != 0:
            # It cannot go on without: CUDA would report this error again at whatever comes next.
            raise UsageError(
                f"CUDA cannot lock {slab.nbytes} bytes of memory (error {status}): free some, "
                "see ulimit -l, or take --device cpu"
            )
        self._registered.add(address)

    def unregister(self, slab: Slab) -> None:
        address = slab.ctypes.data
        if address in self._registered:
            self._registered.remove(address)
            # Its status does not matter: a driver that shuts down has unlocked everything.
            _cudart().cudaHostUnregister(address)

    def is_capturing(self) -> bool:
        return torch.cuda.is_current_stream_capturing()

    def follow_compute(self) -> None:
        self._stream.wait_stream(torch.cuda.current_stream(self._device))

    def hold_compute(self) -> None:
        torch.cuda.current_stream(self._device).wait_stream(self._stream)

    def copy(self, target: Tensor, source: Tensor) -> None:
        with torch.cuda.stream(self._stream):
            target.copy_(source, non_blocking=True)
        # Its owner may free the tensor now, but torch must not reuse its memory before it was read.
        (source if source.is_cuda else target).record_stream(self._stream)

    def mark(self) -> Event:
        event: Event = self._stream.record_event()
        return event

    def mark_compute(self) -> Event:
        event: Event = torch.cuda.current_stream(self._device).record_event()
        return event


def _cudart() -> Any:
    return torch.cuda.cudart()  # type: ignore[no-untyped-call]


def gpu_of(tensors: Iterable[Tensor]) -> TorchGpu | None:
    """Finds the GPU of the first tensor that lies on one; tensors on others are copied plainly.

    Args:
        tensors: a model's.

    Returns:
        That GPU; None if no tensor lies on one.
    """
    device = next((tensor.device for tensor in tensors if tensor.is_cuda), None)
    return None if device is None else TorchGpu(device)


class Staging:
    """The copies in flight between one GPU and the slabs. One thread at a time uses it."""

    def __init__(self, gpu: Gpu, slabs: Sequence[Slab]) -> None:
        """Locks the pages of the slabs.

        Args:
            gpu: where the other ends of the copies are.
            slabs: each begins at the begin of a page.

        Raises:
            UsageError: the system does not allow so much locked memory.
        """
        self._gpu: Final = gpu
        self._slabs: Final = tuple(slabs)
        self._leaving: Final[deque[tuple[int, Event]]] = deque()
        self._coming: Event | None = None
        try:
            for slab in self._slabs:
                gpu.register(slab)
        except BaseException:
            # Pages that stay locked after their memory is gone can never be locked again.
            self._unlock()
            raise

    def holds(self, tensor: Tensor) -> bool:
        """Whether the tensor lies on this GPU, so that `send` and `receive` copy it."""
        return self._gpu.holds(tensor)

    def require_no_capture(self) -> None:
        """Refuses to take part in a CUDA graph, which would not repeat what hooks do.

        Raises:
            UsageError: one is being captured; the text names the mend.
        """
        if self._gpu.is_capturing():
            raise UsageError(CAPTURED)

    @torch.no_grad()
    def send(self, slot: int, source: Tensor, place: Tensor) -> None:
        """Begins to copy a slot into its place in a slab, once it has been computed.

        Args:
            slot: the number under which `arrived` or `await_all` gives it back.
            source: on the GPU.
            place: in a slab; nobody else may use it until the slot is given back.
        """
        self._gpu.follow_compute()
        self._gpu.copy(place, source)
        self._leaving.append((slot, self._gpu.mark()))

    def arrived(self) -> Iterator[int]:
        """Gives back the slots that have arrived in the slab since the last call. Never waits."""
        while self._leaving and self._leaving[0][1].query():
            yield self._leaving.popleft()[0]

    def await_all(self) -> Iterator[int]:
        """Gives back the slots that are still on their way, each as soon as it has arrived."""
        while self._leaving:
            self._leaving[0][1].synchronize()
            yield self._leaving.popleft()[0]

    @torch.no_grad()
    def receive(self, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Begins to copy places of a slab into the model's tensors, which wait for it on the GPU.

        Args:
            pairs: place and tensor. Nobody may change the places until `settle` was called.
        """
        self._gpu.follow_compute()
        for place, tensor in pairs:
            self._gpu.copy(tensor, place)
        self._gpu.hold_compute()
        self._coming = self._gpu.mark()

    def settle(self) -> None:
        """Waits until the copies that `receive` began have read the slab."""
        if self._coming is not None:
            self._coming.synchronize()
            self._coming = None

    def computed(self) -> Event:
        """The point at which the GPU has computed all that it was given so far."""
        return self._gpu.mark_compute()

    def drop(self) -> None:
        """Waits for every copy, and forgets which slots were on their way.

        It waits for those too that `send` or `receive` had begun when it was broken off.
        """
        self._gpu.mark().synchronize()
        self._leaving.clear()
        self._coming = None

    def close(self) -> None:
        """Waits for every copy, and unlocks the slabs' pages; a second call does nothing."""
        self.drop()
        self._unlock()

    def _unlock(self) -> None:
        for slab in self._slabs:
            self._gpu.unregister(slab)
