"""The folders of csrc include each other downwards only, and no file includes itself.

csrc/core/README.md says what is in each room of the core.
"""

import re
from collections.abc import Mapping, Set
from graphlib import CycleError, TopologicalSorter
from pathlib import Path, PurePosixPath
from typing import Final

import pytest

CSRC = Path(__file__).resolve().parents[2] / "csrc"
MOST_FILES = 16

Arrows = Mapping[str, Set[str]]  # from a file or folder to those that it includes

MAY_INCLUDE: Final[Arrows] = {
    "core/base": set(),
    "core/kernels/codecs": {"core/base"},
    "core/kernels/optimizers": {"core/base"},
    "core/kernels": {"core/base", "core/kernels/codecs", "core/kernels/optimizers"},
    "core/codecs": {"core/base", "core/kernels"},
    "core/admission": {"core/base"},
    "core/options": {"core/base"},
    "core/optimizer": {"core/base", "core/kernels", "core/codecs", "core/options"},
    "core/shard": {
        "core/base",
        "core/kernels",
        "core/codecs",
        "core/admission",
        "core/options",
        "core/optimizer",
    },
    "core/wire": {"core/base", "core/codecs"},
    "core/shard_engine": {
        "core/base",
        "core/codecs",
        "core/shard",
        "core/wire",
    },
    "core/step_engine": {"core/base", "core/kernels", "core/codecs", "core/wire"},
    "lane": set(),
    "lane/rings": {"core/wire"},
    "lane/engines": {
        "lane",
        "lane/rings",
        "core/wire",
        "core/shard_engine",
        "core/step_engine",
    },
    "bindings": {
        "lane",
        "core/base",
        "core/kernels",
        "core/codecs",
        "core/admission",
        "core/options",
        "core/optimizer",
        "core/shard",
        "core/shard_engine",
        "core/wire",
        "core/step_engine",
    },
    "bindings/lane": {
        "lane",
        "lane/engines",
        "core/shard_engine",
        "core/step_engine",
        "bindings",
    },
    "bindings/register": {
        "core/base",
        "core/kernels",
        "core/codecs",
        "core/admission",
        "core/options",
        "core/optimizer",
        "core/shard",
        "core/shard_engine",
        "core/wire",
        "core/step_engine",
        "bindings",
    },
}


def includes_of(text: str) -> set[str]:
    return set(re.findall(r'^\s*#\s*include\s*"([^"]+)"', text, re.MULTILINE))


def includes_in(root: Path) -> dict[str, set[str]]:
    """Each source file below root, and the files that it includes by quoted names."""
    files = (path for path in root.rglob("*") if path.suffix in {".h", ".cpp"})
    return {
        path.relative_to(root).as_posix(): includes_of(path.read_text("utf-8")) for path in files
    }


def folder(file: str) -> str:
    return str(PurePosixPath(file).parent)


def forbidden(files: Arrows, may_include: Arrows) -> list[str]:
    """The includes that lead to another folder, and that the folder's row does not allow."""
    return sorted(
        f"{file} includes {included}"
        for file, included_files in files.items()
        for included in included_files
        if folder(file) != folder(included)
        and folder(included) not in may_include.get(folder(file), ())
    )


def cycle(arrows: Arrows) -> list[str]:
    """The names along one cycle, the first of them again at its end; none if there is no cycle."""
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        found: list[str] = error.args[1]
        return found
    return []


def test_every_include_leads_to_a_room_below() -> None:
    files = {
        file: included
        for file, included in includes_in(CSRC).items()
        if file.startswith(("core/", "lane/", "bindings/"))
    }
    assert {folder(file) for file in files} == set(MAY_INCLUDE)
    assert forbidden(files, MAY_INCLUDE) == []


def test_the_table_has_no_cycle() -> None:
    assert cycle(MAY_INCLUDE) == []


def test_no_file_includes_itself_by_way_of_others() -> None:
    files = includes_in(CSRC)
    assert "core/shard/shard.h" in files
    assert cycle(files) == []


def test_every_include_in_quotes_names_a_file_by_its_path_below_csrc() -> None:
    for file, included in includes_in(CSRC).items():
        if not file.startswith("tests/"):  # these also include a library for tests
            assert [name for name in included if not (CSRC / name).is_file()] == [], file


@pytest.mark.parametrize(
    ("document", "beginning"), [("csrc/core/README.md", ""), ("ARCHITECTURE.md", "csrc/core/")]
)
def test_the_documents_allow_what_the_table_allows(document: str, beginning: str) -> None:
    rows = re.findall(
        rf"^\| `{beginning}(\S+)/` \|.*\| ([^|]*) \|$",
        (CSRC.parent / document).read_text("utf-8"),
        re.M,
    )
    told = {
        f"core/{room}": {f"core/{name}" for name in re.findall(r"`(.+?)`", allowed)}
        for room, allowed in rows
    }
    assert told == {room: MAY_INCLUDE[room] for room in MAY_INCLUDE if room.startswith("core/")}


@pytest.mark.parametrize(
    "path",
    [CSRC, *sorted(path for path in CSRC.rglob("*") if path.is_dir())],
    ids=lambda path: str(path.relative_to(CSRC.parent)),
)
def test_no_folder_has_more_files_than_one_can_survey(path: Path) -> None:
    assert len([entry for entry in path.iterdir() if entry.is_file()]) <= MOST_FILES


def test_an_include_upwards_is_found() -> None:
    files = {
        "low/a.h": {"high/b.h", "low/c.h"},
        "low/c.h": set(),
        "high/b.h": {"low/c.h"},
    }
    assert forbidden(files, {"low": set(), "high": {"low"}}) == ["low/a.h includes high/b.h"]


def test_an_include_of_or_from_a_folder_without_a_row_is_found() -> None:
    files = {"low/a.h": {"new/b.h"}, "new/b.h": {"low/c.h"}}
    assert forbidden(files, {"low": set()}) == [
        "low/a.h includes new/b.h",
        "new/b.h includes low/c.h",
    ]


def test_a_cycle_of_includes_is_found_and_its_files_are_named() -> None:
    files = {"a.h": {"b.h"}, "b.h": {"c.h"}, "c.h": {"d.h"}, "d.h": {"b.h"}}
    found = cycle(files)
    assert found[0] == found[-1]
    assert set(found) == {"b.h", "c.h", "d.h"}


def test_a_file_that_includes_itself_is_a_cycle() -> None:
    assert cycle({"a.h": {"a.h"}}) == ["a.h", "a.h"]


def test_includes_are_read_as_the_preprocessor_reads_them(tmp_path: Path) -> None:
    (tmp_path / "room").mkdir()
    (tmp_path / "room" / "a.cpp").write_text(
        '#include "room/a.h"\n\n#  include "room/b.h"\n#include <vector>\n// #include "room/c.h"\n'
    )
    (tmp_path / "room" / "notes.md").write_text('#include "room/d.h"\n')
    assert includes_in(tmp_path) == {"room/a.cpp": {"room/a.h", "room/b.h"}}


def test_a_type_is_defined_once_in_the_core() -> None:
    """Two definitions of one name, in files that never meet, link without a word, and crash."""
    definition = re.compile(r"^(?:struct|class|enum class) (\w+)[^;]*\{", re.MULTILINE)
    files: dict[str, list[str]] = {}
    for path in (CSRC / "core").rglob("*.h"):
        for name in definition.findall(path.read_text()):
            files.setdefault(name, []).append(path.name)
    assert len(files) > 50
    assert {name: where for name, where in files.items() if len(where) > 1} == {}
