"""What `PSOptimizer` refuses before a server hears of it, each in one line that names the mend."""

import inspect
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from numpy.lib.stride_tricks import as_strided
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from leash.ps.errors import UsageError

# Of torch's optimizers: how a step is computed, not what it comes to.
_HOW_COMPUTED: Final = ("foreach", "fused", "capturable", "differentiable")
SHARES: Final = (
    "{} and {} share memory, so that each would overwrite the other: clone one of them; or tie "
    "weights by assigning the parameter, as in decoder.weight = encoder.weight"
)
EXPANDED: Final = (
    "{} is expanded: several of its numbers lie in one place, so that they cannot be set apart; "
    "clone it"
)


def refuse_options(options: dict[str, Any], of_server: Iterable[str]) -> None:
    """Refuses what an optimizer of torch would take, and PSOptimizer does not.

    Args:
        options: the keyword arguments that PSOptimizer does not know.
        of_server: the names of the options of the server's optimizer.

    Raises:
        UsageError: the first of them is an option of optimizers.
        TypeError: it is none.
    """
    known = set(of_server)
    for name, value in options.items():
        if name in known:
            raise UsageError(
                f"PSOptimizer({name}={value!r}): the optimizer runs on the server, so leave it out "
                f"here and start leash server with {_words(name, value)}"
            )
        if name in _HOW_COMPUTED:
            raise UsageError(
                f"PSOptimizer({name}={value!r}): the optimizer runs on the server, which has no "
                "such option; leave it out"
            )
        raise TypeError(f"PSOptimizer.__init__() got an unexpected keyword argument {name!r}")


def require_values(named: Iterable[tuple[str, Tensor]]) -> None:
    """Refuses parameters and buffers that have no values yet.

    Args:
        named: name and tensor of each.

    Raises:
        UsageError: one is lazy, on the meta device, or sparse; or is no tensor.
    """
    for name, tensor in named:
        if not isinstance(tensor, Tensor):
            raise UsageError(f"{name} is no tensor, but of type {type(tensor).__name__}")
        if is_lazy(tensor):
            raise UsageError(
                f"{name} is lazy and has no shape yet: run one batch through the model first, as "
                "in model(inputs)"
            )
        if tensor.is_meta:
            raise UsageError(
                f"{name} is on the meta device and has no values: make them first, with "
                'model.to_empty(device="cpu") and the first values of each layer'
            )
        if tensor.layout != torch.strided:
            raise UsageError(
                f"{name} is {tensor.layout}: Leash trains dense tensors; call to_dense() on it"
            )


def require_distinct(named: Iterable[tuple[str, Tensor]]) -> None:
    """Refuses numbers that are there under two names, of which each would overwrite the other.

    Views of one flat tensor that do not overlap may be.

    Args:
        named: name and tensor of each, dense.

    Raises:
        UsageError: a tensor is there twice, or two share memory: the text has both names; or one is
            expanded, so that several of its own numbers do.
    """
    named = list(named)
    names: dict[int, str] = {}
    for name, tensor in named:
        if (first := names.setdefault(id(tensor), name)) != name:
            raise UsageError(
                f"{first} and {name} are one tensor: give it once, as model.named_parameters() "
                "does by default"
            )
    _require_apart(named)


def _require_apart(named: Sequence[tuple[str, Tensor]]) -> None:
    storages: dict[tuple[torch.device, int], list[tuple[str, Tensor]]] = {}
    for name, tensor in named:
        key = (tensor.device, tensor.untyped_storage().data_ptr())
        if tensor.numel() and key[1]:
            storages.setdefault(key, []).append((name, tensor))
    for together in storages.values():
        if len(together) > 1 or not together[0][1].is_contiguous():
            _require_apart_in_storage(together)


def _require_apart_in_storage(together: Sequence[tuple[str, Tensor]]) -> None:
    taken = np.zeros(together[0][1].untyped_storage().nbytes(), np.bool_)  # by byte
    before: list[tuple[str, npt.NDArray[np.bool_]]] = []
    for name, tensor in together:
        nbytes = tensor.element_size()
        part = as_strided(
            taken[nbytes * tensor.storage_offset() :],
            (*tensor.shape, nbytes),
            (*(nbytes * stride for stride in tensor.stride()), 1),
        )
        if part.any():
            raise UsageError(SHARES.format(_first_of(part, taken, before), name))
        count = np.count_nonzero(taken)
        part[...] = True
        if np.count_nonzero(taken) - count < tensor.nbytes:
            raise UsageError(EXPANDED.format(name))
        before.append((name, part))


def _first_of(
    part: npt.NDArray[np.bool_],
    taken: npt.NDArray[np.bool_],
    before: Sequence[tuple[str, npt.NDArray[np.bool_]]],
) -> str:
    """The name of the first of those before that has a byte of this part."""
    taken[...] = False
    part[...] = True
    return next(name for name, theirs in before if theirs.any())


def require_parameters(params: Any) -> None:
    """Refuses a model, or one tensor, where its parameters are wanted.

    Args:
        params: what was given for parameters.

    Raises:
        UsageError: they are no collection of parameters.
    """
    if isinstance(params, nn.Module | Tensor) or not isinstance(params, Iterable):
        raise UsageError(
            f"params: got a {type(params).__name__} where the parameters with their names are "
            "wanted: pass model.named_parameters()"
        )


def require_step_without_closure(inner: Any) -> None:
    """Refuses an inner optimizer whose step cannot be taken without a closure.

    Args:
        inner: what was given for an inner optimizer, if anything.

    Raises:
        UsageError: its ``step()`` computes the loss several times, as that of LBFGS does.
    """
    if not isinstance(inner, torch.optim.Optimizer):
        return
    closure = inspect.signature(inner.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise UsageError(
            f"inner: {type(inner).__name__} computes the loss several times a step, by a closure "
            "that PSOptimizer does not hand on; take one that needs none, such as SGD or AdamW"
        )


def _words(name: str, value: Any) -> str:
    """The option of a command that stands for a keyword argument."""
    flag = f"--{name.replace('_', '-')}"
    if value is True:
        return flag
    if value is False or value is None:
        return f"{flag} left out"
    return f"{flag} {','.join(map(str, value)) if isinstance(value, tuple | list) else value}"
