"""Who else uses a tensor or its memory: whoever does has to see what an optimizer writes there."""

import math
import sys
from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor, UntypedStorage

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


def is_alone(tensor: Tensor) -> bool:
    """Whether nothing but a tensor uses its memory: no view or alias of it, no array of numpy."""
    return _users_of(tensor.untyped_storage()) <= _USERS_OF_ONE


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


_one: Final = torch.zeros(1)
_USERS_OF_ONE: Final = _users_of(_one.untyped_storage())
_REFERENCES_TO_ONE: Final = _references_to_one()
