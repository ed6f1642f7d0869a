"""The one place where torch memory meets bytes.

Two slabs hold a model: one its parameters, the other their gradients. Where torch allows it, the
model's tensors *are* views of the first, and a gradient moves into the second as soon as it has
been computed, so that nothing is gathered or scattered. A step's answers overwrite its gradients;
then the two slabs change places:

::

            slab A                    slab B
    step 1  parameters ▸ forward      gradients ▸ pushed, answered: parameters
    step 2  gradients ▸ ...           parameters ▸ forward

Backward reads parameters in one slab while answers come into the other.

With local steps the slabs keep their places. A round of them begins with the common parameters in
both; what it has changed is the difference of the two, which is written where it is pushed from:

::

            slab A                    slab B
    begin   parameters ▸ trained      the same, as they came
    end     parameters, H steps on    B - A ▸ pushed, answered: parameters ▸ copied to A
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from leash.ps.errors import UsageError
from leash.ps.wire.layout import Layout, Slot
from leash.worker.client.memory import Slab, SlabMemory
from leash.worker.optim.staging import Gpu, Staging

NamedTensors = Iterable[tuple[str, Tensor]]

_NUMPY_DTYPES: Final = {"f32": np.float32, "f64": np.float64}


@dataclass(slots=True)
class Place:
    """One of the model's tensors, and its place in either slab, of the slot's dtype and shape."""

    slot: Slot
    tensor: Tensor
    values: Tensor  # in the slab of parameters
    gradient: Tensor  # in the slab of gradients
    is_view: bool  # the tensor's memory is `values`; others are copied

    @property
    def is_parameter(self) -> bool:
        return self.slot.kind == "parameter"

    def source(self) -> Tensor | None:
        """What is pushed: a gradient, or a buffer's values."""
        return self.tensor.grad if self.is_parameter else self.tensor


class ModelSlabs:
    """A model's tensors, their layout, and the two slabs."""

    def __init__(
        self,
        parameters: NamedTensors,
        buffers: NamedTensors = (),
        *,
        gpu: Gpu | None = None,
        has_outbox: bool = False,
    ) -> None:
        """Moves the model into a slab, where it can.

        Args:
            parameters: name and tensor, as ``model.named_parameters()`` gives them. Half precision
                travels as f32, which is how the server keeps it.
            buffers: as ``model.named_buffers()`` gives them. Those that hold no floating-point
                numbers stay with this worker.
            gpu: carries the tensors that it holds without making anybody wait. Without it all
                copies are plain ones.
            has_outbox: for gradients that a codec rewrites.

        Raises:
            UsageError: no parameters, or one that is neither of 16, 32 nor 64-bit floating point.
        """
        tensors: dict[str, Tensor] = {}
        slots = []
        for name, tensor in parameters:
            slots.append(Slot(name, _dtype_of(name, tensor), tuple(tensor.shape)))
            tensors[name] = tensor
        for name, tensor in buffers:
            if tensor.is_floating_point():
                slots.append(Slot(name, _dtype_of(name, tensor), tuple(tensor.shape), "buffer"))
                tensors[name] = tensor
        if not slots:
            raise UsageError("the model has no parameters: there is nothing to train")
        self.layout: Final = Layout(slots)
        self.memory: Final = SlabMemory(self.layout.nbytes, has_outbox=has_outbox)
        self.staging: Final = Staging(gpu, self.memory.slabs) if gpu is not None else None
        self._now = 0  # which of the two slabs holds the parameters
        self.places: Final = self._make_places(tensors)

    def _make_places(self, tensors: dict[str, Tensor]) -> tuple[Place, ...]:
        owners = Counter(_storage_of(tensor) for tensor in tensors.values())
        places = []
        for offset, slot in zip(self.layout.offsets, self.layout.slots, strict=True):
            tensor = tensors[slot.name]
            values, gradient = (_view(slab, offset, slot) for slab in self.memory.slabs)
            is_view = owners[_storage_of(tensor)] == 1 and _may_be_view(tensor)
            values.copy_(tensor.detach())
            if is_view:
                tensor.data = values
            places.append(Place(slot, tensor, values, gradient, is_view))
        return tuple(places)

    @property
    def parameters(self) -> Slab:
        """The slab that holds the parameters, and the buffers' values."""
        return self.memory.slabs[self._now]

    @property
    def gradients(self) -> Slab:
        """The other one."""
        return self.memory.slabs[1 - self._now]

    # Gradients ▸ slab.

    @torch.no_grad()
    def keep_gradient(self, place: Place) -> None:
        """Moves a fresh gradient into its place, and lets further ones be added to it there.

        For after a parameter's backward, when its gradient is still in the processor's cache.
        """
        gradient = place.tensor.grad
        if not place.is_view or gradient is None or gradient.requires_grad:
            return  # copied when it is pushed
        if not _is_at(gradient, place.gradient):
            place.gradient.copy_(_dense(gradient))
            # Not the place itself: what is done to `grad.data` must not move it.
            place.tensor.grad = place.gradient.detach()

    @torch.no_grad()
    def take(self, slot: int) -> bool:
        """Brings what a slot pushes into its place: its gradient, 0 if missing; a buffer's values.

        Returns:
            Whether it lies there by now; if not, `staging` tells when.
        """
        place = self.places[slot]
        source = place.source()
        if self.staging is not None and self.staging.holds(place.tensor):
            if source is not None:
                self.staging.send(slot, _dense(source), place.gradient)
                return False
            self.staging.settle()
        if source is None:
            place.gradient.zero_()
        elif not _is_at(source, place.gradient):
            place.gradient.copy_(_dense(source))
        return True

    # Slab ▸ parameters.

    def flip(self) -> None:
        """The slabs change places: what the answers overwrote are now the model's parameters.

        Gradients are gone with it: every parameter's ``grad`` is None.
        """
        self._now = 1 - self._now
        for place in self.places:
            place.values, place.gradient = place.gradient, place.values
            place.tensor.grad = None
            # A model that was moved or converted since has left its slab for good.
            if place.is_view and _is_like(place.tensor, place.values):
                place.tensor.data = place.values
                # As every optimizer's step does: a graph of the step before is refused by backward.
                torch.autograd.graph.increment_version(place.tensor)
            else:
                place.is_view = False
        self.scatter()

    @torch.no_grad()
    def scatter(self) -> None:
        """Slab of parameters ▸ those of the model's tensors that are not views of it."""
        staged = []
        for place in self.places:
            if place.is_view:
                continue
            if self.staging is not None and self.staging.holds(place.tensor):
                staged.append((place.values, place.tensor))
            else:
                place.tensor.copy_(place.values)
        if self.staging is not None and staged:
            self.staging.receive(staged)

    # Rounds of local steps.

    @torch.no_grad()
    def begin_round(self) -> None:
        """The common parameters lie in the slab of gradients: takes them over, and keeps them."""
        self.settle()
        for place in self.places:
            if place.tensor.dtype.itemsize < place.gradient.dtype.itemsize:
                # The model begins with rounded values, so the round does: rounding is no progress.
                place.gradient.copy_(place.gradient.to(place.tensor.dtype))
        self.parameters[:] = self.gradients
        for place in self.places:
            # A model that was moved or converted since has left its slab for good.
            place.is_view = place.is_view and _is_at(place.tensor, place.values)
            if place.is_view:
                torch.autograd.graph.increment_version(place.tensor)
        self.scatter()

    @torch.no_grad()
    def end_round(self) -> None:
        """Slab of gradients: how far each parameter was moved, downwards; and buffers' values."""
        for slot, place in enumerate(self.places):
            if self.staging is not None and self.staging.holds(place.tensor):
                self.staging.send(slot, place.tensor.detach(), place.values)
            elif not _is_at(place.tensor, place.values):
                place.values.copy_(place.tensor)
        self.settle()
        for place in self.places:
            if place.is_parameter:
                place.gradient.sub_(place.values)
            else:
                place.gradient.copy_(place.values)

    def settle(self) -> None:
        """Waits until no copy uses a slab, so that either may be overwritten out of turn."""
        if self.staging is not None:
            self.staging.drop()

    def close(self) -> None:
        """Lets go of the memory, which lives as long as the model. Twice does no harm."""
        if self.staging is not None:
            self.staging.close()
        self.memory.close()


