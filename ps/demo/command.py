"""What `leash demo` runs."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.console import Console

from leash._extras import install_command, is_installed
from leash.ps.commands.printing import print_line
from leash.ps.demo.options import DemoOptions
from leash.ps.demo.outcome import read_side
from leash.ps.demo.side_screen import BothSides
from leash.ps.demo.sides import TARGET_ACCURACY, Side, both_sides, machines_of, slowness_of
from leash.ps.demo.verdict import verdict, waited
from leash.ps.errors import UsageError
from leash.ps.interrupt import Interrupted
from leash.ps.launch import command as launch
from leash.ps.options.base import make_folder
from leash.ps.runs.rundir import free_folder
from leash.ps.words import why_stopped

NEEDED: Final = ("torch", "sklearn")  # who trains, and where the digits are
NAME_WIDTH: Final = 16


def run(options: DemoOptions) -> int:
    """Runs both sides; returns 0, or the exit status of the first run that failed.

    Raises:
        UsageError: a package is missing, or a folder cannot be written or is not empty.
    """
    console = Console()
    _require_packages(options)
    out = _make_out(options.out)
    lockstep, leash = both_sides(options, out)
    for line in (machines_of(options), slowness_of(lockstep)):
        print_line(console, line)
    with BothSides((lockstep, leash), console) as both:
        for view in both.views:
            view.side.options.check()
            try:
                status = launch.run(
                    view.side.options, is_one_of_many=True, screen=both.screen_of(view)
                )
            except Interrupted as interrupted:
                why = why_stopped(str(interrupted))
                print_line(console, f"{why}, before there were two sides to compare")
                raise
            if status:
                return status
            # From the events: while it ran, it was known to half a second only.
            view.reached_s = read_side(view.side.run_dir).seconds_to(TARGET_ACCURACY)
        both.draw_at_last()
    _conclude(console, options, (lockstep, leash), out)
    return 0


def _require_packages(options: DemoOptions) -> None:
    for package in NEEDED:
        if not is_installed(package):
            raise UsageError(f"the demo needs {package}, which is not installed: "
                             f"{install_command(package)}")  # fmt: skip
    if options.picture is not None:
        if not is_installed("matplotlib"):
            raise UsageError(f"--picture {options.picture}: needs matplotlib, which is not "
                             f"installed: {install_command('matplotlib')}")  # fmt: skip
        make_folder("--picture", Path(options.picture).parent)


def _make_out(given: str | None) -> Path:
    out = Path(given) if given is not None else free_folder("demo")
    make_folder("--out", out)
    if any(out.iterdir()):
        raise UsageError(f"--out {out}: something is there already; take another folder")
    return out


def _conclude(console: Console, options: DemoOptions, sides: Sequence[Side], out: Path) -> None:
    lockstep, leash = (read_side(side.run_dir) for side in sides)
    console.print()
    for line in (waited(lockstep, leash), verdict(lockstep, leash)):
        print_line(console, line, "bold")
    told = {"both runs": str(out), "in detail": shlex.join(
        ["leash", "report", *(str(side.run_dir) for side in sides)]
    )}  # fmt: skip
    if is_installed("matplotlib"):
        from leash.ps.demo.picture import draw_sides

        picture = Path(options.picture) if options.picture is not None else out / "demo.svg"
        draw_sides(machines_of(options), lockstep, leash, picture)
        told = {"picture": str(picture), **told}
    else:
        told["no picture"] = f"matplotlib is not installed: {install_command('matplotlib')}"
    console.print()
    for name, words in told.items():
        print_line(console, f"{name:{NAME_WIDTH}}{words}")
