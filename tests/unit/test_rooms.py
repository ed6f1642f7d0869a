"""The rooms of the Python code: which folder may import which, and that there are no circles.

A new arrow between two folders fails here. Where it is right, it is added to the table, to the map
in ARCHITECTURE.md, and to the docstring of the folder that it starts from.
"""

import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).resolve().parents[2]
MOST_FILES = 16  # in a folder
MOST_MODULES_OF_PS = 8  # that are in no room
BESIDE = "leash._"  # the modules beside the front door

# Folder ▸ those that it imports. `ps` is its modules that are in no room, but for the command line,
# `leash` the front door. What stands beside that (version, logging, extras) is there for all.
ARROWS: dict[str, set[str]] = {
    "leash": {"ps", "ps.notebook", "worker.client", "worker.em", "worker.optim", "worker.train"},
    "ps": set(),
    "ps.cli": {"ps", "ps.options"},
    "ps.wire": {"ps"},
    "ps.slowness": {"ps"},
    "ps.hosts": {"ps", "ps.wire"},
    "ps.options": {"ps", "ps.hosts", "ps.slowness", "ps.wire"},
    "ps.datafiles": {"ps", "ps.options"},
    "ps.runs": {"ps", "ps.options", "ps.wire"},
    "ps.runs.background": {"ps", "ps.runs"},
    "ps.trackers": {"ps", "ps.runs", "ps.wire"},
    "ps.recovery": {"ps.wire"},
    "ps.shard": {"ps", "ps.options", "ps.recovery", "ps.runs", "ps.wire"},
    "ps.server.shards": {"ps", "ps.options", "ps.runs", "ps.shard", "ps.wire"},
    "ps.server.leases": {"ps", "ps.options", "ps.runs", "ps.server.shards", "ps.shard", "ps.wire"},
    "ps.server": {
        "ps", "ps.datafiles", "ps.options", "ps.recovery", "ps.runs", "ps.runs.background",
        "ps.server.leases", "ps.server.shards", "ps.shard", "ps.trackers", "ps.wire",
    },
    "ps.report.analysis": {"ps", "ps.options", "ps.runs"},
    "ps.report.pictures": {"ps", "ps.report.analysis"},
    "ps.page": {"ps", "ps.report.analysis", "ps.report.pictures", "ps.runs"},
    "ps.live": {
        "ps", "ps.commands", "ps.options", "ps.page", "ps.report.analysis", "ps.runs",
        "ps.runs.background", "ps.wire",
    },
    "ps.report": {
        "ps", "ps.options", "ps.page", "ps.report.analysis", "ps.report.pictures", "ps.runs",
    },
    "ps.simulate": {"ps", "ps.commands", "ps.options", "ps.report.pictures", "ps.slowness"},
    "ps.commands": {"ps", "ps.options", "ps.runs", "ps.wire"},
    "ps.launch": {
        "ps", "ps.commands", "ps.datafiles", "ps.hosts", "ps.options", "ps.report", "ps.runs",
        "ps.wire",
    },
    "ps.notebook": {"ps", "ps.cli", "ps.commands", "ps.datafiles", "ps.options"},
    "ps.experiments": {
        "ps", "ps.cli", "ps.commands", "ps.launch", "ps.options", "ps.report", "ps.runs",
        "ps.slowness", "ps.wire",
    },
    "ps.demo": {
        "ps", "ps.commands", "ps.launch", "ps.options", "ps.report.pictures", "ps.runs",
    },
    "worker": {"ps", "ps.cli", "ps.options", "worker.optim"},
    "worker.client": {"ps", "ps.options", "ps.trackers", "ps.wire", "worker.client.control"},
    "worker.client.control": {"ps", "ps.options", "ps.trackers", "ps.wire"},
    "worker.optim": {
        "ps", "ps.cli", "ps.commands", "ps.options", "ps.runs", "ps.trackers", "ps.wire",
        "worker.client", "worker.client.control",
    },
    "worker.datasets": {"ps", "ps.datafiles", "ps.options", "worker"},
    "worker.train": {
        "ps", "ps.options", "ps.slowness", "ps.wire", "worker", "worker.client",
        "worker.client.control", "worker.datasets", "worker.optim",
    },
    "worker.virtual": {
        "ps", "ps.commands", "ps.datafiles", "ps.experiments", "ps.launch", "ps.options",
        "ps.runs", "ps.server", "ps.server.shards", "ps.shard", "ps.slowness", "ps.wire",
        "worker.client", "worker.client.control", "worker.datasets", "worker.optim",
        "worker.train",
    },
    "worker.em": {
        "ps", "ps.cli", "ps.datafiles", "ps.options", "ps.runs", "ps.wire", "worker.client",
        "worker.client.control", "worker.datasets",
    },
    "bench": {
        "bench.harness", "bench.show", "bench.systems", "ps", "ps.cli", "ps.demo", "ps.options",
        "ps.wire", "worker", "worker.client", "worker.datasets", "worker.em", "worker.optim",
        "worker.train",
    },
    "bench.harness": {"ps", "ps.cli", "ps.options", "ps.shard", "ps.wire"},
    "bench.systems": {"bench.harness", "ps", "ps.wire", "worker.client"},
    "bench.show": {"bench.harness", "ps.report.pictures"},
}  # fmt: skip


