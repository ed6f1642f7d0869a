"""What a benchmark needs beside a server's packages, asked for in one line."""

from importlib.util import find_spec
from typing import Final

from leash.ps.errors import LeashError

EXTRAS: Final = {"torch": "worker", "sklearn": "worker", "matplotlib": "bench", "psutil": "bench"}


def installed(package: str) -> bool:
    return find_spec(package) is not None


def require(package: str, what: str) -> None:
    """Raises LeashError, with the extra to install, if the package is missing.

    Args:
        what: needs it, such as "--picture".
    """
    if not installed(package):
        raise LeashError(
            f"{what} needs {package}, which is not installed: pip install "
            f"'leash[{EXTRAS[package]}]'"
        )
