"""Imports torchvision, also beside a PyTorch that it was not built for.

PyPI's torchvision is built for CUDA. Beside a CPU build of PyTorch its C++ extension does not load,
so nothing defines the operators ``torchvision::nms`` and ``torchvision::qnms``, and the import ends
in ``RuntimeError: operator torchvision::nms does not exist``. Leash uses torchvision's readers,
transforms and architectures, none of which needs an operator: with the two schemas defined, though
not implemented, the import succeeds.

The schemas are defined only after an import has failed: beside a matching torchvision they would
collide with its own.
"""

import importlib
import sys
from functools import cache
from typing import Any, Final

import torch

from leash._extras import install_command
from leash.ps.errors import UsageError

MISSING_SCHEMAS: Final = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


@cache
def import_torchvision() -> Any:
    """Imports torchvision, with ``datasets``, ``models`` and ``transforms``.

    Returns:
        The module. Its type is ``Any``, since torchvision ships no types.

    Raises:
        UsageError: torchvision is not installed, or does not fit this PyTorch.
    """
    try:
        return importlib.import_module("torchvision")
    except ModuleNotFoundError as error:
        raise UsageError(f"torchvision is missing: {install_command('torchvision')}") from error
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise UsageError(
                f"torchvision does not fit PyTorch {torch.__version__}: {error}; "
                "install the release of torchvision made for it"
            ) from error
    _define_schemas()
    _forget_half_imported()
    return importlib.import_module("torchvision")


def is_repaired() -> bool:
    """Whether torchvision was imported here though it does not fit this PyTorch."""
    return _define_schemas.cache_info().currsize > 0


@cache
def _define_schemas() -> torch.library.Library:
    # Cached, because the schemas vanish with the library object.
    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for schema in MISSING_SCHEMAS:
        library.define(schema)  # type: ignore[no-untyped-call]
    return library


def _forget_half_imported() -> None:
    # The failed import leaves submodules behind whose parent package is gone.
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
