"""Pages keep the links that a reader of the repository follows; this makes the site's of them.

- A page of `STANDING_FOR` shows a file at the top of the repository, and links to that file lead to
  the page.
- A link to another file outside docs/ is a download of that file.
- A notebook that is named as a file is a download too; a link in other words leads to its page.
- A link to a folder without a page is its text alone: the site has no listing of folders.
"""

import re
from pathlib import Path, PurePosixPath
from typing import Any, Final

DOCS: Final = Path(__file__).resolve().parents[1]
ROOT: Final = DOCS.parent
STANDING_FOR: Final = {
    "project/architecture": "ARCHITECTURE.md",
    "project/contributing": "CONTRIBUTING.md",
    "project/changelog": "CHANGELOG.md",
}
# Files and folders that a page of another name is about.
PAGES: Final = {
    **{file: f"docs/{page}.md" for page, file in STANDING_FOR.items()},
    "README.md": "docs/index.md",
    "docs/adr": "docs/adr/index.md",
    "docs/lessons": "docs/lessons/index.md",
}
LINK: Final = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^)\s#]*)((?:#[^)\s]*)?)\)")
FENCED: Final = re.compile(r"(^ *```.*?^ *```$)", re.DOTALL | re.MULTILINE)


def rewrite(text: str, read_from: PurePosixPath, shown_at: PurePosixPath) -> str:
    """Rewrites the links of a page.

    Args:
        text: the page, in Markdown.
        read_from: the file that it stands in, from the top of the repository.
        shown_at: the page that shows it, from the top of the repository.
    """

    def of_the_site(found: "re.Match[str]") -> str:
        mark, words, target, anchor = found.groups()
        if not target or re.match(r"[a-z]+:", target):
            return found[0]
        path = _normal(read_from.parent / target)
        path = PAGES.get(path, path)
        if (ROOT / path).is_dir():
            return str(words)
        if path.endswith(".ipynb") and words == PurePosixPath(path).name:
            return f"{{download}}`{words} <{_relative(path, shown_at)}>`"
        return f"{mark}[{words}]({_relative(path, shown_at)}{anchor})"

    pieces = FENCED.split(text)  # the odd ones are blocks of code
    pieces[::2] = [LINK.sub(of_the_site, piece) for piece in pieces[::2]]
    return "".join(pieces)


def _normal(path: PurePosixPath) -> str:
    """The path without `..`, from the top of the repository."""
    return str((ROOT / path).resolve().relative_to(ROOT))


def _relative(path: str, page: PurePosixPath) -> str:
    """The way from a page to a file, both from the top of the repository."""
    up = "../" * (len(page.parts) - 1)
    return f"{up}{path}" if not path.startswith("docs/") else f"{up[3:]}{path[5:]}" or "."


def without_empty_globs(text: str, folder: PurePosixPath) -> str:
    """Leaves out the lines of a table of contents that no page answers to, such as `hosts*`.

    So a section can name pages before they are there; Sphinx has a warning for that, which nobody
    can switch off.
    """
    lines = text.splitlines(keepends=True)
    return "".join(
        line
        for line in lines
        if not re.fullmatch(r"[\w/-]+\*\s*", line) or any((ROOT / folder).glob(line.strip()))
    )


def on_source_read(_: Any, docname: str, source: list[str]) -> None:
    page = PurePosixPath("docs", f"{docname}.md")
    if not (ROOT / page).exists():  # a notebook
        return
    file = PurePosixPath(STANDING_FOR.get(docname, page))
    text = (ROOT / file).read_text("utf-8") if file != page else source[0]
    source[0] = without_empty_globs(rewrite(text, file, page), page.parent)


def setup(app: Any) -> dict[str, bool]:
    app.connect("source-read", on_source_read)
    return {"parallel_read_safe": True}
