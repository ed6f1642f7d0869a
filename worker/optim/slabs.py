"""Torch tensors become bytes here, and nowhere else.

Two slabs hold a model: one its parameters, the other their gradients. Where torch allows it, the
model's tensors *are* views of the first, so that nothing is scattered; a gradient is copied into
the second, with overlap as soon as it has been computed. A step's answers overwrite its gradients;
then the two slabs change places:

::

            slab A                    slab B
    step 1  parameters ▸ forward      gradients ▸ pushed, answered: parameters
    step 2  gradients ▸ ...           parameters ▸ forward

Backward reads parameters in one slab while answers come into the other. Where somebody else uses a
parameter's memory (``detach()``, numpy, a second model), it has to stay where it is: then the
answers are copied, and the slabs do not change places in that step.

With local steps the slabs keep their places. A round of them begins with the common parameters in
both. At its end the difference of the two says what the round has changed; it is written to slab B,
from which it is pushed:

::

            slab A                    slab B
    begin   parameters ▸ trained      the same, as they came
    end     parameters, H steps on    B - A ▸ pushed, answered: parameters ▸ copied to A
"""

import math
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor, UntypedStorage, nn

from leash.ps.errors import UsageError
from leash.ps.wire.layout import Layout, Slot
from leash.worker.client.memory import Slab, SlabMemory
from leash.worker.optim.staging import Gpu, Staging

NamedTensors = Iterable[tuple[str, Tensor]]

_NUMPY_DTYPES: Final = {"f32": np.float32, "f64": np.float64}

CONVERTED: Final = (
    "{} was converted to {}, and this run keeps the dtype that it began with, {}: convert it back, "
    "or convert the model before PSOptimizer is made; torch.autocast computes in another precision"
)
IN_ANOTHERS_PLACE: Final = (
    "{} was given the memory of another parameter by data =, and a run keeps the values of each "
    "apart: clone it, or tie weights by assigning the parameter before the optimizer is made"
)

# Counts who holds a storage: tensors, and through them arrays of numpy. Some torch may not tell.
_users: Callable[[int], int] | None = getattr(torch._C, "_storage_Use_Count", None)


def _users_of(storage: UntypedStorage) -> float:
    return math.nan if _users is None else _users(storage._cdata)


class Home:
    """A place in a slab that a parameter may have for its memory.

    Attributes:
        tensor: the place, with a storage of its own.
        address: where it lies in the slab.
    """

    __slots__ = ("_references", "_storage", "_users", "address", "tensor")

    def __init__(self, tensor: Tensor) -> None:
        """Takes the place for one that no parameter has yet.

        Args:
            tensor: a view of a slab, of which nobody else knows yet.
        """
        self.tensor: Final = tensor
        self.address: Final = tensor.data_ptr()
        self._storage: Final = tensor.untyped_storage()
        self._references: Final = sys.getrefcount(self._storage)
        self._users: Final = _users_of(self._storage)

    @property
    def is_left(self) -> bool:
        """Whether its memory has left the slab: into shared memory, for another process."""
        return self.tensor.data_ptr() != self.address

    @property
    def has_others(self) -> bool:
        """Whether its memory may have another user than the one parameter that has it."""
        is_alone = _users_of(self._storage) <= self._users + 1
        return not is_alone or sys.getrefcount(self._storage) > self._references


@dataclass(slots=True)
class Place:
    """One of the model's tensors, and its place in either slab, of the slot's dtype and shape.

    Attributes:
        slot: what the layout says of the tensor.
        tensor: the model's own.
        values: its place in the slab of parameters.
        gradient: its place in the slab of gradients.
        homes: the two places, in the order of the slabs.
        dtype: of the tensor when the run began.
        is_view: whether the tensor's memory is `values`. A tensor that is no view is copied.
    """

    slot: Slot
    tensor: Tensor
    values: Tensor
    gradient: Tensor
    homes: list[Home]
    dtype: torch.dtype
    is_view: bool

    @property
    def is_parameter(self) -> bool:
        """Whether it is trained; otherwise it is a buffer."""
        return self.slot.kind == "parameter"

    def source(self) -> Tensor | None:
        """What the tensor pushes: a parameter's gradient, or a buffer's values."""
        return self.tensor.grad if self.is_parameter else self.tensor


