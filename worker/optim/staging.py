"""The way between a GPU and the slabs: page-locked memory, and a CUDA stream of its own.

::

    computing stream   backward ── gradient k ──┐ gradient k-1 ...        ┌─ wait ─ next forward
    copying stream                              └─ copy k ▸ slab │ event  │
                                                                          │
    this thread        ... event k is over: its chunk may be sent ...  slab ▸ parameters

The slabs themselves are the page-locked memory: no second buffer lies in between. Whatever is
copied follows the computing stream, so that a gradient is complete when it is read and nobody reads
a parameter any more when it is overwritten. All copies go through one stream, hence happen in the
order in which they were asked for.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, Protocol

import torch
from torch import Tensor

from leash.ps.errors import UsageError
from leash.worker.client.memory import Slab


class Event(Protocol):
    """A point in the copying stream."""

    def query(self) -> bool:
        """Whether everything before it is done."""
        ...

    def synchronize(self) -> None:
        """Waits until everything before it is done."""
        ...


class Gpu(Protocol):
    """What staging asks of CUDA, so that a test can stand in for it."""

    def holds(self, tensor: Tensor) -> bool:
        """Whether the tensor lies on this GPU."""
        ...

    def register(self, slab: Slab) -> None:
        """Locks the slab's pages. They begin on one, and stay where they are until `unregister`.

        Raises:
            UsageError: the system does not allow it.
        """
        ...

    def unregister(self, slab: Slab) -> None: ...

    def follow_compute(self) -> None:
        """The copying stream waits for what the computing stream was given so far."""
        ...

    def hold_compute(self) -> None:
        """The computing stream waits for what the copying stream was given so far."""
        ...

    def copy(self, target: Tensor, source: Tensor) -> None:
        """Copies on the copying stream, converting the dtype; does not wait."""
        ...

    def mark(self) -> Event:
        """The point that the copying stream has been given work up to."""
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
            # No going on without: CUDA reports this error once more, at whatever comes next.
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

    def follow_compute(self) -> None:
        self._stream.wait_stream(torch.cuda.current_stream(self._device))

    def hold_compute(self) -> None:
        torch.cuda.current_stream(self._device).wait_stream(self._stream)

    def copy(self, target: Tensor, source: Tensor) -> None:
        with torch.cuda.stream(self._stream):
            target.copy_(source, non_blocking=True)
        # Its memory may be freed by now, but must not be given away before it was read.
        (source if source.is_cuda else target).record_stream(self._stream)

    def mark(self) -> Event:
        event: Event = self._stream.record_event()
        return event


def _cudart() -> Any:
    return torch.cuda.cudart()  # type: ignore[no-untyped-call]


def gpu_of(tensors: Iterable[Tensor]) -> TorchGpu | None:
    """The GPU of the first tensor that lies on one. Those on further GPUs are copied plainly."""
    device = next((tensor.device for tensor in tensors if tensor.is_cuda), None)
    return None if device is None else TorchGpu(device)


class Staging:
    """Copies in flight between one GPU and the slabs. For one thread at a time."""

    def __init__(self, gpu: Gpu, slabs: Sequence[Slab]) -> None:
        self._gpu: Final = gpu
        self._slabs: Final = tuple(slabs)
        self._leaving: Final[deque[tuple[int, Event]]] = deque()
        self._coming: Event | None = None
        for slab in self._slabs:
            gpu.register(slab)

    def holds(self, tensor: Tensor) -> bool:
        """Whether this tensor takes this way."""
        return self._gpu.holds(tensor)

    @torch.no_grad()
    def send(self, slot: int, source: Tensor, place: Tensor) -> None:
        """Begins to copy a slot into its place in a slab, once it has been computed.

        `place` belongs to the copy until `arrived` or `await_all` gives the slot back.
        """
        self._gpu.follow_compute()
        self._gpu.copy(place, source)
        self._leaving.append((slot, self._gpu.mark()))

    def arrived(self) -> Iterator[int]:
        """The slots that have come to lie in the slab since the last call. Never waits."""
        while self._leaving and self._leaving[0][1].query():
            yield self._leaving.popleft()[0]

    def await_all(self) -> Iterator[int]:
        """The slots that are still on their way, each as soon as it lies in the slab."""
        while self._leaving:
            self._leaving[0][1].synchronize()
            yield self._leaving.popleft()[0]

    @torch.no_grad()
    def receive(self, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Begins to copy places of a slab into the model's tensors, which wait for it on the GPU.

        Args:
            pairs: place and tensor. The places must not change until `settle` was called.
        """
        self._gpu.follow_compute()
        for place, tensor in pairs:
            self._gpu.copy(tensor, place)
        self._gpu.hold_compute()
        self._coming = self._gpu.mark()

    def settle(self) -> None:
        """Waits until nothing that was received is still being read from a slab."""
        if self._coming is not None:
            self._coming.synchronize()
            self._coming = None

    def drop(self) -> None:
        """Waits for every copy, and forgets which slots were on their way."""
        deque(self.await_all(), maxlen=0)
        self.settle()

    def close(self) -> None:
        """Gives the slabs' pages back. Twice does no harm."""
        self.drop()
        for slab in self._slabs:
            self._gpu.unregister(slab)
