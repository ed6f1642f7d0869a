"""The wheels of a release: five Pythons on two kinds of processor. They cannot be built here."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PROCESSORS = ("x86_64", "aarch64")


@pytest.mark.parametrize("processor", PROCESSORS)
def test_cibuildwheel_takes_its_settings_and_builds_for_these_pythons(processor: str) -> None:
    command = [sys.executable, "-m", "cibuildwheel", "--print-build-identifiers"]
    told = subprocess.run(
        [*command, "--platform", "linux", "--archs", processor],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert told.split() == [f"cp31{minor}-manylinux_{processor}" for minor in range(5)]


def test_the_workflow_has_a_machine_of_each_kind_and_the_pinned_cibuildwheel() -> None:
    text = (ROOT / ".github" / "workflows" / "wheels.yml").read_text("utf-8")
    jobs = yaml.safe_load(text)["jobs"]
    machines = jobs["wheels"]["strategy"]["matrix"]["machine"]
    assert [machine.endswith("-arm") for machine in machines] == [False, True]
    runs = [step.get("run", "") for step in jobs["wheels"]["steps"]]
    installs = [run for run in runs if "pip install" in run]
    assert installs == ["python -m pip install --constraint constraints.txt cibuildwheel"]
    pinned = re.findall(r"^cibuildwheel==\S+", (ROOT / "constraints.txt").read_text("utf-8"), re.M)
    assert len(pinned) == 1
