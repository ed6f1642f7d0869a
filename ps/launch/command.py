"""What `leash launch` runs."""

from dataclasses import replace

from rich.console import Console

from leash.ps.datafiles.required import require_data
from leash.ps.launch.launch import Launch
from leash.ps.launch.telling import TellingScreen
from leash.ps.options.commands import LaunchOptions
from leash.ps.options.optimizer import with_rates
from leash.ps.report.writing import require_matplotlib, write_report
from leash.ps.runs.rundir import RunDir
from leash.ps.wire.keys import files_for_workers


def run(options: LaunchOptions, *, is_one_of_many: bool = False) -> int:
    """Trains, and returns the exit status.

    Args:
        options: what to train, and how.
        is_one_of_many: an experiment repeats the run if it ends early, so nobody goes on with it.
    """
    if options.report:
        require_matplotlib()
    require_data(options)
    keys = _keys_of_workers(options)
    run_dir = RunDir.at(
        options.run_dir, options.rule.policy.name, goes_on=True, fresh=options.fresh
    )
    # The server works its rates out by the same function; config.yaml notes what they are.
    run_dir.write_config(with_rates(replace(options, state_fd=None)))
    run_dir.logs.mkdir(exist_ok=True)
    console = Console()
    fd = options.state_fd
    screen = None if fd is None else TellingScreen(console, fd, run_dir.path)
    launch = Launch(
        options, run_dir, console, is_one_of_many=is_one_of_many, keys=keys, screen=screen
    )
    status = launch.run()
    if options.report:
        print(f"report          {write_report([run_dir.path], run_dir.path)}")
    return status


def _keys_of_workers(options: LaunchOptions) -> list[str]:
    """The files of the workers' keys, by rank; none without keys."""
    if options.keys is None:
        return []
    return files_for_workers(options.keys, options.most_started, options.max_workers)
