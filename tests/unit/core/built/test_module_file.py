"""The compiled module keeps to itself, whatever it is loaded beside.

Built with a C++ library of its own (-static-libstdc++, as some toolchains do), its copy of what is
unique in a process once took the place of torch's, if it was loaded first: torch crashed, or its
messages ended at their first number.
"""

import shutil
import subprocess
from pathlib import Path

import pytest

from leash.ps import _core

FILE = Path(_core.__file__)


@pytest.mark.skipif(shutil.which("nm") is None, reason="needs binutils")
def test_nothing_leaves_it_but_its_entry() -> None:
    command = ["nm", "--dynamic", "--defined-only", "--format=just-symbols", str(FILE)]
    names = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert names == ["PyInit__core"]


def test_pybind11s_tables_are_its_own() -> None:
    # torch's modules have such tables too: theirs translate exceptions by their own C++ library.
    assert b"_leash_libstdcpp" in FILE.read_bytes() or b"_leash_libcpp" in FILE.read_bytes()
