"""The options of `leash experiment`."""

from dataclasses import dataclass
from typing import ClassVar

from leash.ps.errors import UsageError
from leash.ps.experiments.machines import MachinesGroup, refuse_machines
from leash.ps.options.base import Options, argument, check_not_negative, check_positive, option
from leash.ps.options.worker import KEYS_HELP


@dataclass(frozen=True, kw_only=True)
class ExperimentGroup(Options):
    """The options of which runs, and where they go."""

    title: ClassVar[str] = "experiment"

    name: str | None = argument(
        None, "an experiment's name, or a file such as sweep.yaml; without it they are listed",
        is_path=True,
    )  # fmt: skip
    out: str | None = option(
        None, "the runs, table and report go here; runs that are there already are not repeated. "
        "Default: experiments/NAME, or experiments/NAME-virtual", metavar="DIR", is_path=True,
    )  # fmt: skip
    only: str | None = option(
        None, "only the runs whose names hold one of these words", metavar="WORD,..."
    )
    data_dir: str | None = option(None, "folder of the data set", metavar="DIR", is_path=True)
    download: bool = option(False, "fetch the data set when it is not there")
    keys: str | None = option(None, KEYS_HELP, metavar="DIR", is_path=True)
    epochs: int | None = option(
        None, "passes over the data, instead of the experiment's own number", metavar="N"
    )
    time_scale: float | None = option(
        None, "artificial slowness in this scale, instead of the experiment's own", metavar="SCALE"
    )
    seed: int | None = option(None, "instead of the experiment's own seeds", metavar="N")
    dry_run: bool = option(False, "print the command line of each run, and run nothing")
    virtual: bool = option(
        False, "train in virtual time: real gradients, but nobody sleeps or waits for a clock"
    )

    def check(self) -> None:
        super().check()
        check_positive(self, "epochs", "time_scale")
        check_not_negative(self, "seed")
        if self.virtual and self.dry_run:
            raise UsageError("--dry-run: prints how to train in real time; leave out --virtual")


@dataclass(frozen=True, kw_only=True)
class ExperimentOptions(ExperimentGroup, MachinesGroup):
    """Repeat an experiment: several runs, one after the other, a table and a report."""

    def check(self) -> None:
        super().check()
        if not self.virtual:
            refuse_machines(self)
