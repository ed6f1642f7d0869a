"""What ``grad`` is after a gradient was sent during backward: a tensor that nobody can use.

None would do no harm to backward, but ``clip_grad_norm_``, a GradScaler and people's own loops pass
over it: they would clip nothing, and say so to nobody.
"""

import sys
from typing import Any, Final

import torch
from torch import Tensor

from leash.ps.errors import UsageError
from leash.worker.optim.slabs import is_alone

SENT: Final = (
    "this gradient was sent while backward computed others, so nothing can read, clip or unscale "
    "it, before step() or after: to use clip_grad_norm_, a GradScaler, clip_norm= or norms of "
    "gradients, make PSOptimizer with overlap=False (leash worker: --no-overlap)"
)


# What a module does with its parameters' gradients when it is converted, moved or shared, which
# uses none of their numbers.
_QUESTIONS: Final = frozenset(
    (Tensor.is_floating_point, Tensor.is_complex, Tensor.dim,
     Tensor.requires_grad.__get__,  # type: ignore[attr-defined]
     torch._has_compatible_shallow_copy_type)
)  # fmt: skip
_CONVERSIONS: Final = frozenset(
    (Tensor.to, Tensor.half, Tensor.float, Tensor.double, Tensor.bfloat16, Tensor.cpu, Tensor.cuda,
     Tensor.type, Tensor.share_memory_, Tensor.requires_grad_, torch.empty_like)
)  # fmt: skip
_SET_DATA: Final = Tensor.data.__set__  # type: ignore[attr-defined]


class SentGradient(Tensor):
    """Stands for a gradient that has left; every use of its numbers in Python raises UsageError."""

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is Tensor.__repr__:  # so that a debugger can show it
            return "<a gradient that was sent>"
        if func in _QUESTIONS:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **(kwargs or {}))
        if func in _CONVERSIONS:
            return args[0]
        if func == _SET_DATA and args[0] is args[1]:
            return None
        raise UsageError(SENT)


def sent_gradient(parameter: Tensor) -> Tensor:
    """Makes a stand-in for a parameter's gradient, which holds no numbers.

    It is sparse and empty, so that it takes no memory, and a second backward can add to it: the
    hook that finds out must come to be called.

    Args:
        parameter: whose gradient was sent.
    """
    # Not `sparse_coo_tensor`, by which some torch warns that nobody has checked what it was given.
    empty = torch.empty(
        parameter.shape, dtype=parameter.dtype, device=parameter.device, layout=torch.sparse_coo
    )
    return torch.Tensor._make_subclass(SentGradient, empty)


def is_for(stand_in: Tensor, parameter: Tensor) -> bool:
    """Whether a stand-in can be the gradient of a parameter, which may have been converted."""
    with torch._C.DisableTorchFunctionSubclass():
        return stand_in.dtype == parameter.dtype and stand_in.device == parameter.device


def is_kept(parameter: Tensor) -> bool:
    """Whether somebody keeps a parameter's gradient, or an alias of it.

    Args:
        parameter: has a gradient, of which the caller has no reference.
    """
    gradient = parameter.grad
    assert gradient is not None
    if sys.getrefcount(gradient) > _REFERENCES_TO_ONE:
        return True
    return not gradient.is_sparse and not is_alone(gradient)


def _references_to_one() -> int:
    """How many references Python counts in `is_kept` where nobody keeps the gradient."""
    parameter = torch.zeros(1, requires_grad=True)
    parameter.grad = torch.zeros(1)
    gradient = parameter.grad
    return sys.getrefcount(gradient)


_REFERENCES_TO_ONE: Final = _references_to_one()