class ModelSlabs:
    """A model's tensors, their layout, and the two slabs.

    Attributes:
        layout: says what is where in a slab.
        memory: holds the two slabs.
        staging: copies between a GPU and the slabs; None without a GPU.
        places: the model's tensors and their places, in the order of the layout's slots.
    """

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
            gpu: copies the tensors that lie on it without making anybody wait. Without it all
                copies are plain ones.
            has_outbox: whether a codec rewrites gradients and needs room for them.

        Raises:
            UsageError: there are no parameters, or one is neither of 16, 32 nor 64-bit floating
                point.
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
        self._now = 0  # the index of the slab that holds the parameters
        self.places: Final = self._make_places(tensors)

    def _make_places(self, tensors: dict[str, Tensor]) -> tuple[Place, ...]:
        owners = Counter(_storage_of(tensor) for tensor in tensors.values())
        places = []
        for offset, slot in zip(self.layout.offsets, self.layout.slots, strict=True):
            tensor = tensors[slot.name]
            homes = [Home(view_of(slab, offset, slot)) for slab in self.memory.slabs]
            values, gradient = homes[0].tensor, homes[1].tensor
            is_view = owners[_storage_of(tensor)] == 1 and _may_be_view(tensor)
            values.copy_(tensor.detach())
            if is_view:
                tensor.data = values
            places.append(Place(slot, tensor, values, gradient, homes, tensor.dtype, is_view))
        return tuple(places)

    @property
    def parameters(self) -> Slab:
        """The slab that holds the parameters, and the buffers' values."""
        return self.memory.slabs[self._now]

    @property
    def gradients(self) -> Slab:
        """The slab that gradients are pushed from and answers are written to."""
        return self.memory.slabs[1 - self._now]

    # Gradients ▸ slab.

    @torch.no_grad()
    def take(self, slot: int, *, is_absent: bool = False) -> bool:
        """Brings what a slot pushes into its place in the slab of gradients.

        A parameter pushes its gradient; one that has none is absent from the push, and its place
        holds zeros. A buffer pushes its values.

        Args:
            slot: its place in `places`.
            is_absent: takes a parameter for one without a gradient.

        Returns:
            Whether it lies there by now; if not, `staging` tells when.
        """
        place = self.places[slot]
        source = None if is_absent else place.source()
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

    def settle_places(self) -> None:
        """Tells every place again which slab is which, after a `flip` that was broken off."""
        for place in self.places:
            self._settle_place(place)

    def _settle_place(self, place: Place) -> None:
        place.values = place.homes[self._now].tensor
        place.gradient = place.homes[1 - self._now].tensor

    def flip(self, absent: Collection[int] = ()) -> None:
        """Makes what the answers have written the model's parameters.

        The slabs change places, unless somebody else uses the memory of a parameter: it has to see
        the new values too, so they are copied.

        Args:
            absent: slots that were pushed without a gradient. Where nobody has changed one, it is
                left alone.
        """
        self.notice_moves()
        unchanged = self._unchanged(absent)
        if self._has_aliases():
            if self.staging is not None:
                self.staging.settle()  # what it copies from here
            for slot, place in enumerate(self.places):
                if slot not in unchanged:
                    place.values.copy_(place.gradient)
        else:
            self._now = 1 - self._now
            self.settle_places()
        self._show(unchanged)

    def _unchanged(self, absent: Collection[int]) -> set[int]:
        return {s for s in absent if torch.equal(self.places[s].values, self.places[s].gradient)}

    def _has_aliases(self) -> bool:
        """Whether a tensor's place in the slab has another user than that tensor."""
        return any(place.is_view and place.homes[self._now].has_others for place in self.places)

    def notice_moves(self) -> None:
        """Looks for tensors that have left their places for good, which are copied from now on.

        ``share_memory`` and what sends a tensor to another process take a place's memory out of the
        slab; ``data =``, ``to`` and ``half`` give a tensor other memory.

        Raises:
            UsageError: one lies in another's place, or has another dtype; the text names it.
        """
        for place, offset in zip(self.places, self.layout.offsets, strict=True):
            if place.tensor.dtype != place.dtype:
                raise UsageError(CONVERTED.format(place.slot.name, place.tensor.dtype, place.dtype))
            if not place.is_view:
                continue
            home, at = place.homes[self._now], place.tensor.data_ptr()
            if home.is_left:
                place.homes[self._now] = Home(view_of(self.parameters, offset, place.slot))
                self._settle_place(place)
                place.is_view = False
            elif at == home.address and _is_like(place.tensor, place.values):
                continue
            elif at != place.gradient.data_ptr():  # where a `flip` that was broken off has left it
                place.is_view = False
                if self._holds(at):
                    raise UsageError(IN_ANOTHERS_PLACE.format(place.slot.name))

    def _holds(self, address: int) -> bool:
        """Whether an address lies in one of the slabs."""
        return any(0 <= address - slab.ctypes.data < slab.nbytes for slab in self.memory.slabs)

    def forget_gradients(self) -> None:
        """Makes every parameter's ``grad`` None."""
        for place in self.places:
            place.tensor.grad = None

    def show(self) -> None:
        """Makes the values in the slab of parameters, which are new there, those of the model."""
        self.notice_moves()
        self._show()

    def _show(self, unchanged: Collection[int] = ()) -> None:
        for slot, place in enumerate(self.places):
            if not place.is_view:
                continue
            if place.tensor.data_ptr() != place.homes[self._now].address:
                place.tensor.data = place.values
            if slot not in unchanged:
                # As every optimizer's step does: so backward refuses a graph of the step before.
                torch.autograd.graph.increment_version(place.tensor)
        self.scatter(unchanged)

    @torch.no_grad()
    def scatter(self, unchanged: Collection[int] = ()) -> None:
        """Copies the slab of parameters to those of the model's tensors that are no views of it.

        Args:
            unchanged: slots whose tensors have these values already.
        """
        staged = []
        for slot, place in enumerate(self.places):
            if place.is_view or slot in unchanged:
                continue
            if self.staging is not None and self.staging.holds(place.tensor):
                staged.append((place.values, place.tensor))
            else:
                place.tensor.copy_(place.values)
        if self.staging is not None and staged:
            self.staging.receive(staged)

    @torch.no_grad()
    def gathered(self) -> Slab:
        """Copies what the model's tensors hold now into a slab of its own.

        Raises:
            UsageError: as from `notice_moves`.
        """
        self.notice_moves()
        slab = np.zeros_like(self.parameters)
        for offset, place in zip(self.layout.offsets, self.places, strict=True):
            view_of(slab, offset, place.slot).copy_(place.tensor)
        return slab

    # Rounds of local steps.

    @torch.no_grad()
    def begin_round(self) -> None:
        """Makes the values in the slab of gradients the model's parameters too."""
        self.settle()
        for place in self.places:
            if place.tensor.dtype.itemsize < place.gradient.dtype.itemsize:
                # The model begins with rounded values. So must the round, or it would push the
                # rounding as if it were progress.
                place.gradient.copy_(place.gradient.to(place.tensor.dtype))
        self.notice_moves()
        self.parameters[:] = self.gradients
        for place in self.places:
            if place.is_view:
                torch.autograd.graph.increment_version(place.tensor)
        self.scatter()

    @torch.no_grad()
    def end_round(self) -> None:
        """Fills the slab of gradients with what a round pushes.

        For a parameter that is its value at the round's beginning minus the one now; for a buffer,
        its value.
        """
        self.notice_moves()
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
        """Waits until no copy uses a slab, so that either may be overwritten at any time."""
        if self.staging is not None:
            self.staging.drop()

    def close(self) -> None:
        """Closes the memory, which lives on as long as the model; a second call does nothing."""
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


