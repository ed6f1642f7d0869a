"""What README, ARCHITECTURE, CONTRIBUTING and docs/ name exists: files, commands, Python names."""

import ast
import fnmatch
import importlib
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Final

import pytest
import yaml

from leash.ps import cli
from leash.ps.errors import UsageError
from leash.ps.options.addresses import split_address
from leash.ps.options.parser import parser_for
from simulation.command import parser as simulation_parser

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS: Final = [
    *(ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")),
    ROOT / "csrc" / "core" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]

SOURCES: Final = (".py", ".pyi", ".h", ".cpp", ".md")  # a word that ends so names a file
# Files with such names that are no files of this repository.
OF_OTHERS: Final = {
    "train.py", "worker.py", "ps.py", "bench.py",  # a user's own
    "param_server.py", "learner.py",  # the SSP demo's
}  # fmt: skip
# A command line with one of these words is a form, and not parsed.
PLACEHOLDERS: Final = {"COMMAND", "NAME"}
# Options of other programs.
OPTIONS_OF_OTHERS: Final = {
    "--annotate", "--build", "--dry-run", "--editable", "--extra-index-url", "--follow",
    "--index-url", "--message", "--no-index", "--no-kill", "--pid", "--preset", "--requeue",
    "--strict", "--upgrade",
}  # fmt: skip


@cache
def tracked() -> frozenset[str]:
    """Every file and folder of the repository."""
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split("\0")  # fmt: skip
    files = [PurePosixPath(name) for name in names if name and (ROOT / name).exists()]
    return frozenset(str(path) for file in files for path in (file, *file.parents))


# What a document names.

OPTION: Final = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
FENCE: Final = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)


def blocks(text: str, *languages: str) -> list[str]:
    """The code blocks in one of these languages; "" is a block that names none."""
    return [code for language, code in FENCE.findall(text) if language in languages]


def spans(text: str) -> list[str]:
    """What stands between backticks in a line of prose."""
    prose = FENCE.sub("", text)
    return [" ".join(span.split()) for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose)]


def links(text: str) -> list[str]:
    """The relative links, without the part of the page."""
    found = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", FENCE.sub("", text))
    return [link for link in found if "://" not in link]


def paths(text: str) -> Iterator[str]:
    """The words between backticks that look like files or folders of this repository."""
    tops = {name for name in tracked() if "/" not in name} - {"."}
    for span in spans(text):
        if not re.fullmatch(r"[\w.*/-]+", span):
            continue
        top, slash, _ = span.partition("/")
        if (slash and top in tops) or span.endswith(SOURCES):
            yield span


def commands(text: str) -> Iterator[list[str]]:
    """The words of each line that begins with `leash`, in code blocks and between backticks."""
    for code in blocks(text, "", "sh", "bash"):
        for line in code.replace("\\\n", " ").splitlines():
            yield from command_in(line.strip().removeprefix("$ "), comments=True)
    for span in spans(text):
        yield from command_in(span, comments=False)


def command_in(line: str, *, comments: bool) -> Iterator[list[str]]:
    if line.startswith("leash "):
        yield shlex.split(line, comments=comments)[1:]


def options(text: str) -> Iterator[str]:
    """The options that prose names between backticks."""
    for span in spans(text):
        yield from re.findall(OPTION, span)


def dotted_names(text: str) -> Iterator[str]:
    """The names below `leash` between backticks and in blocks of Python; `ps.x` is leash.ps.x."""
    for code in [*spans(text), *blocks(text, "python")]:
        for name in re.findall(
            r"(?<![\w./\"'-])(?:leash|ps|worker|bench)(?:\.[A-Za-z_]\w*)+", code
        ):
            if not name.endswith((".py", ".NAME")):
                yield name if name.startswith("leash.") else f"leash.{name}"


def imported_names(text: str) -> Iterator[str]:
    """What blocks of Python import from Leash."""
    for code in blocks(text, "python"):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("leash"):
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


# Whether it exists.


def missing_paths(names: Iterable[str]) -> list[str]:
    files = {PurePosixPath(name).name for name in tracked()}
    return [
        name
        for name in names
        if not fnmatch.filter(tracked(), name.rstrip("/"))
        and name not in OF_OTHERS
        and ("/" in name or name not in files)
    ]


