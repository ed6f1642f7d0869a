"""What `leash launch` runs."""

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.text import Text

from leash.ps.commands.live_screen import Screen
from leash.ps.datafiles.required import require_data
from leash.ps.launch.host_starter import HostStarter, prepare_hosts
from leash.ps.launch.launch import Launch
from leash.ps.launch.script import words_for_script
from leash.ps.launch.slurm import (
    FirstTaskStarter,
    SlurmTask,
    bind_on_this_node,
    run_other_task,
)
from leash.ps.launch.starter import LocalStarter, Starter
from leash.ps.launch.telling import TellingScreen
from leash.ps.options.launch import LaunchOptions
from leash.ps.options.optimizer import with_rates
from leash.ps.report.writing import require_matplotlib, write_report
from leash.ps.runs.rundir import RunDir
from leash.ps.wire.keys import files_for_workers
from leash.ps.words import listed

KEYS_OF_A_RUN: Final = "keys"  # in its run directory, while it goes on


def run(
    options: LaunchOptions, *, is_one_of_many: bool = False, screen: Screen | None = None
) -> int:
    """Trains, and returns the exit status.

    Args:
        options: what to train, and how.
        is_one_of_many: an experiment repeats the run if it ends early, so nobody goes on with it.
        screen: shows how the run stands; then its caller tells the result, and not this.
    """
    task = SlurmTask.of_environment(os.environ) if options.slurm else None
    if task is not None:
        options = replace(options, run_dir=options.run_dir or task.run_dir)
    if options.report:
        require_matplotlib()
    # The server evaluates; the hosts look for what they train on themselves.
    require_data(options, ("train", "test") if options.hosts is None else ("test",))
    console = Console()

    def say(line: str) -> None:
        console.print(Text(line), soft_wrap=True)

    if task is not None and task.rank != 1:
        assert options.run_dir is not None
        folder = Path(options.run_dir)
        keys = options.keys or str(folder / KEYS_OF_A_RUN)
        return run_other_task(options, keys, task, folder, say)
    if words := words_for_script(options):
        say(f"{listed(words)} behind the script's name: for the script; options of leash launch "
            "stand before it")  # fmt: skip
    ready = None if options.hosts is None else prepare_hosts(options, say)
    keys_of_workers = _keys_of_workers(options)
    run_dir = RunDir.at(
        options.run_dir, options.rule.policy.name, goes_on=True, fresh=options.fresh
    )
    # The server works its rates out by the same function; config.yaml notes what they are.
    run_dir.write_config(with_rates(replace(options, state_fd=None)))
    run_dir.logs.mkdir(exist_ok=True)
    fd, shown = options.state_fd, screen
    if fd is not None and screen is None:
        shown = TellingScreen(console, fd, run_dir.path)
    with ExitStack() as stack:
        starter: Starter = LocalStarter(options, keys_of_workers)
        bind = None
        if ready is not None or task is not None:
            options = stack.enter_context(_with_keys(options, run_dir))
            keys_of_workers = _keys_of_workers(options)
        if ready is not None:
            starter, bind = HostStarter(options, ready, keys_of_workers), ready.bind
        elif task is not None:
            starter = FirstTaskStarter(options, keys_of_workers, task, run_dir.path)
            stack.callback(task.announcement(run_dir.path).unlink, missing_ok=True)
            bind = bind_on_this_node(options)
        status = Launch(
            options, run_dir, console, starter, is_one_of_many=is_one_of_many, bind=bind,
            screen=shown, tells_result=screen is None,
        ).run()  # fmt: skip
    if options.report:
        print(f"report          {write_report([run_dir.path], run_dir.path)}")
    return status


@contextmanager
def _with_keys(options: LaunchOptions, run_dir: RunDir) -> Iterator[LaunchOptions]:
    """The options with the user's own keys, or with some that are made for this run alone."""
    if options.keys is not None:
        yield options
        return
    folder = run_dir.path / KEYS_OF_A_RUN
    shutil.rmtree(folder, ignore_errors=True)  # of a launch that was killed
    try:
        keyed = replace(options, keys=str(folder))
        _keys_of_workers(keyed)
        yield keyed
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _keys_of_workers(options: LaunchOptions) -> list[str]:
    """The files of the workers' keys, by rank; none without keys."""
    if options.keys is None:
        return []
    return files_for_workers(options.keys, options.most_started, options.max_workers)
