"""Groups of parameters, as PSOptimizer is given them and as torch takes them."""

from collections.abc import Iterable
from typing import Any

from leash.ps.errors import UsageError


def named_groups(params: Iterable[Any]) -> list[dict[str, Any]]:
    """Brings what PSOptimizer was given for parameters into one form.

    Args:
        params: pairs of name and tensor, or groups whose ``params`` are such pairs.

    Returns:
        The groups, each with a list of pairs as its ``params``.

    Raises:
        UsageError: a parameter has no name.
    """
    given = list(params)
    groups = given if given and isinstance(given[0], dict) else [{"params": given}]
    named = [{**group, "params": list(group["params"])} for group in groups]
    for group in named:
        for pair in group["params"]:
            if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str)):
                raise UsageError(
                    "PSOptimizer needs the parameters' names: pass model.named_parameters()"
                )
    return named


def unnamed(group: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """Brings a group into the form that torch takes, without names.

    Args:
        group: as `named_groups` gives it.
        defaults: the hyperparameters of the server's optimizer.

    Returns:
        The group, with a list of tensors as its ``params``.

    Raises:
        UsageError: the group has an option of its own, which the server's one optimizer cannot
            follow.
    """
    for name, value in group.items():
        if name != "params" and value != defaults.get(name):
            raise UsageError(
                f"PSOptimizer: a group's own {name} is not supported; the optimizer runs on the "
                "server, with one set of options"
            )
    return {**group, "params": [tensor for _, tensor in group["params"]]}