def _dtype_of(name: str, tensor: Tensor) -> str:
    if not tensor.is_floating_point() or tensor.element_size() == 1:
        raise UsageError(
            f"parameter {name} is {tensor.dtype}: Leash trains floating-point numbers of 16, 32 "
            "or 64 bits"
        )
    return "f64" if tensor.dtype == torch.float64 else "f32"


def _view(slab: Slab, offset: int, slot: Slot) -> Tensor:
    """A slot's place. Its storage is this slot alone: a copy of a model copies no whole slab."""
    numbers = slab[offset : offset + slot.nbytes].view(_NUMPY_DTYPES[slot.dtype])
    return torch.from_numpy(numbers).view(slot.shape)


def _storage_of(tensor: Tensor) -> tuple[torch.device, int]:
    return tensor.device, tensor.untyped_storage().data_ptr()


def _may_be_view(tensor: Tensor) -> bool:
    """Whether a tensor can move into a slab without anybody noticing.

    Not one that is part of something larger, whose other part would stay behind; and no subclass,
    which may keep its memory elsewhere.
    """
    return (
        type(tensor) in (Tensor, nn.Parameter)
        and tensor.device.type == "cpu"
        and tensor.dtype in (torch.float32, torch.float64)
        and tensor.is_contiguous()
        and tensor.untyped_storage().nbytes() == tensor.nbytes
    )


def _is_at(tensor: Tensor, place: Tensor) -> bool:
    return (
        not tensor.is_sparse
        and tensor.data_ptr() == place.data_ptr()
        and tensor.dtype == place.dtype
        and tensor.is_contiguous()
    )


def _is_like(tensor: Tensor, place: Tensor) -> bool:
    return (
        tensor.dtype == place.dtype
        and tensor.device == place.device
        and tensor.shape == place.shape
    )


def _dense(tensor: Tensor) -> Tensor:
    return tensor.to_dense() if tensor.is_sparse else tensor
