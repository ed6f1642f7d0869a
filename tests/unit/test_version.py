"""Version and commit: who says them, and where they come from."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from leash import __version__, _version

ROOT = Path(__file__).resolve().parents[2]


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=Somebody", "-c", "user.email=somebody@localhost"]
    done = subprocess.run(
        ["git", "-C", str(folder), *identity, *words], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository of one commit, with a package in it."""
    package = tmp_path / "leash"
    package.mkdir()
    (package / "__init__.py").write_text("")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "The first")
    return package


def test_a_checkout_names_its_commit(checkout: Path) -> None:
    assert _version.commit(checkout) == git(checkout, "rev-parse", "--short=12", "HEAD")


def test_a_tag_that_is_near_is_named_with_the_commit(checkout: Path) -> None:
    git(checkout, "tag", "--annotate", "v1.2.0", "--message", "1.2.0")
    assert _version.commit(checkout) == "v1.2.0"
    git(checkout, "commit", "--quiet", "--allow-empty", "--message", "Another")
    head = git(checkout, "rev-parse", "--short=12", "HEAD")
    assert _version.commit(checkout) == f"v1.2.0-1-g{head}"


def test_changes_that_are_not_committed_are_told(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = git(checkout, "rev-parse", "--short=12", "HEAD")
    (checkout / "__init__.py").write_text("changed = True\n")
    assert _version.commit(checkout) == f"{head}-dirty"
    monkeypatch.setattr(_version, "commit", lambda: f"{head}-dirty")
    told = _version.version_and_commit()
    assert told == f"{__version__} (commit {head}, with changes that are not in it)"


def test_what_was_built_keeps_its_commit_wherever_it_lies(checkout: Path) -> None:
    (checkout / _version.COMMIT_FILE).write_text("v9-1-gabc-dirty\n")
    assert _version.commit(checkout) == "v9-1-gabc-dirty"


def test_the_commit_of_an_enclosing_repository_is_another_project_s(checkout: Path) -> None:
    unpacked = checkout.parent / "vendored" / "leash"
    unpacked.mkdir(parents=True)
    assert _version.commit(unpacked) == ""


def test_without_git_the_commit_is_unknown(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert _version.commit(checkout) == ""
    monkeypatch.setattr(_version, "commit", lambda: "")
    assert _version.version_and_commit() == f"{__version__} (of an unknown commit)"


def test_the_version_stands_in_one_place() -> None:
    files = ("pyproject.toml", "CMakeLists.txt", "setup.py", "leash/_version.py")
    version = re.compile(rf"(?<![\d.=]){re.escape(__version__)}(?![\d.])")
    places = [name for name in files if version.search((ROOT / name).read_text("utf-8"))]
    assert places == ["leash/_version.py"]


# Where Leash is not built.

SETUP = "import setuptools, platform, runpy, struct, sys\n{}\nrunpy.run_path('setup.py')"


ON = "sys.platform = '{0}'; platform.system = lambda: '{1}'"
NOT_ON = "Leash runs on Linux only, and this is {1}: take a Linux machine or a Linux container."


@pytest.mark.parametrize(
    ("system", "line"),
    [
        *(
            (ON.format(*names), NOT_ON.format(*names))
            for names in (("darwin", "Darwin"), ("win32", "Windows"))
        ),
        ("struct.calcsize = lambda _: 4", "Leash needs a 64-bit Python, and this one has 32 bits."),
    ],
)
def test_another_system_is_refused_in_one_line(system: str, line: str) -> None:
    command = [sys.executable, "-c", SETUP.format(system)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"{line}\n")


def test_the_licence_of_what_is_compiled_in_is_that_of_its_package() -> None:
    from importlib.metadata import files

    (licence,) = [file for file in files("pybind11") or [] if file.name == "LICENSE"]
    assert (ROOT / "licenses" / "pybind11.txt").read_text("utf-8") == licence.read_text("utf-8")
