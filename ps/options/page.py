"""The options of the live page: `leash server --page`, `leash launch --page`, `leash page`."""

from dataclasses import dataclass
from typing import ClassVar, Final

from leash.ps.errors import UsageError
from leash.ps.options.addresses import split_address
from leash.ps.options.base import Options, argument, option

PAGE_PORT: Final = 29580  # or a free one, where this is taken and nobody has asked for it


PAGE_AT_HELP: Final = (
    "serve the page here, with a token beyond this machine; default: "
    f"127.0.0.1:{PAGE_PORT}, or a free port"
)


def page_place(page_at: str | None) -> tuple[str, int]:
    """Host and port of a page; port 0 stands for any.

    Raises:
        UsageError: --page-at is no host and port.
    """
    if page_at is None:
        return "127.0.0.1", PAGE_PORT
    try:
        return split_address(f"tcp://{page_at}")
    except UsageError as error:
        raise UsageError(
            f"--page-at {page_at}: give HOST:PORT, such as 0.0.0.0:{PAGE_PORT}"
        ) from error


@dataclass(frozen=True, kw_only=True)
class PageGroup(Options):
    """Whether a run has a live page, and where."""

    title: ClassVar[str] = "live page"

    page: bool = option(
        False, "show the run live as a page, with /metrics for Prometheus and /healthz"
    )
    page_at: str | None = option(None, PAGE_AT_HELP, metavar="HOST:PORT")

    def check(self) -> None:
        super().check()
        page_place(self.page_at)

    @property
    def has_page(self) -> bool:
        """Whether there is to be one: --page-at asks for it too."""
        return self.page or self.page_at is not None


@dataclass(frozen=True, kw_only=True)
class RunPageGroup(Options):
    """Which run a page shows, and where."""

    title: ClassVar[str] = "what to show, and where"

    run: str = argument(
        "", "a run directory, such as runs/NAME; default: the newest run in ./runs", is_path=True
    )
    page_at: str | None = option(None, PAGE_AT_HELP, metavar="HOST:PORT")
    open: bool = option(False, "show the page in a browser")

    def check(self) -> None:
        super().check()
        page_place(self.page_at)


@dataclass(frozen=True, kw_only=True)
class RunPageOptions(RunPageGroup):
    """Serve the page of a run that has ended, or follow one that goes on from its files."""
