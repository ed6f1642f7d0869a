"""Who else uses a tensor or its memory: whoever does has to see what an optimizer writes there."""

import sys
from typing import Any, Final

import torch
from torch import Tensor

# A torch that does not tell how many users a storage has is taken to say that it has many.
_users: Final[Any] = getattr(torch._C, "_storage_Use_Count", lambda _: 1 << 30)


def is_alone(tensor: Tensor) -> bool:
    """Whether nothing but a tensor uses its memory: no view or alias of it, no array of numpy."""
    return bool(_users(tensor.untyped_storage()._cdata) <= _OF_ONE)


_OF_ONE: Final = int(_users(torch.zeros(1).untyped_storage()._cdata))


def is_kept(parameter: Tensor) -> bool:
    """Whether somebody keeps a parameter's gradient, or an alias of it.

    Args:
        parameter: has a gradient, of which the caller has no reference.
    """
    gradient = parameter.grad
    assert gradient is not None
    if sys.getrefcount(gradient) > _REFERENCES:
        return True
    return not gradient.is_sparse and not is_alone(gradient)


def _references_of_own() -> int:
    """How many references Python counts where nobody keeps a gradient."""
    parameter = torch.zeros(1, requires_grad=True)
    parameter.grad = torch.zeros(1)
    gradient = parameter.grad
    return sys.getrefcount(gradient)


_REFERENCES: Final = _references_of_own()


class Home:
    """A place in a slab that a parameter may have for its memory.

    Attributes:
        tensor: the place, with a storage of its own.
        address: where it lies in the slab.
    """

    __slots__ = ("_empty", "_references", "_storage", "address", "tensor")

    def __init__(self, tensor: Tensor) -> None:
        """Takes the place for one that no parameter has yet.

        Args:
            tensor: a view of a slab, of which nobody else knows yet.
        """
        self.tensor: Final = tensor
        self.address: Final = tensor.data_ptr()
        self._storage: Final = tensor.untyped_storage()
        self._references: Final = sys.getrefcount(self._storage)
        self._empty: Final = int(_users(self._storage._cdata))

    @property
    def is_left(self) -> bool:
        """Whether its memory has left the slab: into shared memory, for another process."""
        return self.tensor.data_ptr() != self.address

    @property
    def has_others(self) -> bool:
        """Whether its memory has another user than the one parameter that has it."""
        return bool(
            _users(self._storage._cdata) > self._empty + 1
            or sys.getrefcount(self._storage) > self._references
        )
