"""Packages that Leash needs for some of its parts, and the extra that brings each."""

from importlib.util import find_spec
from typing import Final

# The key is the name under which a package is imported; pyproject.toml lists the projects' names.
EXTRAS: Final = {
    "torch": "torch",
    "torchvision": "datasets",
    "sklearn": "datasets",
    "PIL": "datasets",
    "scipy": "datasets",
    "threadpoolctl": "datasets",
    "matplotlib": "report",
    "tensorboard": "report",
    "wandb": "trackers",
    "psutil": "bench",
}


def package_of(error: ImportError) -> str | None:
    """The package that could not be imported, if an extra brings it; otherwise None."""
    package = (error.name or "").partition(".")[0]
    return package if package in EXTRAS else None


def is_installed(package: str) -> bool:
    """Whether this package is installed, without importing it."""
    return find_spec(package) is not None


def install_command(package: str) -> str:
    """The command that installs this package: ``pip install 'leash[torch]'``."""
    return f"pip install 'leash[{EXTRAS[package]}]'"