def room(module: str) -> str:
    """The folder of a module, as the table names it."""
    if module in ("leash.ps.cli", "leash.ps.__main__"):
        return "ps.cli"
    if module.startswith("leash._"):
        return BESIDE
    path = ROOT.joinpath(*module.split(".")[1:])
    folder = module if path.is_dir() else module.rpartition(".")[0]
    return folder.removeprefix("leash.")


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("leash", cache_dir=None)


def arrows(graph: grimp.ImportGraph) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for module in graph.modules:
        imported = {room(other) for other in graph.find_modules_directly_imported_by(module)}
        found.setdefault(room(module), set()).update(imported - {room(module), BESIDE})
    found.pop(BESIDE)
    return found


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Those that depend on one another in a circle, if any do."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found: list[str] = error.args[1]
        return found
    return []


def test_a_circle_is_found() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert set(circle({"a": {"b"}, "b": {"c"}, "c": {"a"}})) == {"a", "b", "c"}


def test_the_graph_has_every_module(graph: grimp.ImportGraph) -> None:
    files = [path for folder in ("ps", "worker", "bench") for path in (ROOT / folder).rglob("*.py")]
    assert len(graph.modules) == len(files) + len(list((ROOT / "leash").glob("*.py")))


def test_each_folder_imports_what_the_table_says(graph: grimp.ImportGraph) -> None:
    assert arrows(graph) == ARROWS


def test_the_map_in_architecture_allows_what_the_table_allows() -> None:
    rows = re.findall(
        r"^\| `((?:leash|ps|worker|bench)\b[^`]*)` \|.*\| ([^|]*) \|$",
        (ROOT / "ARCHITECTURE.md").read_text("utf-8"),
        re.M,
    )
    told = {
        as_room(folder): {as_room(name) for name in re.findall(r"`(.+?)`", allowed)}
        for folder, allowed in rows
    }
    # The map says once that all may import `ps`.
    assert told == {folder: others - {"ps"} for folder, others in ARROWS.items()}


def as_room(folder: str) -> str:
    """The name that a room has in the table, from its path in the map."""
    return folder.removesuffix("/").removesuffix(".py").replace("/", ".")


def test_no_modules_import_one_another_in_a_circle(graph: grimp.ImportGraph) -> None:
    assert circle({m: graph.find_modules_directly_imported_by(m) for m in graph.modules}) == []


def test_no_folders_import_one_another_in_a_circle(graph: grimp.ImportGraph) -> None:
    assert circle(arrows(graph)) == []


def test_no_folder_is_crowded() -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\0")
    crowded: dict[str, int] = {}
    for name in filter(None, tracked):
        folder = str(Path(name).parent)
        if not folder.startswith(("docs", ".")):
            crowded[folder] = crowded.get(folder, 0) + 1
    assert {folder: n for folder, n in crowded.items() if n > MOST_FILES} == {}


def test_few_modules_of_ps_are_in_no_room() -> None:
    assert len(list((ROOT / "ps").glob("*.py"))) <= MOST_MODULES_OF_PS


@pytest.mark.skipif(sys.version_info < (3, 11), reason="reads TOML with the standard library")
def test_a_wheel_gets_every_folder(graph: grimp.ImportGraph) -> None:
    import tomllib

    told = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    folders = {m for m in graph.modules if (ROOT.joinpath(*m.split(".")[1:])).is_dir()}
    assert set(told["packages"]) - told["package-dir"].keys() == folders
