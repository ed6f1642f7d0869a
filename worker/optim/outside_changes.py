"""Notices what is done to parameters outside step(), which the next answer would undo.

Three signs are looked at. Whatever changes a tensor in place counts its version up. Whatever gives
it other memory (``vector_to_parameters``, ``to``, ``half``) changes its address. A write through
``data`` does neither, so a part of the parameters is also compared with what was answered: the next
1/64 of them in each step, so that all have been looked at after 64.
"""

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from leash.ps.errors import UsageError
from leash.worker.optim.slabs import ModelSlabs, Place

OUTSIDE_PARTS: Final = 64

CHANGED: Final = (
    "parameter {} was changed outside step(), and the next answer would undo it: call "
    "optimizer.publish() after the change, which makes this worker's values everybody's; what is "
    "done after every step (a clamp, a norm, a mask) belongs into an inner optimizer (inner=...), "
    "a clamp or a norm also into a group's clamp= or max_norm=; optimizer.rejoin() takes the "
    "common values again"
)


class OutsideChanges:
    """Compares the parameters with what they were after the last step. Buffers may change."""

    def __init__(self, slabs: ModelSlabs) -> None:
        """Takes the parameters for unchanged as they are now.

        Args:
            slabs: hold them.
        """
        self._slabs: Final = slabs
        self._places: Final = [
            (offset, place)
            for offset, place in zip(slabs.layout.offsets, slabs.places, strict=True)
            if place.is_parameter
        ]
        nbytes = max((at + place.slot.nbytes for at, place in self._places), default=0)
        self._part_nbytes: Final = -(-nbytes // OUTSIDE_PARTS)
        self._part = OUTSIDE_PARTS - 1
        self.mark()

    def mark(self) -> None:
        """Takes the parameters for unchanged as they are now, and turns to the next part."""
        self._part = (self._part + 1) % OUTSIDE_PARTS
        self._start = self._part * self._part_nbytes
        self._stop = self._start + self._part_nbytes
        self._kept = self._slabs.parameters[self._start : self._stop].tobytes()
        self._signs = [(p.tensor._version, p.tensor.data_ptr()) for _, p in self._places]

    def check(self) -> None:
        """Looks at versions and addresses, which costs next to nothing.

        Raises:
            UsageError: a parameter was changed; the text names it and the ways out.
        """
        self._slabs.notice_moves()
        for (_, place), (version, address) in zip(self._places, self._signs, strict=True):
            if place.tensor._version != version:
                raise _error(place)
            # One that was moved or converted, and has its values still, may go on.
            if place.tensor.data_ptr() != address and not _has_values(place):
                raise _error(place)

    def check_part(self) -> None:
        """Compares the part whose turn it is.

        Raises:
            UsageError: as from `check`.
        """
        kept, start, stop = self._kept, self._start, self._stop
        now = self._slabs.parameters[start:stop].tobytes()
        if now != kept:
            at = start + next(i for i in range(len(kept)) if now[i] != kept[i])
            raise _error(next(p for begin, p in self._places if at < begin + p.slot.nbytes))
        for begin, place in self._places:
            overlaps = begin < stop and begin + place.slot.nbytes > start
            if not place.is_view and overlaps and not self._has_its_part(begin, place):
                raise _error(place)

    def _has_its_part(self, begin: int, place: Place) -> bool:
        """Whether a copied tensor has the values that were answered, as far as it is in the part.

        One that is not contiguous is compared as a whole, when its begin is in the part.
        """
        if not place.tensor.is_contiguous():
            return begin < self._start or _has_values(place)
        itemsize = place.values.element_size()
        first = max(0, self._start - begin) // itemsize
        last = -(-(self._stop - begin) // itemsize)
        return _are_alike(
            place.tensor.detach().view(-1)[first:last], place.values.view(-1)[first:last]
        )


def _has_values(place: Place) -> bool:
    return place.tensor.shape == place.values.shape and _are_alike(
        place.tensor.detach(), place.values
    )


def _are_alike(now: Tensor, answered: Tensor) -> bool:
    """Whether a tensor has these values, rounded to its dtype; a NaN is like another."""
    now, answered = now.cpu(), answered.to(now.dtype)
    return torch.equal(now, answered) or torch.allclose(now, answered, 0, 0, equal_nan=True)


@torch.no_grad()
def first_changed(before: Sequence[tuple[Place, Tensor]]) -> Place | None:
    """Finds the first tensor that has other values than before; waits for each GPU only once.

    Args:
        before: places, with copies of what their tensors were.

    Returns:
        Its place; None if all have the same values.
    """
    flags: dict[torch.device, list[tuple[Place, Tensor]]] = {}  # whether each differs
    for place, kept in before:
        now = place.tensor
        if now.shape != kept.shape or now.device != kept.device or now.dtype != kept.dtype:
            return place
        if now.device.type == "cpu" and torch.equal(now, kept):
            continue
        differs = ((now != kept) & ~(now.isnan() & kept.isnan())).any()
        flags.setdefault(now.device, []).append((place, differs))
    for found in flags.values():
        on_device = torch.stack([flag for _, flag in found]).tolist()
        if any(on_device):
            return found[on_device.index(True)][0]
    return None


def _error(place: Place) -> UsageError:
    return UsageError(CHANGED.format(place.slot.name))
