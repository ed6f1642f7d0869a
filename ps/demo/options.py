"""The options of `leash demo`."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

from leash.ps.errors import UsageError
from leash.ps.options.base import DEFAULT_SEED, Options, check_not_negative, check_positive, option

DRAWN_AS: Final = (".svg", ".png", ".pdf")


@dataclass(frozen=True, kw_only=True)
class DemoOptions(Options):
    """See what Leash is for: unequal machines in lockstep and on the leash, side by side."""

    title: ClassVar[str] = "demo"

    workers: int = option(4, "how many machines; each is a process here", metavar="N")
    slower: float = option(8.0, "how many times slower the last one is", metavar="TIMES")
    epochs: int = option(6, "passes over the 1,438 handwritten digits", metavar="N")
    seed: int = option(DEFAULT_SEED, "of initial values and data order, in both runs")
    out: str | None = option(
        None, "both runs and the picture go here; default: a new folder below runs/", metavar="DIR",
        is_path=True,
    )  # fmt: skip
    picture: str | None = option(
        None, "draw the picture here: .svg, .png or .pdf; default: demo.svg beside the runs",
        metavar="FILE", is_path=True,
    )  # fmt: skip

    def check(self) -> None:
        super().check()
        check_positive(self, "workers", "epochs")
        check_not_negative(self, "seed")
        if self.workers < 2:
            raise UsageError(f"--workers {self.workers}: one machine waits for nobody; give at "
                             "least 2")  # fmt: skip
        if not 1 <= self.slower <= 1000:
            raise UsageError(f"--slower {self.slower:g}: give a number from 1, where all machines "
                             "are alike, to 1000")  # fmt: skip
        if self.picture is not None and Path(self.picture).suffix not in DRAWN_AS:
            raise UsageError(f"--picture {self.picture}: give a name that ends in "
                             f"{', '.join(DRAWN_AS)}")  # fmt: skip