def view_of(slab: Slab, offset: int, slot: Slot) -> Tensor:
    """Makes a slot's place. Its storage is this slot alone: a copied model copies no whole slab."""
    numbers = slab[offset : offset + slot.nbytes].view(_NUMPY_DTYPES[slot.dtype])
    return torch.from_numpy(numbers).view(slot.shape)


def is_alone(tensor: Tensor) -> bool:
    """Whether nothing but a tensor uses its memory: no view or alias of it, no array of numpy."""
    return _users_of(tensor.untyped_storage()) <= _USERS_OF_ONE


_one: Final = torch.zeros(1)
_USERS_OF_ONE: Final = _users_of(_one.untyped_storage())


def _storage_of(tensor: Tensor) -> tuple[torch.device, int]:
    return tensor.device, tensor.untyped_storage().data_ptr()


def _may_be_view(tensor: Tensor) -> bool:
    """Whether a tensor can move into a slab without anybody noticing.

    One that shares its storage cannot, with other tensors or processes: they would stay behind. Nor
    can one of a subclass, which may keep its numbers elsewhere.
    """
    return (
        type(tensor) in (Tensor, nn.Parameter)
        and tensor.device.type == "cpu"
        and tensor.dtype in (torch.float32, torch.float64)
        and tensor.is_contiguous()
        and tensor.untyped_storage().nbytes() == tensor.nbytes
        and is_alone(tensor)
        and not tensor.is_shared()  # type: ignore[no-untyped-call]
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
