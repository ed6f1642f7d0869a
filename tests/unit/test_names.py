"""One name for one thing: what a package defines at the top of its modules, it defines once.

A name that two modules of a package define fails here, unless it stands in the table with the
reason why it may.
"""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Package ▸ name ▸ why several of its modules define it.
SHARED_NAMES: dict[str, dict[str, str]] = {
    "ps": {
        "run": "what a command runs: one in the module of each, and cli's, which finds them",
        "Stop": "the end of a run, as somebody asks for it and as shards are told of it",
    },
    "worker": {"run": "what a command runs: one in the module of each"},
    "bench": {
        "TITLE": "of a benchmark's table: each has one (leash.bench.command.Benchmark)",
        "PEERS": "whom a benchmark compares with: each has them, as its TITLE",
        "measure": "what gives a benchmark's rows: each has one, as its TITLE",
        "main": "what `python -m leash.bench.NAME` runs: each has one",
        "serve": "what starts a system that is compared: each has one (leash.bench.systems)",
        "join": "what takes part in a system that is compared: each has one, as its `serve`",
    },
}


def public_names(module: ast.Module) -> Iterator[str]:
    """What this module defines at its top level for others; what it imports is not its own."""
    for node in module.body:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                names = [node.name]
            case ast.Assign():
                names = [n.id for t in node.targets for n in ast.walk(t) if isinstance(n, ast.Name)]
            case ast.AnnAssign(target=ast.Name(id=name)):
                names = [name]
            case _:
                names = []
        yield from (name for name in names if not name.startswith("_"))


def defined_twice(modules: dict[str, str]) -> dict[str, list[str]]:
    """The public names that several modules define, and which: from each module's source."""
    places: dict[str, list[str]] = defaultdict(list)
    for module, source in modules.items():
        for name in dict.fromkeys(public_names(ast.parse(source))):
            places[name].append(module)
    return {name: found for name, found in places.items() if len(found) > 1}


@pytest.mark.parametrize("package", SHARED_NAMES)
def test_a_name_is_defined_once_in_a_package_or_the_table_says_why_not(package: str) -> None:
    folder = ROOT / package
    sources = {
        str(path.relative_to(ROOT)): path.read_text("utf-8") for path in folder.rglob("*.py")
    }
    assert sources
    unexplained = {
        name: sorted(modules)
        for name, modules in defined_twice(sources).items()
        if name not in SHARED_NAMES[package]
    }
    assert unexplained == {}


@pytest.mark.parametrize("package", SHARED_NAMES)
def test_the_table_has_no_name_that_is_defined_once(package: str) -> None:
    sources = {str(path): path.read_text("utf-8") for path in (ROOT / package).rglob("*.py")}
    assert SHARED_NAMES[package].keys() <= defined_twice(sources).keys()


def test_every_kind_of_definition_counts_and_no_import_and_no_private_name() -> None:
    one = """
from x import Imported
def f(): ...
class C: ...
A: int = 1
B = D = 2
E, F = 1, 2
_g = 3
"""
    two = """
import Imported
f, C, D = 1, 2, 3
def A(): ...
class B: ...
E = F = 4
_g = once = 5
"""
    assert sorted(defined_twice({"one": one, "two": two})) == ["A", "B", "C", "D", "E", "F", "f"]
