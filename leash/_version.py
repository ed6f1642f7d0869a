"""The version of Leash, and the commit that it is of, by themselves: nothing else is imported.

`__version__` is the one place that names the version. pyproject.toml and CMakeLists.txt read it.
"""

from pathlib import Path
from typing import Final

__version__ = "0.1.0"

COMMIT_FILE: Final = "commit.txt"  # setup.py writes it into sdists and wheels
_HERE: Final = Path(__file__).resolve().parent


def commit(package: Path = _HERE) -> str:
    """Names the commit of this code, as `git describe --always --dirty` does.

    What was built has it in a file. A checkout, which an editable install is too, asks git.

    Args:
        package: the folder that `leash` is imported from.

    Returns:
        Such as ``v0.1.0-3-ge95bade0c1d2``, or without a tag ``e95bade0c1d2``; ``-dirty`` at the end
        says that tracked files had been changed. Empty where nobody knows.
    """
    baked, checkout = package / COMMIT_FILE, package.parent
    if baked.exists():
        return baked.read_text("utf-8").strip()
    if not (checkout / ".git").exists():  # an enclosing repository would be another's
        return ""
    import subprocess

    describe = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(
            describe, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def version_and_commit() -> str:
    """The version for people: ``0.1.0 (commit e95bade0c1d2, with changes that are not in it)``."""
    name, dirty, _ = commit().partition("-dirty")
    changes = ", with changes that are not in it" if dirty else ""
    return f"{__version__} ({f'commit {name}' if name else 'of an unknown commit'}{changes})"
