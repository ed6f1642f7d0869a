"""A place like a fresh, small container: a Python, the C library, and nothing that builds anything.

Bubblewrap makes it, with mounts, processes and a network of its own (the loopback alone), and an
empty environment. What it shows of this machine can only be read.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

HOME: Final = "/room"  # what is written there, later commands find again
ENVIRONMENT: Final = f"{HOME}/env"
COMPILERS: Final = (
    "cc", "c++", "gcc", "g++", "clang", "clang++", "ld", "as", "make", "cmake", "ninja",
)  # fmt: skip
# With the programs that Python itself starts: a shell, and what names the machine.
PROGRAMS: Final = ("sh", "uname")
LIBRARIES: Final = ("/lib", "/lib32", "/lib64", "/usr/lib", "/usr/lib64")
TOOLCHAINS: Final = ("/usr/lib/gcc", "/usr/lib/llvm*")


class CleanRoom:
    """Runs commands in such a place.

    Args:
        folder: an empty one, which is /room for the commands.
        shown: further folders and files of this machine, by the place where the commands see them.
    """

    def __init__(self, folder: Path, shown: Mapping[str, Path]) -> None:
        self.folder: Final = folder
        self._shown: Final = shown

    def run(self, *words: str, timeout_s: float = 300.0) -> "subprocess.CompletedProcess[str]":
        """Runs a command to its end; its status is the caller's to look at."""
        return subprocess.run(
            self.command(*words), stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=timeout_s, check=False,
        )  # fmt: skip

    def command(self, *words: str) -> list[str]:
        """The command line that runs these words in the room."""
        return [
            "bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--clearenv",
            *self._libraries(), *self._programs(),
            "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp",
            "--bind", str(self.folder), HOME, "--chdir", HOME,
            *_read_only({place: str(path) for place, path in self._shown.items()}),
            "--setenv", "PATH", f"{ENVIRONMENT}/bin:/usr/bin", "--setenv", "HOME", HOME,
            *words,
        ]  # fmt: skip

    def make_environment(self) -> None:
        """Makes the virtual environment at /room/env, with the pip that comes with Python."""
        done = self.run(os.path.realpath(sys.executable), "-m", "venv", ENVIRONMENT)
        assert done.returncode == 0, done.stderr

    def _libraries(self) -> Sequence[str]:
        folders = [Path(name) for name in LIBRARIES if Path(name).exists()]
        links = {str(path): os.readlink(path) for path in folders if path.is_symlink()}
        real = {str(path): str(path) for path in folders if not path.is_symlink()}
        toolchains = [path for name in TOOLCHAINS for path in Path("/").glob(name[1:])]
        return [
            *_read_only(real),
            *(word for place, path in links.items() for word in ("--symlink", path, place)),
            *(word for path in toolchains for word in ("--tmpfs", str(path))),
        ]

    def _programs(self) -> Sequence[str]:
        paths = {f"/usr/bin/{name}": shutil.which(name) or "" for name in PROGRAMS}
        paths["/bin/sh"] = paths["/usr/bin/sh"]
        prefix = Path(sys.base_prefix)
        python = Path(os.path.realpath(sys.executable))
        # A Python of the system lies among the compilers: then its file comes alone.
        own = str(python) if prefix == Path("/usr") else str(prefix)
        return _read_only({**paths, own: own})


def _read_only(paths: Mapping[str, str]) -> list[str]:
    """Options that show each of these paths, by the place where it is to be seen."""
    return [word for place, path in paths.items() for word in ("--ro-bind", path, place)]
