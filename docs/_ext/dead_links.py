"""Looks for links of a site that lead nowhere, and for what its pages load from elsewhere.

python docs/_ext/dead_links.py build/docs
"""

import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """The anchors of a page, the links of it, and what a browser loads to show it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value for name, value in attrs if value}
        if "id" in values:
            self.anchors.add(values["id"])
        if "href" in values:
            (self.links if tag == "a" else self.loaded).append(values["href"])
        if "src" in values:
            self.loaded.append(values["src"])


def complaints(site: Path) -> Iterator[str]:
    """Yields a line for each link without an end, and for each thing that is loaded from elsewhere.

    Args:
        site: the folder that Sphinx has written.
    """
    pages = {path.resolve(): Page(path.read_text("utf-8")) for path in site.rglob("*.html")}
    for path, page in sorted(pages.items()):
        name = path.relative_to(site.resolve())
        for target in page.loaded:
            parts = urlsplit(target)
            if parts.netloc:
                yield f"{name}: loads {target}"
            elif not parts.scheme and not (path.parent / unquote(parts.path)).exists():
                yield f"{name}: lacks {target}"
        for target in page.links:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue  # tests/unit/test_site.py has a list of these
            end = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchor = unquote(parts.fragment)
            if not end.exists() or (anchor and end in pages and anchor not in pages[end].anchors):
                yield f"{name}: {target} leads nowhere"


if __name__ == "__main__":
    found = list(complaints(Path(sys.argv[1])))
    print(*found, sep="\n", end="\n" if found else "")
    raise SystemExit(bool(found))
