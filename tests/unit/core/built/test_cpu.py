"""The choice of an instruction set."""

import os
import subprocess
import sys

import pytest

from leash.ps import _core


def import_core(isa: str) -> subprocess.CompletedProcess[str]:
    code = "from ps import _core; print(_core.instruction_set())"
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "LEASH_ISA": isa},
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_cpu_runs_the_generic_instruction_set() -> None:
    assert _core.instruction_sets()[0] == "generic"


@pytest.mark.parametrize("isa", _core.instruction_sets())
def test_the_environment_can_force_an_instruction_set(isa: str) -> None:
    assert import_core(isa).stdout == f"{isa}\n"


def test_the_fastest_instruction_set_is_the_default() -> None:
    assert import_core("").stdout == f"{_core.instruction_sets()[-1]}\n"


def test_an_unknown_instruction_set_fails_the_import_with_the_choices() -> None:
    last_line = import_core("mmx").stderr.splitlines()[-1]
    choices = ", ".join(_core.instruction_sets())
    assert last_line == f"ImportError: LEASH_ISA: instruction set 'mmx': this CPU runs {choices}"


def test_build_info_names_the_version_of_the_package() -> None:
    from leash import __version__

    assert _core.build_info()["version"] == __version__
