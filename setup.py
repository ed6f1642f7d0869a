"""What pyproject.toml cannot say: where Leash runs, the commit that is built, the CMake project."""

import platform
import runpy
import struct
import sys
from pathlib import Path
from typing import Any, Final

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

VERSION: Final = runpy.run_path(str(Path(__file__).parent / "leash" / "_version.py"))


def refuse_other_systems() -> None:
    """Ends the build with one line where Leash does not run."""
    if sys.platform != "linux":
        sys.exit(f"Leash runs on Linux only, and this is {platform.system()}: "
                 "take a Linux machine or a Linux container.")  # fmt: skip
    if struct.calcsize("P") != 8:
        sys.exit(f"Leash needs a 64-bit Python, and this one has {8 * struct.calcsize('P')} bits.")


def bake_commit(root: str | Path) -> None:
    """Writes the name of the commit into what is built at `root`."""
    path = Path(root) / "leash" / VERSION["COMMIT_FILE"]
    path.unlink(missing_ok=True)  # an sdist's files may be links to those of the source
    path.write_text(VERSION["commit"]() + "\n", "utf-8")


class BuildWithCommit(build_py):
    """Copies the Python files, and bakes the commit; an editable install asks git when it runs."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            bake_commit(self.build_lib)


class SdistWithCommit(sdist):
    """Collects the sources, and bakes the commit: there is no git where somebody unpacks them."""

    def make_release_tree(self, base_dir: str, files: Any) -> None:
        super().make_release_tree(base_dir, files)
        bake_commit(base_dir)


refuse_other_systems()
setup(cmake_source_dir=".", cmdclass={"build_py": BuildWithCommit, "sdist": SdistWithCommit})
