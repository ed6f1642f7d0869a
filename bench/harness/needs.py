"""Asks in one line for a package that a benchmark needs beside a server's."""

from leash._extras import install_command, is_installed
from leash.ps.errors import LeashError


def require(package: str, what: str) -> None:
    """Raises LeashError, with the extra to install, if the package is missing.

    Args:
        what: the option or benchmark that needs it, such as "--picture".
    """
    if not is_installed(package):
        raise LeashError(
            f"{what} needs {package}, which is not installed: {install_command(package)}"
        )
