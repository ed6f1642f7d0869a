"""The documentation site: its links lead where they say, and its reference has all there is.

`make docs` builds it and takes no warning: a page that is missing, or in no table of contents,
fails there. Links outside are compared with a list of what was found there; nothing is fetched.
"""

import datetime
import re
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Final

import pytest
import yaml

from leash.ps import cli
from leash.ps.options.base import flag, groups

ROOT = Path(__file__).resolve().parents[2]
DOCS: Final = ROOT / "docs"
sys.path.insert(0, str(DOCS / "_ext"))
import command_reference  # noqa: E402  # it is no part of the package
import dead_links  # noqa: E402
import repository_links  # noqa: E402

PAGES: Final = [
    *(ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted(DOCS.rglob("*.md")),
    *sorted(DOCS.rglob("*.ipynb")),
]
FENCED: Final = re.compile(r"^ *```.*?^ *```", re.DOTALL | re.MULTILINE)
LINK: Final = re.compile(r"\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^)\s]+)\)")
LISTED: Final[dict[str, dict[str, Any]]] = yaml.safe_load(
    (DOCS / "external-links.yaml").read_text("utf-8")
)


def prose(path: Path) -> str:
    """A page without its blocks of code; of a notebook, what stands between its cells."""
    text = path.read_text("utf-8")
    if path.suffix == ".ipynb":
        cells = yaml.safe_load(text)["cells"]
        text = "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    return FENCED.sub("", text)


def links(path: Path) -> Iterator[tuple[str, str]]:
    """The words and the target of each link."""
    yield from LINK.findall(prose(path))


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and MyST make them."""
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6} +(.+?) *$", prose(path), re.MULTILINE):
        words = re.sub(r"\[(.*?)\]\(.*?\)", r"\1", heading).replace("`", "").lower()
        slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        number = sum(1 for other in found if re.fullmatch(re.escape(slug) + r"(-\d+)?", other))
        found.add(f"{slug}-{number}" if number else slug)
    return found


def by_name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_every_link_inside_leads_to_a_file_and_to_one_of_its_headings(page: Path) -> None:
    dead = []
    for _, target in links(page):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            dead.append(target)
    assert dead == []


def test_an_anchor_is_that_of_its_heading(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# It's `--bound`, or not\n\n```\n# no heading\n```\n\n## Twice\n\n## Twice\n")
    assert anchors(page) == {"its---bound-or-not", "twice", "twice-1"}


def external_links() -> list[tuple[str, str]]:
    everywhere = [link for page in PAGES for link in links(page)]
    return [(words, target) for words, target in everywhere if "://" in target]


def test_every_link_outside_is_listed_with_what_is_there_and_none_else() -> None:
    targets = {target for _, target in external_links()}
    assert targets == set(LISTED)


def test_the_list_says_what_is_there_and_when_somebody_looked() -> None:
    for url, row in LISTED.items():
        assert re.fullmatch(r"https://[\w.-]+/[\w./-]*", url), url
        assert row["says"].strip()
        assert datetime.date(2026, 1, 1) < row["checked"] <= datetime.date.today()


def test_a_link_to_an_issue_or_a_paper_names_it() -> None:
    for words, target in external_links():
        if issue := re.fullmatch(r"https://github\.com/[\w-]+/([\w-]+)/issues/(\d+)", target):
            repository, number = issue.groups()
            name, _, said = words.partition("#")
            assert said == number
            assert repository.lower().endswith(name.lower()), (words, target)
        if paper := re.fullmatch(r"https://arxiv\.org/abs/([\d.]+)", target):
            assert words == f"arXiv:{paper[1]}"


# The reference.


def test_the_page_of_all_commands_has_every_option_of_each() -> None:
    sections = re.split(r"^## leash ", command_reference.all_commands(), flags=re.MULTILINE)[1:]
    by_command = {section.split("\n", 1)[0]: section for section in sections}
    assert list(by_command) == list(cli.COMMANDS)
    for name, command in cli.COMMANDS.items():
        for _, fields in groups(cli.options_of(command)):
            for field in fields:
                is_word = field.metadata.get("positional")
                written = field.name.upper() if is_word else flag(field.name)
                assert re.search(rf"`{written}[` ]", by_command[name]), (name, field.name)


def test_markup_in_a_help_text_is_shown_as_it_stands() -> None:
    assert command_reference._cell("train/*/*, a_b | <x> or `a*b`") == (
        r"train/\*/\*, a\_b \| \<x> or `a*b`"
    )


# Links of the site.


@pytest.mark.parametrize(
    ("link", "of_the_site"),
    [
        ("[x](security.md#keys)", "[x](../security.md#keys)"),
        ("[x](../README.md)", "[x](../index.md)"),
        ("[the map](../ARCHITECTURE.md#the-map)", "[the map](../project/architecture.md#the-map)"),
        ("[`a.py`](../examples/own_loop.py)", "[`a.py`](../../examples/own_loop.py)"),
        ("[all](../examples/)", "all"),
        ("[one](lessons/a.ipynb)", "[one](../lessons/a.ipynb)"),
        ("[a.ipynb](lessons/a.ipynb)", "{download}`a.ipynb <../lessons/a.ipynb>`"),
        ("[why](adr/)", "[why](../adr/index.md)"),
        ("[x](https://semver.org/)", "[x](https://semver.org/)"),
        ("```\n[x](security.md)\n```", "```\n[x](security.md)\n```"),
    ],
)
def test_a_link_leads_to_the_same_from_where_the_site_shows_it(link: str, of_the_site: str) -> None:
    read_from, shown_at = PurePosixPath("docs/page.md"), PurePosixPath("docs/how-to/page.md")
    assert repository_links.rewrite(link, read_from, shown_at) == of_the_site


def test_a_page_that_is_not_there_yet_is_left_out_of_its_section() -> None:
    section = ":::{toctree}\n:glob:\n\nstart\nnowhere*\nhow-to/ke*\n:::\n"
    kept = repository_links.without_empty_globs(section, PurePosixPath("docs"))
    assert kept == ":::{toctree}\n:glob:\n\nstart\nhow-to/ke*\n:::\n"


def test_what_leads_nowhere_in_a_site_is_found_and_what_is_loaded_from_elsewhere(
    tmp_path: Path,
) -> None:
    (tmp_path / "a.html").write_text(
        '<h1 id="top">A</h1><a href="b.html#there">1</a><a href="b.html#gone">2</a>'
        '<a href="c.html">3</a><a href="#top">4</a><a href="https://semver.org/">5</a>'
        '<script src="https://cdn.example/x.js"></script><img src="no.png"><img src="data:x">'
    )
    (tmp_path / "b.html").write_text('<p id="there">B</p>')
    assert list(dead_links.complaints(tmp_path)) == [
        "a.html: loads https://cdn.example/x.js",
        "a.html: lacks no.png",
        "a.html: b.html#gone leads nowhere",
        "a.html: c.html leads nowhere",
    ]


def test_a_make_target_that_a_page_names_is_one() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    text = "\n".join(page.read_text("utf-8") for page in PAGES if page.suffix == ".md")
    code = [*FENCED.findall(text), *re.findall(r"`[^`\n]+`", text)]
    named = set(re.findall(r"(?:^|`)make ([a-z]+)(?=[ `\n])", "\n".join(code), re.MULTILINE))
    assert {"demo", "install", "test"} <= named
    assert named - targets == set()
