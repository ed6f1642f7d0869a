"""`leash experiment`: trains the runs one after the other, then makes a table and a report."""

import json
import shlex
import shutil
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Final

import yaml
from rich.console import Console
from rich.text import Text

from leash.ps.cli import resolve
from leash.ps.commands.printing import print_line
from leash.ps.errors import UsageError
from leash.ps.experiments.machines import MachinesGroup, VirtualLaunch
from leash.ps.experiments.options import ExperimentOptions
from leash.ps.experiments.outcome import as_json, median_rows, read_outcome
from leash.ps.experiments.outcome_table import outcome_table
from leash.ps.experiments.plan import Experiment, PlannedRun, load, names
from leash.ps.interrupt import Interrupted
from leash.ps.launch import command as launch
from leash.ps.options.base import make_folder, to_argv
from leash.ps.options.server import in_todays_terms
from leash.ps.report.writing import require_matplotlib, write_report
from leash.ps.runs.rundir import MACHINES_FILE, write_atomically
from leash.ps.wire.keys import files_for_workers
from leash.ps.wire.messages import STOPPED_BY_TIMEOUT
from leash.ps.words import DONE, FIGURES_ARE, why_stopped

OUT: Final = "experiments"
VIRTUAL_RUN: Final = "worker.virtual.run:run"  # it imports PyTorch, which this may not
WIDTH: Final = 140
GOOD_ENDS: Final = (DONE, STOPPED_BY_TIMEOUT)


def run(options: ExperimentOptions) -> int:
    """Repeats an experiment; returns 0, or the exit status of the first run that failed."""
    console = _console()
    if options.name is None:
        _list(console)
        return 0
    experiment = load(options)
    out = Path(options.out or Path(OUT, experiment.name + "-virtual" * options.virtual))
    if options.dry_run:
        _print_command_lines(console, experiment, out)
        return 0
    if options.virtual:
        for planned in experiment.runs:
            _check_virtual(planned, options)
    else:
        _make_keys(experiment)
    require_matplotlib()  # now, not only when all runs are over
    make_folder("--out", out)
    print_line(console, experiment.about)
    for number, planned in enumerate(experiment.runs, start=1):
        title = f"run {number} of {len(experiment.runs)}: {planned.name}"
        try:
            status = _run_one(console, title, planned, out / planned.folder, options)
        except Interrupted as interrupted:
            why = why_stopped(str(interrupted))
            line = f"{why}, in {title}; the same command line repeats it and goes on"
            print_line(console, line)
            raise
        if status:
            return status
    _conclude(console, experiment, out)
    return 0


def _console() -> Console:
    """Makes a console; one without a terminal is wide enough for every column."""
    console = Console()
    return console if console.is_terminal else Console(width=WIDTH)


def _list(console: Console) -> None:
    for name, about in names().items():
        console.print(Text.assemble((f"{name:12}", "bold"), " ".join(about.split())))
    console.print(Text("\nleash experiment NAME, or a file such as sweep.yaml"))


def _print_command_lines(console: Console, experiment: Experiment, out: Path) -> None:
    for planned in experiment.runs:
        settings = replace(planned.options, run_dir=str(out / planned.folder))
        line = shlex.join(["leash", "launch", *to_argv(settings)])
        console.print(Text(line), soft_wrap=True)


def _check_virtual(planned: PlannedRun, options: ExperimentOptions) -> None:
    try:
        VirtualLaunch(planned.options, options).check()
    except UsageError as error:
        raise UsageError(f"--virtual, run {planned.name}: {error}") from error


def _make_keys(experiment: Experiment) -> None:
    """Makes the folders of keys that are not there, with enough for the run of most workers.

    Raises:
        UsageError: one that is there has too few.
    """
    most: dict[str, int] = {}
    for planned in experiment.runs:
        folder, options = planned.options.keys, planned.options
        if folder is not None:
            workers = max(options.most_started, options.max_workers or 0)
            most[folder] = max(workers, most.get(folder, 0))
    for folder, workers in most.items():
        files_for_workers(folder, workers)


def _run_one(
    console: Console, title: str, planned: PlannedRun, run_dir: Path, options: ExperimentOptions
) -> int:
    if _is_there(planned, run_dir, options if options.virtual else None):
        print_line(console, f"{title}: is there already")
        return 0
    console.print(Text(f"\n{title}", "bold"), soft_wrap=True)
    settings = replace(planned.options, run_dir=str(run_dir))
    if options.virtual:
        return resolve(VIRTUAL_RUN)(VirtualLaunch(settings, options))
    return launch.run(settings, is_one_of_many=True)


def _is_there(planned: PlannedRun, run_dir: Path, machines: MachinesGroup | None = None) -> bool:
    """Whether an earlier call finished this run; removes what is left of a run that did not finish.

    Args:
        planned: the run.
        run_dir: where it would be.
        machines: of a run in virtual time; None in real time.

    Raises:
        UsageError: the folder holds another run, or something else.
    """
    if not run_dir.exists():
        return False
    if not (run_dir / "config.yaml").exists():
        raise UsageError(f"{run_dir}: not the folder of a run; take another --out")
    settings = {name: value for name, value in asdict(planned.options).items() if name != "run_dir"}
    there = yaml.safe_load((run_dir / "config.yaml").read_text("utf-8"))
    # What an earlier release had no option for, and so no setting in its files, has its default.
    defaults = {f.name: f.default for f in fields(planned.options) if f.name in settings}
    if {**defaults, **in_todays_terms(there)} != settings:
        raise UsageError(f"{run_dir}: a run with other settings is there; take another --out")
    _require_same_machines(run_dir, machines)
    summary = run_dir / "summary.json"
    if summary.exists() and json.loads(summary.read_text("utf-8")).get("ended") in GOOD_ENDS:
        return True
    shutil.rmtree(run_dir)
    return False


def _require_same_machines(run_dir: Path, machines: MachinesGroup | None) -> None:
    """Refuses a run that was made on other machines, or in another kind of time."""
    path = run_dir / MACHINES_FILE
    there = yaml.safe_load(path.read_text("utf-8")) if path.exists() else None
    wanted = machines.settings() if machines is not None else None
    if there is not None and wanted is not None and wanted["compute"] is None:
        wanted["compute"] = there["compute"]  # it was measured
    if there != wanted:
        raise UsageError(f"{run_dir}: a run on other machines is there; take another --out")


def _conclude(console: Console, experiment: Experiment, out: Path) -> None:
    outcomes = [
        read_outcome(planned.name, out / planned.folder, experiment.target_accuracy)
        for planned in experiment.runs
    ]
    write_atomically(out / "results.json", as_json(outcomes))
    console.print()
    console.print(outcome_table(experiment, median_rows(outcomes)))
    console.print(Text(FIGURES_ARE, "dim"))
    report = write_report([out / planned.folder for planned in experiment.runs], out)
    print_line(console, f"results         {out / 'results.json'}")
    print_line(console, f"report          {report}")