def refused(words: list[str]) -> str:
    """What the parser says against a command line; empty if it takes it."""
    if words[0] not in cli.COMMANDS and not words[0].startswith("--"):
        return f"{words[0]}: no such command"
    try:
        cli.parse(words)
    except UsageError as error:
        return str(error)
    except SystemExit as end:
        return "" if not end.code else f"ended with {end.code}"
    return ""


@cache
def known_options() -> frozenset[str]:
    """The options of all commands, of `leash` itself, and of the simulated cluster."""
    parsers = [parser_for("leash", cli.options_of(command)) for command in cli.COMMANDS.values()]
    parsers.extend((simulation_parser(), cli.build_parser()))
    return frozenset(
        name for parser in parsers for name in re.findall(OPTION, parser.format_help())
    )


def missing_names(names: Iterable[str]) -> list[str]:
    return [name for name in names if not exists(name)]


def exists(name: str) -> bool:
    """Whether a dotted name is a module or what a module defines."""
    module, _, attribute = name.rpartition(".")
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        return (
            bool(module) and exists(module) and hasattr(importlib.import_module(module), attribute)
        )
    return True


# The documents.


def by_name(documents: Iterable[Path]) -> Mapping[str, Path]:
    return {str(path.relative_to(ROOT)): path for path in documents}


