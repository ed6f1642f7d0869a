"""The options of `leash page`."""

from dataclasses import dataclass

from leash.ps.options.base import Options, argument
from leash.ps.options.page import RunPageOptions, page_place


@dataclass(frozen=True, kw_only=True)
class ShownRunOptions(RunPageOptions):
    """Serve the page of a run that has ended, or follow one that goes on from its files."""

    run: str = argument(
        "", "a run directory, such as runs/NAME; default: the newest run in ./runs", is_path=True
    )

    def check(self) -> None:
        if self.run:
            super().check()
        else:
            Options.check(self)
            page_place(self.page_at)
