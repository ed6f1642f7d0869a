"""Packages that Leash needs for some of its parts, and the extra that brings each."""

from importlib.util import find_spec
from typing import Final

# By the names under which they are imported; pyproject.toml has the same by the names of projects.
EXTRAS: Final = {
    "torch": "torch",
    "torchvision": "datasets",
    "sklearn": "datasets",
    "PIL": "datasets",
    "scipy": "datasets",
    "threadpoolctl": "datasets",
    "matplotlib": "report",
    "tensorboard": "report",
    "psutil": "bench",
}


def package_of(error: ModuleNotFoundError) -> str | None:
    """The package of an extra that was not found, if it was one."""
    package = (error.name or "").partition(".")[0]
    return package if package in EXTRAS else None


def is_installed(package: str) -> bool:
    """Whether this package can be imported; it is not."""
    return find_spec(package) is not None


def install_command(package: str) -> str:
    """What to type to get this package: ``pip install 'leash[torch]'``."""
    return f"pip install 'leash[{EXTRAS[package]}]'"