@pytest.fixture(params=DOCUMENTS, ids=by_name(DOCUMENTS))
def document(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def test_every_path_that_is_named_exists(document: Path) -> None:
    assert missing_paths(paths(document.read_text("utf-8"))) == []


def test_every_link_leads_to_a_file(document: Path) -> None:
    found = links(document.read_text("utf-8"))
    assert [link for link in found if not (document.parent / link).exists()] == []


def test_every_command_is_one_that_the_parser_takes(
    document: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = tmp_path / "runs" / "NAME" / "config.yaml"
    config.parent.mkdir(parents=True)
    config.write_text("{}\n", "utf-8")
    monkeypatch.chdir(tmp_path)
    whole = [
        words for words in commands(document.read_text("utf-8")) if PLACEHOLDERS.isdisjoint(words)
    ]
    assert {shlex.join(words): why for words in whole if (why := refused(words))} == {}


def test_every_option_that_is_named_is_one(document: Path) -> None:
    named = set(options(document.read_text("utf-8")))
    assert named - known_options() - OPTIONS_OF_OTHERS == set()


def test_every_python_name_exists(document: Path) -> None:
    text = document.read_text("utf-8")
    assert missing_names([*dotted_names(text), *imported_names(text)]) == []


def test_the_stops_of_a_gradient_are_files_and_the_same_in_figure_and_table() -> None:
    figure = (ROOT / "docs" / "images" / "gradient-trip.svg").read_text("utf-8")
    drawn = {
        int(number): f"{folder}/{file}"
        for number, folder, file in re.findall(
            r'<tspan class="number">(\d+)</tspan> (\S+)</text>\s*<text class="file"[^>]*>(\S+)<',
            figure,
        )
    }
    rows = re.findall(r"^\| (\d+) \| (.+?) \|", (ROOT / "ARCHITECTURE.md").read_text("utf-8"), re.M)
    assert sorted(drawn) == [int(number) for number, _ in rows] == list(range(1, len(rows) + 1))
    assert missing_paths(drawn.values()) == []
    assert [number for number, files in rows if f"`{drawn[int(number)]}`" not in files] == []


def test_the_documents_name_all_of_these() -> None:
    everything = "\n".join(path.read_text("utf-8") for path in DOCUMENTS)
    assert len(list(paths(everything))) > 100
    assert len(list(commands(everything))) > 25
    assert len(set(options(everything))) > 30
    assert {"leash.PSOptimizer"} <= set(imported_names(everything))
    assert set(dotted_names(everything)) > {"leash.GaussianMixture"}


# The examples.


def examples(*suffixes: str) -> list[Path]:
    files = (ROOT / "examples").rglob("*")
    return sorted(path for path in files if path.suffix in suffixes)


EXAMPLES: Final = examples(".py", ".service", ".yaml")


def lines_of(path: Path) -> list[str]:
    """Without the marks of comments, and with what goes on behind a backslash in one line."""
    text = re.sub(r"^# ?", "", path.read_text("utf-8"), flags=re.MULTILINE)
    return re.sub(r"\\\n\s*", "", text).splitlines()


def commands_of_example(path: Path) -> list[list[str]]:
    """The command lines of `leash`, wherever they stand: in comments, units and containers."""
    lines = lines_of(path)
    if path.suffix == ".yaml":
        services = yaml.safe_load(path.read_text("utf-8"))["services"].values()
        lines += [service["command"] for service in services]
    found = []
    for line in lines:
        command = re.search(r"(?:^ *|ExecStart=/\S*/| leash )(leash [a-z].*)", line)
        if command:
            found.append(shlex.split(command[1].replace("%i", "3"), comments=True)[1:])
    return found


@pytest.mark.parametrize("path", EXAMPLES, ids=by_name(EXAMPLES))
def test_every_command_of_an_example_is_one_that_leash_takes(path: Path) -> None:
    commands = commands_of_example(path)
    assert commands
    for words in commands:
        _, options = cli.parse(words)
        options.check()


def test_the_units_are_what_systemd_takes(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not here")
    units = []
    for path in examples(".service"):
        unit = tmp_path / path.name.replace("@", "@3")
        unit.write_text(path.read_text("utf-8").replace("/opt/leash/bin/leash", sys.executable))
        units.append(str(unit))
    verify = ["systemd-analyze", "verify", "--man=no", *units]
    done = subprocess.run(verify, capture_output=True, text=True, check=False)
    assert (done.returncode, [x for x in done.stderr.splitlines() if str(tmp_path) in x]) == (0, [])


def test_a_server_in_a_container_finds_its_run_and_its_ports_again() -> None:
    (path,) = examples(".yaml")
    services = yaml.safe_load(path.read_text("utf-8"))["services"]
    assert all(service["restart"].startswith("on-failure") for service in services.values())
    _, server = cli.parse(shlex.split(services["server"]["command"])[1:])
    kept = {volume.split(":")[1] for volume in services["server"]["volumes"]}
    assert str(Path(server.run_dir).parent) in kept
    assert split_address(server.bind)[1] == 29500
    for name in ("worker-1", "worker-2"):
        _, worker = cli.parse(shlex.split(services[name]["command"])[1:])
        assert worker.server == "tcp://server:29500"
        assert worker.key in {volume.split(":")[1] for volume in services[name]["volumes"]}


# These tests can fail.

WRONG: Final = """
`ps/nowhere.py`, `ps/policy.py`, `nowhere.py`, `ps/gone/`, `ps/*.nothing`, `ps/*.py`, `worker.py`,
[a page](nowhere.md)

```
leash server --bound 3 \\
    --slowest 1   # an option that there is not
leash sever --bound 3
$ leash status --server tcp://HOST:29500
```

`leash worker --rank one`, `--no-such-option`, `leash.PSOptimizer`, `leash.Nothing`, `ps.no`

```python
from leash import PSOptimizer, Optimiser
```
"""


def test_a_path_that_is_not_there_is_found() -> None:
    assert missing_paths(paths(WRONG)) == [
        "ps/nowhere.py", "nowhere.py", "ps/gone/", "ps/*.nothing",
    ]  # fmt: skip
    assert links(WRONG) == ["nowhere.md"]


def test_a_command_that_the_parser_refuses_is_found() -> None:
    answers = [refused(words) for words in commands(WRONG)]
    assert ["slowest" in answers[0], "sever" in answers[1], answers[2], "one" in answers[3]] == [
        True, True, "", True,
    ]  # fmt: skip


def test_an_option_that_there_is_not_is_found() -> None:
    assert set(options(WRONG)) - known_options() == {"--no-such-option"}


def test_a_python_name_that_there_is_not_is_found() -> None:
    assert missing_names(dotted_names(WRONG)) == ["leash.Nothing", "leash.ps.no"]
    assert missing_names(imported_names(WRONG)) == ["leash.Optimiser"]
