"""What is in sdist and wheel: all that is needed, nothing else, and at most 3 MB."""

import io
import re
import subprocess
import tarfile
import time
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path, PurePosixPath

import pytest
from elftools.elf.elffile import ELFFile

from leash import __version__, _version

ROOT = Path(__file__).resolve().parents[2]
MOST_BYTES = 3_000_000
PACKAGES = ("ps", "worker", "bench")  # folders that are imported below leash, by a link there
# In the repository alone; every other file is in the sdist.
REPOSITORY_ALONE = (
    ".ci/", ".clang-format", ".github/", ".gitignore", "ARCHITECTURE.md", "CMakePresets.json",
    "CONTRIBUTING.md", "Makefile", "bench/results/", "csrc/fuzz/", "csrc/tests/", "docs/",
    "examples/", "tests/", "tools/",
)  # fmt: skip
MADE = {"leash/commit.txt"}  # by the build
MADE_BY_SETUPTOOLS = re.compile(r"PKG-INFO|setup\.cfg|leash\.egg-info/.*")
CORE = re.compile(r"leash/ps/_core\.cpython-\d+-[\w-]+\.so")


def tracked() -> set[str]:
    """The files of the repository; a link is no file of its own."""
    told = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\0")
    return {name for name in told if name and not (ROOT / name).is_symlink()}


def is_in_sdist(name: str) -> bool:
    return not name.startswith(REPOSITORY_ALONE)


def as_imported(name: str) -> str:
    """Where a file of the repository is in what is built."""
    return f"leash/{name}" if name.startswith(tuple(f"{p}/" for p in PACKAGES)) else name


def in_wheel(name: str) -> str:
    """The same in a wheel, where the old names lie at the top."""
    return as_imported(name).removeprefix("leash/aliases/")


@pytest.fixture(scope="module")
def unpacked(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (top,) = folder.iterdir()
    assert top.name == f"leash-{__version__}"
    return top


@pytest.fixture(scope="module")
def files(wheel: Path) -> dict[str, bytes]:
    """The wheel's files, by name."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if name[-1] != "/"}


def metadata(files: dict[str, bytes]) -> Message:
    return Parser().parsestr(files[f"leash-{__version__}.dist-info/METADATA"].decode())


# The sdist.


def test_the_sdist_has_every_file_that_is_not_for_the_repository_alone(unpacked: Path) -> None:
    found = {str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if path.is_file()}
    made = {name for name in found if MADE_BY_SETUPTOOLS.fullmatch(name)} | MADE
    expected = {as_imported(name): ROOT / name for name in tracked() if is_in_sdist(name)}
    assert sorted(found - made) == sorted(expected)
    for name, path in expected.items():
        assert (unpacked / name).read_bytes() == path.read_bytes(), name


def test_the_sdist_has_no_link(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        assert [member.name for member in archive if not (member.isfile() or member.isdir())] == []


@pytest.mark.parametrize("name", REPOSITORY_ALONE)
def test_what_is_for_the_repository_alone_is_there(name: str) -> None:
    assert any(file.startswith(name) for file in tracked())


# The wheel.


def test_the_wheel_has_every_file_of_its_packages_and_the_core(files: dict[str, bytes]) -> None:
    info = f"leash-{__version__}.dist-info/"
    (core,) = [name for name in files if CORE.fullmatch(name)]
    packages = tuple(f"{package}/" for package in ("leash", *PACKAGES))
    expected = {
        in_wheel(name) for name in tracked() if name.startswith(packages) and is_in_sdist(name)
    }
    found = {name for name in files if not name.startswith(info)}
    assert sorted(found) == sorted(expected | MADE | {core})


def test_the_wheel_is_small_and_its_core_has_no_symbols_left(
    wheel: Path, files: dict[str, bytes]
) -> None:
    assert wheel.stat().st_size <= MOST_BYTES
    (core,) = [content for name, content in files.items() if CORE.fullmatch(name)]
    sections = {section.name for section in ELFFile(io.BytesIO(core)).iter_sections()}
    assert ".dynsym" in sections
    assert [name for name in sections if name == ".symtab" or name.startswith(".debug")] == []


def test_the_wheel_is_for_every_system_whose_c_library_is_new_enough(
    wheel: Path, files: dict[str, bytes]
) -> None:
    tags = wheel.stem.split("-")[2:]
    assert tags[0] == tags[1]
    assert [tag for tag in tags[2].split(".") if not tag.startswith("manylinux")] == []
    told = Parser().parsestr(files[f"leash-{__version__}.dist-info/WHEEL"].decode())
    assert {tag.split("-")[2] for tag in told.get_all("Tag", [])} == set(tags[2].split("."))


def test_the_wheel_has_nothing_of_the_time_and_the_place_of_its_building(
    wheel: Path, files: dict[str, bytes]
) -> None:
    """Two builds of a commit in two folders were the same, byte by byte; this is what it takes."""
    told = subprocess.run(
        ["git", "log", "-1", "--format=%ct"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    commit_s = int(told) // 2 * 2  # a zip's times are even
    with zipfile.ZipFile(wheel) as archive:
        dates = {entry.date_time for entry in archive.infolist()}
    assert dates == {time.gmtime(commit_s)[:6]}
    assert [name for name, content in files.items() if str(ROOT).encode() in content] == []


def test_the_wheel_has_its_licences(files: dict[str, bytes]) -> None:
    licences = f"leash-{__version__}.dist-info/licenses/"
    expected = {"LICENSE", "licenses/pybind11.txt", "licenses/uPlot.txt"}
    assert {name.removeprefix(licences) for name in files if name.startswith(licences)} == expected
    for name in expected:
        assert files[licences + name] == (ROOT / name).read_bytes()
    assert metadata(files)["License-Expression"] == "Apache-2.0 AND BSD-3-Clause AND MIT"


def test_both_name_version_and_commit(
    unpacked: Path, files: dict[str, bytes], sdist: Path, wheel: Path
) -> None:
    commit = f"{_version.commit()}\n"
    assert len(commit) > 12
    assert (unpacked / "leash" / "commit.txt").read_text("utf-8") == commit
    assert files["leash/commit.txt"].decode() == commit
    assert metadata(files)["Version"] == __version__
    assert PurePosixPath(sdist.name).name == f"leash-{__version__}.tar.gz"
    assert wheel.name.startswith(f"leash-{__version__}-cp")
