"""`import leash` is cheap and complete, and a documentation site can render what it gives."""

import ast
import builtins
import doctest
import inspect
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from docstring_parser import Docstring, DocstringStyle, parse
from sklearn import exceptions as sklearn_exceptions

import leash
from leash.ps import errors
from leash.ps.wire.layout import Chunk, Layout, Slot
from leash.ps.wire.messages import Beaten, Leased, Welcome
from support.servers import serving

ROOT = Path(__file__).resolve().parents[2]
SECTIONS = ("Args", "Attributes", "Examples", "Raises", "Returns", "Yields")
EXAMPLE_ADDRESS = "tcp://127.0.0.1:29500"

PUBLIC = [getattr(leash, name) for name in leash.__all__ if name != "__version__"]
# What the signatures of public types name, and people need to use them.
NAMED = [Layout, Slot, Chunk, Welcome, Leased, Beaten]
TYPES = [*filter(inspect.isclass, PUBLIC), *NAMED]
FUNCTIONS = [value for value in PUBLIC if inspect.isfunction(value)]


def members(cls: type[Any]) -> Iterator[tuple[str, Any]]:
    """The public methods and properties of a class that are Leash's own, inherited or not."""
    for name in dir(cls):
        owner = next(base for base in cls.__mro__ if name in vars(base))
        member = vars(owner)[name]
        is_one = inspect.isroutine(member) or isinstance(
            member, (property, cached_property, classmethod, staticmethod)
        )
        if is_one and not name.startswith("_") and owner.__module__.startswith("leash."):
            yield name, member


MEMBERS = [
    pytest.param(cls, name, member, id=f"{cls.__name__}.{name}")
    for cls in TYPES
    for name, member in members(cls)
] + [pytest.param(leash, value.__name__, value, id=value.__name__) for value in FUNCTIONS]


def documented(text: str | None) -> Docstring:
    assert text, "there is no docstring"
    return parse(text, DocstringStyle.GOOGLE)


def names_of(doc: Docstring, kind: str) -> list[str]:
    """The names in the section of this kind: "param" is `Args:`, "attribute" `Attributes:`."""
    return [param.arg_name for param in doc.params if param.args[0] == kind]


def parameters(function: Callable[..., Any]) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name not in ("self", "cls")]


def is_sentence(line: str) -> bool:
    return bool(re.match(r"[A-Z`].*\.$", line))


# The front door.


