"""The one place where torch memory meets bytes.

A model's parameters, and its floating-point buffers, are copied to and from two slabs: one for what
is pushed (gradients; the values of buffers) and one for what is pulled. Both live in the memory of
the CPU, page-locked when the model is on a GPU.
"""

from collections.abc import Iterable
from typing import Final

import torch
from torch import Tensor

from ps.errors import UsageError
from ps.layout import Layout, Slot
from worker.memory import Slab

NamedTensors = Iterable[tuple[str, Tensor]]

_DTYPES: Final = {"f32": torch.float32, "f64": torch.float64}


class ModelSlabs:
    """A model's tensors, their layout, and the slabs through which they travel."""

    def __init__(self, parameters: NamedTensors, buffers: NamedTensors = ()) -> None:
        """Args:
            parameters: name and tensor, as ``model.named_parameters()`` gives them. Half precision
                travels as f32, which is how the server keeps it.
            buffers: as ``model.named_buffers()`` gives them. Those that hold no floating-point
                numbers stay with this worker.

        Raises:
            UsageError: no parameters, or one that is neither of 16, 32 nor 64-bit floating point.
        """
        self._tensors: Final[dict[str, tuple[Tensor, bool]]] = {}
        slots = []
        for name, tensor in parameters:
            slots.append(Slot(name, _dtype_of(name, tensor), tuple(tensor.shape)))
            self._tensors[name] = (tensor, True)
        for name, tensor in buffers:
            if tensor.is_floating_point():
                slots.append(Slot(name, _dtype_of(name, tensor), tuple(tensor.shape), "buffer"))
                self._tensors[name] = (tensor, False)
        if not slots:
            raise UsageError("the model has no parameters: there is nothing to train")
        self.layout: Final = Layout(slots)
        is_cuda = any(tensor.is_cuda for tensor, _ in self._tensors.values())
        self._outgoing, self.outgoing = self._slab(is_cuda)
        self._incoming, self.incoming = self._slab(is_cuda)

    def _slab(self, is_cuda: bool) -> tuple[list[Tensor], Slab]:
        """A view for every slot, and the whole as bytes."""
        flat = torch.zeros(self.layout.nbytes, dtype=torch.uint8, pin_memory=is_cuda)
        views = [
            flat[offset : offset + slot.nbytes].view(_DTYPES[slot.dtype]).view(slot.shape)
            for offset, slot in zip(self.layout.offsets, self.layout.slots, strict=True)
        ]
        return views, flat.numpy()

    @torch.no_grad()
    def gather_values(self) -> None:
        """Parameters and buffers ▸ incoming slab: this process's own values."""
        for view, slot in zip(self._incoming, self.layout.slots, strict=True):
            view.copy_(self._tensors[slot.name][0])

    @torch.no_grad()
    def gather_gradients(self) -> None:
        """Gradients, and the values of buffers ▸ outgoing slab. A missing gradient counts as 0."""
        for view, slot in zip(self._outgoing, self.layout.slots, strict=True):
            tensor, is_parameter = self._tensors[slot.name]
            source = tensor.grad if is_parameter else tensor
            if source is None:
                view.zero_()
            else:
                view.copy_(source.to_dense() if source.is_sparse else source)

    @torch.no_grad()
    def scatter(self) -> None:
        """Incoming slab ▸ parameters and buffers."""
        for view, slot in zip(self._incoming, self.layout.slots, strict=True):
            self._tensors[slot.name][0].copy_(view)


def _dtype_of(name: str, tensor: Tensor) -> str:
    if not tensor.is_floating_point() or tensor.element_size() == 1:
        raise UsageError(
            f"parameter {name} is {tensor.dtype}: Leash trains floating-point numbers of 16, 32 "
            "or 64 bits"
        )
    return "f64" if tensor.dtype == torch.float64 else "f32"
