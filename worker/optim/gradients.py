"""What is done with all gradients of a step before any of them leaves.

It has to see the whole gradient, so with overlap none of it is possible. In this order: what a
GradScaler has scaled is divided by its scale; a NaN or an infinity is refused; the norm is clipped.
"""

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

import leash.ps._core as core
from leash.ps.errors import ArgumentError, NonfiniteError, UsageError
from leash.worker.client.memory import Slab
from leash.worker.optim.slabs import ModelSlabs, Place, view_of

NO_SCALER: Final = (
    "a GradScaler cannot work with overlap: gradients left before it could divide them by its "
    "scale; make PSOptimizer with overlap=False"
)
REFUSED: Final = (
    "step {} of worker {}: slot {} has a NaN or an infinity in its gradient; nothing of the step "
    "was sent"
)
NOT_FINITE: Final = "parameter {} has a NaN or an infinity; give it finite values"

ISA: Final = core.instruction_set()
_DTYPES: Final = {torch.float32: "f32", torch.float64: "f64"}


class WholeGradient:
    """Sees to the gradients of a step, which all parameters together have."""

    def __init__(self, slabs: ModelSlabs, clip_norm: float | None, *, refuses: bool) -> None:
        """Notes what is to be done.

        Args:
            slabs: hold the model's tensors.
            clip_norm: the largest 2-norm that the whole gradient may have; None for any.
            refuses: whether a step with a NaN or an infinity is refused.
        """
        self._places: Final = [place for place in slabs.places if place.is_parameter]
        self._clip_norm: Final = clip_norm
        self._refuses: Final = refuses

    @torch.no_grad()
    def unscale(self, scale: Tensor | None) -> None:
        """Divides the gradients by the scale of a GradScaler.

        Args:
            scale: None if the scaler has done so itself.
        """
        if scale is None:
            return
        inverse = scale.double().reciprocal().float()  # as `GradScaler.unscale_` computes it
        for place in self._places:
            if place.tensor.grad is not None:
                gradient = _values_of(place.tensor.grad)
                gradient.mul_(inverse.to(gradient.device))

    def prepare(self, step: int, worker: int) -> None:
        """Looks for NaNs and infinities, then clips.

        Args:
            step: the number of the push that these gradients are for.
            worker: the rank.

        Raises:
            NonfiniteError: there is one; the text names step and slot.
        """
        if self._refuses and (place := first_nonfinite(self._places)) is not None:
            raise NonfiniteError(REFUSED.format(step, worker, place.slot.name))
        if self._clip_norm is not None:
            tensors = [place.tensor for place in self._places]
            torch.nn.utils.clip_grad_norm_(tensors, self._clip_norm)


def first_nonfinite(places: Sequence[Place]) -> Place | None:
    """Finds the first parameter whose gradient is not finite; waits for each GPU only once.

    Args:
        places: of parameters, some of which have no gradient.

    Returns:
        Its place; None if all gradients are finite.
    """
    far: dict[torch.device, list[tuple[Place, Tensor]]] = {}  # whether each is finite
    for place in places:
        gradient = place.tensor.grad
        if gradient is None or not _values_of(gradient).numel():
            continue
        if gradient.device.type != "cpu":
            norm = torch.linalg.vector_norm(_values_of(gradient).detach(), torch.inf)
            far.setdefault(gradient.device, []).append((place, torch.isfinite(norm)))
        elif not is_finite(gradient):
            return place
    for found in far.values():
        flags = torch.stack([flag for _, flag in found]).tolist()
        if not all(flags):
            return found[flags.index(False)][0]
    return None


def is_finite(tensor: Tensor) -> bool:
    """Whether a tensor on the processor holds neither a NaN nor an infinity."""
    values = _values_of(tensor).detach()
    if values.dtype not in _DTYPES or not values.is_contiguous():
        return bool(torch.isfinite(values).all())
    n = values.numel()
    memory = values.view(-1).numpy().view("u1").data
    return core.kernels.first_nonfinite(ISA, _DTYPES[values.dtype], memory, n) == n


def require_finite(slabs: ModelSlabs, slab: Slab) -> None:
    """Refuses parameters that nobody could train.

    Args:
        slabs: the model's.
        slab: of its layout, with the parameters' values.

    Raises:
        UsageError: one has a NaN or an infinity; the text names it.
    """
    for offset, place in zip(slabs.layout.offsets, slabs.places, strict=True):
        if place.is_parameter and not is_finite(view_of(slab, offset, place.slot)):
            raise UsageError(NOT_FINITE.format(place.slot.name))


def check_clip_norm(clip_norm: float | None, *, overlap: bool) -> None:
    """Refuses a norm that cannot be, before a server hears of it.

    Args:
        clip_norm: what was given for the largest norm, if anything.
        overlap: whether gradients are to leave during backward.

    Raises:
        ArgumentError: it is no number above 0, or gradients leave before there is a norm.
    """
    if clip_norm is None:
        return
    if not clip_norm > 0:
        raise ArgumentError("clip_norm", clip_norm, "give a number above 0")
    if overlap:
        raise ArgumentError(
            "clip_norm", clip_norm,
            "with overlap gradients leave before their norm is known; take overlap=False",
        )  # fmt: skip


def _values_of(gradient: Tensor) -> Tensor:
    return gradient._values() if gradient.is_sparse else gradient
