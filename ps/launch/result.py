"""What a launch prints when all of its processes have ended."""

import json
import signal
from typing import Any, Final

from leash.ps.commands.run_table import result_lines
from leash.ps.interrupt import received
from leash.ps.launch.process_options import planned_epochs
from leash.ps.launch.script import words_for_script
from leash.ps.options.launch import LaunchOptions
from leash.ps.runs.audit import audit_run
from leash.ps.runs.rundir import RunDir
from leash.ps.words import DONE, listed, why_stopped

AUDIT_MAX_NBYTES: Final = 100 << 20  # to read more would take more than a few seconds


def audit_text(run_dir: RunDir, *, had_bound: bool) -> str:
    """Re-checks the bound and the order of steps from the run's events.

    Args:
        run_dir: of the run.
        had_bound: whether there was one to keep.
    """
    if run_dir.events.stat().st_size > AUDIT_MAX_NBYTES:
        return "no: events.jsonl is too long for now; leash.ps.runs.audit takes any length"
    try:
        violations = audit_run(run_dir.path)
    except json.JSONDecodeError as error:  # its end may be missing, where the power went
        return f"no: events.jsonl cannot be read to its end: {error}"
    except (OSError, ValueError) as error:
        return f"no: {error}"
    if violations:
        return f"{len(violations)} violations in events.jsonl, the first: {violations[0]}"
    if had_bound:
        return "from events.jsonl: the bound was kept, and every step taken once and in order"
    return "from events.jsonl: every step was taken once and in order"


def last_lines(
    options: LaunchOptions, run_dir: RunDir, summary: dict[str, Any] | None, *,
    tells_how_to_go_on: bool, has_diverged: bool = False,
) -> list[str]:  # fmt: skip
    """Says what has come of a run, and where its files are.

    Args:
        options: of the launch.
        run_dir: where the run has left its files.
        summary: of the run; None if it has none.
        tells_how_to_go_on: gives the command that does, if the run has ended early.
        has_diverged: its last values are nothing to go on from.
    """
    lines = result_lines(summary, planned_epochs(options)) if summary and summary["steps"] else []
    if lines and options.step_events == 1:
        bounds = (options.rule.bound, summary and summary.get("bound"))  # leash set changes it
        had_bound = any(bound is not None for bound in bounds)
        lines.append(f"re-checked      {audit_text(run_dir, had_bound=had_bound)}")
    number = received()
    if number and not lines:
        why = why_stopped(signal.Signals(number).name)
        lines.append(f"ended early     {why}, before the first step")
    has_trained = summary is None or summary["steps"] > 0
    is_done = summary is not None and summary["ended"] == DONE
    if has_diverged:
        lines.append("diverged        at a NaN or an infinity: begin anew, with a smaller --lr")
    elif has_trained and not is_done and tells_how_to_go_on:
        command = run_dir.continuing_command("launch")
        lines += [f"to go on        {command}"] if command else []
    if words := words_for_script(options):  # who has meant them otherwise has missed the first line
        lines.append(f"for the script  {listed(words)}, behind its name")
    return [*lines, f"run directory   {run_dir.path}"]
