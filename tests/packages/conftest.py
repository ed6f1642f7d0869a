"""The sdist and the wheel that `make wheel` has built. Without --packages there is no test."""

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from packages.clean_room import ENVIRONMENT, CleanRoom

ROOT = Path(__file__).resolve().parents[2]


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    return True if config.getoption("--packages") is None else None


@pytest.fixture(scope="session")
def dist(request: pytest.FixtureRequest) -> Path:
    """The folder of both."""
    return Path(request.config.getoption("--packages")).resolve()


@pytest.fixture(scope="session")
def sdist(dist: Path) -> Path:
    (path,) = dist.glob("leash-*.tar.gz")
    return path


@pytest.fixture(scope="session")
def wheel(dist: Path) -> Path:
    (path,) = dist.glob("leash-*.whl")
    return path


@pytest.fixture(scope="session")
def wheelhouse(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel with all that it requires, as wheels: the room has no network."""
    folder = tmp_path_factory.mktemp("wheelhouse")
    subprocess.run(
        [
            sys.executable, "-m", "pip", "download", "--quiet", "--only-binary", ":all:",
            "--constraint", str(ROOT / "constraints.txt"), "--dest", str(folder), str(wheel),
        ],
        check=True,
    )  # fmt: skip
    return folder


@pytest.fixture(scope="session")
def room(wheelhouse: Path, tmp_path_factory: pytest.TempPathFactory) -> CleanRoom:
    """A clean room in which somebody has said `pip install leash`, and nothing else."""
    shown = {
        "/wheelhouse": wheelhouse,
        "/packages": Path(sysconfig.get_path("purelib")),
        "/source/tests": ROOT / "tests",
        "/source/pyproject.toml": ROOT / "pyproject.toml",
    }
    room = CleanRoom(tmp_path_factory.mktemp("room"), shown)
    room.make_environment()
    pip = ("python", "-m", "pip", "install", "--no-index", "--find-links", "/wheelhouse", "leash")
    done = room.run(*pip)
    assert done.returncode == 0, done.stdout + done.stderr
    return room


@pytest.fixture(scope="session")
def trainer(room: CleanRoom) -> str:
    """A Python of the room that has PyTorch and pytest beside what the clean environment has.

    They are those of the environment that runs these tests: to install them again takes a minute.
    """
    done = room.run("python", "-m", "venv", "--without-pip", "/room/trainer")
    assert done.returncode == 0, done.stderr
    site = Path(sysconfig.get_path("purelib")).relative_to(sys.prefix)
    others = f"{ENVIRONMENT}/{site}\n/packages\n"
    (room.folder / "trainer" / site / "others.pth").write_text(others, "utf-8")
    return "/room/trainer/bin/python"
