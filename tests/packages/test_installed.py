"""`pip install leash` where there is no compiler: what a user does first works, and tests pass."""

import json
import re
import shutil

import pytest

from leash import _version
from packages.clean_room import COMPILERS, ENVIRONMENT, CleanRoom

# The first of them waits until pip has brought what the room gets.
pytestmark = pytest.mark.timeout(600)


def test_nothing_there_could_have_built_anything(room: CleanRoom) -> None:
    found = f"import shutil; print([p for p in {COMPILERS!r} if shutil.which(p)])"
    assert room.run("python", "-c", found).stdout == "[]\n"
    assert {name for name in COMPILERS if shutil.which(name)} >= {"gcc", "make"}  # so it can fail
    links = "print([x.split(':')[0].strip() for x in open('/proc/net/dev').readlines()[2:]])"
    assert room.run("python", "-c", links).stdout == "['lo']\n"


def test_the_clean_environment_has_leash_and_what_it_requires_alone(room: CleanRoom) -> None:
    where = "import leash.ps._core as core; print(core.__file__)"
    assert room.run("python", "-c", where).stdout.startswith(f"{ENVIRONMENT}/lib/")
    listed = json.loads(room.run("python", "-m", "pip", "list", "--format", "json").stdout)
    names = {package["name"].lower() for package in listed}
    assert {"leash", "numpy", "pyzmq"} <= names
    assert names.isdisjoint({"torch", "cmake", "ninja", "pybind11", "scikit-build-core"})
    assert room.run("python", "-m", "pip", "check").returncode == 0


def test_doctor_finds_nothing_wrong(room: CleanRoom) -> None:
    done = room.run("leash", "doctor")
    assert (done.returncode, done.stderr) == (0, "")
    assert not re.findall(r"^(?:warn|fail).*", done.stdout, re.MULTILINE)
    assert f"leash       {_version.version_and_commit()}\n" in done.stdout


def test_version_names_the_commit_that_was_built_and_the_instruction_set(room: CleanRoom) -> None:
    from leash.ps import _core

    told = f"leash {_version.version_and_commit()}, {_core.instruction_set()} kernels\n"
    assert room.run("leash", "--version").stdout == told
    forced = ("sh", "-c", "LEASH_ISA=generic leash --version")
    assert room.run(*forced).stdout.endswith(", generic kernels\n")


def test_the_names_of_before_are_there(room: CleanRoom, trainer: str) -> None:
    assert room.run("python", "-m", "ps", "--help").returncode == 0
    same = "from worker import PSOptimizer; import leash; print(PSOptimizer is leash.PSOptimizer)"
    assert room.run(trainer, "-c", same).stdout == "True\n"


EPOCHS = 8
TRAINED_ON = 1437  # of the 1,797 digits
WORKER = "{python} -m leash.ps.cli worker --server {at} --rank {rank} --dataset digits"
SCRIPT = """
leash server --bind {at} --workers 2 --policy bsp --dataset digits --epochs {epochs} --lr 0.2 \
  --run-dir run &
server=$!
{first} & first=$!
{second} & second=$!
wait $server && wait $first && wait $second
"""


def test_a_clean_server_and_two_workers_train(room: CleanRoom, trainer: str) -> None:
    at = "tcp://127.0.0.1:29500"  # the network is the room's own
    first, second = (WORKER.format(python=trainer, at=at, rank=rank) for rank in (1, 2))
    done = room.run("sh", "-c", SCRIPT.format(at=at, epochs=EPOCHS, first=first, second=second))
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((room.folder / "run" / "summary.json").read_text("utf-8"))
    assert summary["epochs"] == EPOCHS
    assert set(summary["steps_by_worker"]) == {"1", "2"}
    assert summary["samples"] >= EPOCHS * TRAINED_ON


def test_one_command_trains(room: CleanRoom, trainer: str) -> None:
    launch = "launch --workers 2 --dataset digits --epochs 8 --batch-size 32 --lr 0.2 --run-dir one"
    done = room.run(trainer, "-m", "leash.ps.cli", *launch.split())
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((room.folder / "one" / "summary.json").read_text("utf-8"))
    assert summary["test_accuracy"] > 0.9


def test_its_tests_pass(room: CleanRoom, trainer: str) -> None:
    pytest_there = ("-m", "pytest", "-c", "/source/pyproject.toml", "--rootdir", "/source",
                    "-p", "no:cacheprovider", "-q")  # fmt: skip
    done = room.run(trainer, *pytest_there, "/source/tests/unit/core/built")
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed
    assert int(passed[1]) > 300