def names_for_type_checkers() -> set[str]:
    tree = ast.parse(Path(leash.__file__).read_text("utf-8"))
    blocks = [
        node
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    return {
        alias.asname or alias.name
        for block in blocks
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def test_all_names_what_type_checkers_see() -> None:
    assert {*names_for_type_checkers(), "__version__"} == set(leash.__all__)
    assert len(set(leash.__all__)) == len(leash.__all__)


@pytest.mark.parametrize("name", leash.__all__)
def test_each_name_resolves_to_what_is_called_so(name: str) -> None:
    value = getattr(leash, name)
    assert isinstance(value, str) if name == "__version__" else value.__name__ == name


def test_every_error_is_within_reach() -> None:
    own = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and value.__module__ == errors.__name__
    }
    assert own <= set(leash.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="NoSuch"):
        leash.NoSuch  # noqa: B018 - the access is what fails


def in_a_fresh_process(script: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_leash_imports_nothing_heavy() -> None:
    script = (
        "import sys, leash\n"
        "print([name for name in sys.modules if name.split('.')[0] in ('torch', 'numpy', 'zmq')])"
    )
    assert in_a_fresh_process(script) == "[]"


def test_the_old_name_gives_the_same_optimizer() -> None:
    script = (
        "from worker import PSOptimizer as old\nfrom leash import PSOptimizer\n"
        "print(old is PSOptimizer)"
    )
    assert in_a_fresh_process(script) == "True"


WITHOUT_TORCH = """
import sys

class NoTorch:
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NoTorch())
"""


def test_without_torch_the_optimizer_says_how_to_install_it() -> None:
    script = f"""{WITHOUT_TORCH}
try:
    from leash import PSOptimizer
except ImportError as error:
    print(type(error).__name__, error)
"""
    told = in_a_fresh_process(script)
    assert told == "ImportError leash.PSOptimizer needs torch: pip install 'leash[torch]'"


def test_without_torch_the_client_works() -> None:
    assert in_a_fresh_process(f"{WITHOUT_TORCH}\nfrom leash import Client\nprint(Client)") == (
        "<class 'leash.worker.client.client.Client'>"
    )


# The docstrings of what people use.


@pytest.mark.parametrize("cls", TYPES, ids=lambda cls: cls.__name__)
def test_a_public_type_says_in_a_sentence_what_it_is(cls: type[Any]) -> None:
    assert cls.__doc__ is not None, "there is no docstring"
    assert is_sentence(cls.__doc__.splitlines()[0])


@pytest.mark.parametrize("cls", TYPES, ids=lambda cls: cls.__name__)
def test_every_argument_or_field_of_a_public_type_is_documented_once(cls: type[Any]) -> None:
    if is_dataclass(cls):
        assert names_of(documented(cls.__doc__), "attribute") == [f.name for f in fields(cls)]
    elif getattr(cls.__init__, "__module__", "").startswith("leash."):
        doc = documented(cls.__init__.__doc__)
        assert names_of(doc, "param") == parameters(cls.__init__)
        assert names_of(documented(cls.__doc__), "param") == []


@pytest.mark.parametrize(("cls", "name", "member"), MEMBERS)
def test_a_public_member_says_in_a_sentence_what_it_does(
    cls: type[Any], name: str, member: Any
) -> None:
    text = inspect.getdoc(member)
    assert text, "there is no docstring"
    assert is_sentence(text.splitlines()[0])


@pytest.mark.parametrize(("cls", "name", "member"), MEMBERS)
def test_every_argument_of_a_public_method_is_documented_once(
    cls: type[Any], name: str, member: Any
) -> None:
    function = getattr(cls, name)
    doc = documented(inspect.getdoc(member))
    assert names_of(doc, "param") == (parameters(function) if callable(function) else [])


@pytest.mark.parametrize(("cls", "name", "member"), MEMBERS)
def test_what_a_public_method_returns_is_documented(cls: type[Any], name: str, member: Any) -> None:
    function = getattr(cls, name)
    if callable(function):
        is_told = documented(inspect.getdoc(member)).returns is not None
        assert is_told == (inspect.signature(function).return_annotation not in (None, "None"))


@pytest.mark.parametrize(("cls", "name", "member"), MEMBERS)
def test_what_a_public_member_raises_are_errors(cls: type[Any], name: str, member: Any) -> None:
    for raised in documented(inspect.getdoc(member)).raises:
        places = (errors, builtins, sklearn_exceptions)
        kind = next(
            (getattr(place, str(raised.type_name), None) for place in places
             if hasattr(place, str(raised.type_name))), None,
        )  # fmt: skip
        assert isinstance(kind, type), raised.type_name
        assert issubclass(kind, Exception)


# The form of all docstrings.


def docstrings() -> list[Any]:
    paths = [path for folder in ("ps", "worker", "bench") for path in (ROOT / folder).rglob("*.py")]
    paths += (ROOT / "leash").glob("*.py")
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    return [
        pytest.param(text, id=f"{path.relative_to(ROOT)}:{getattr(node, 'name', 'module')}")
        for path in sorted(paths)
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, kinds) and (text := ast.get_docstring(node))
    ]


DOCSTRINGS = docstrings()


def test_there_are_docstrings_to_look_at() -> None:
    assert len(DOCSTRINGS) > 1000


def flaw_in(text: str) -> str | None:
    """What keeps a documentation site from rendering a docstring's sections; None if nothing."""
    lines = text.splitlines()
    for number, line in enumerate(lines):
        heading = re.fullmatch(rf"( *)({'|'.join(SECTIONS)}):(.*)", line)
        if heading is None:
            continue
        indent, _, rest = heading.groups()
        if number == 0:
            return "it begins with a section"
        if rest:
            return f"{line.strip()!r} has its contents beside it"
        if indent or lines[number - 1]:
            return f"{line.strip()!r} does not begin a paragraph of its own"
        following = lines[number + 1] if number + 1 < len(lines) else ""
        if not re.match(r"    \S", following):
            return f"what is below {line.strip()!r} is not indented by four"
    return None


@pytest.mark.parametrize("text", DOCSTRINGS)
def test_sections_are_indented_so_that_they_render(text: str) -> None:
    assert flaw_in(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "Args:\n    n: a number.",
        "Counts.\n\nArgs:\nn: a number.",
        "Counts.\nArgs:\n    n: a number.",
        "Counts.\n\nRaises: what `count` raises.",
        "Counts.\n\n  Args:\n    n: a number.",
        "Counts.\n\nReturns:",
    ],
)
def test_a_section_that_would_not_render_is_found(text: str) -> None:
    assert flaw_in(text) is not None


# The examples.


WITH_EXAMPLES = [cls for cls in TYPES if "\n    Examples:\n" in (cls.__doc__ or "")]


@pytest.mark.parametrize("cls", WITH_EXAMPLES, ids=lambda cls: cls.__name__)
def test_examples_do_what_they_show(cls: type[Any]) -> None:
    with serving(lr=0.1) as running:
        text = inspect.cleandoc(cls.__doc__ or "").replace(EXAMPLE_ADDRESS, running.address)
        test = doctest.DocTestParser().get_doctest(text, {}, cls.__name__, None, 0)
        said: list[str] = []
        result = doctest.DocTestRunner().run(test, out=said.append)
    assert result.failed == 0, "".join(said)
    assert result.attempted > 0


def test_the_types_that_people_begin_with_have_an_example() -> None:
    names = {cls.__name__ for cls in WITH_EXAMPLES}
    assert {"PSOptimizer", "Client", "GaussianMixture", "BernoulliMixture"} <= names
