"""Runs one training in virtual time: what `leash launch` does, on simulated machines.

::

    options of a launch ─▸ a world: server, workers, evaluator ─▸ run directory
"""

import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

import torch
import yaml
from rich.console import Console

from leash._log import Say
from leash.ps.commands.live_screen import Screen, screen_for
from leash.ps.commands.printing import print_lines
from leash.ps.commands.run_table import result_lines
from leash.ps.datafiles.required import require_data
from leash.ps.experiments.machines import MachinesGroup, VirtualLaunch
from leash.ps.launch.process_options import (
    options_of_server,
    options_of_workers,
    planned_epochs,
)
from leash.ps.launch.result import audit_text
from leash.ps.options.base import common_options
from leash.ps.options.catalog import choose_task
from leash.ps.options.commands import EvaluateOptions
from leash.ps.options.launch import LaunchOptions
from leash.ps.options.optimizer import with_rates
from leash.ps.options.plan import turns
from leash.ps.runs.rundir import MACHINES_FILE, RunDir, write_atomically
from leash.ps.server.run_engine import TICK_S
from leash.ps.slowness.by_rank import parse_slow
from leash.worker.datasets import Dataset, load_dataset
from leash.worker.train.task import Task
from leash.worker.virtual.client import ADDRESS, Machine
from leash.worker.virtual.network import Network
from leash.worker.virtual.server import VirtualServer
from leash.worker.virtual.training import measured_seconds, observe, train
from leash.worker.virtual.world import BEGINS_S, World

SHOW_S: Final = 0.5  # real seconds between two looks at the table
# What a batch of a task takes here, as far as it was measured in this process: it is measured once.
_measured: Final[dict[tuple[object, ...], float]] = {}


def run(launch: VirtualLaunch) -> int:
    """Trains in virtual time; returns the exit status.

    Args:
        launch: what to train, how, and on which machines. If it does not say how long these
            compute, that is measured.

    Raises:
        UsageError: the options do not fit each other.
        LeashError: whatever ends the run before it is done.
    """
    launch.check()
    options = launch.options
    require_data(options)
    run_dir = RunDir.at(options.run_dir, options.rule.policy.name)
    run_dir.write_config(with_rates(options))
    write_machines(run_dir, launch.machines)
    return VirtualRun(options, launch.machines, run_dir, Console()).run()


def _unless_over(server: VirtualServer, happens: Callable[[], None]) -> None:
    """Has something happen, unless the run is over by then."""
    if not server.is_over:
        happens()


def write_machines(run_dir: RunDir, machines: MachinesGroup) -> None:
    """Notes the machines of a run in its directory."""
    text = yaml.safe_dump(machines.settings(), sort_keys=False)
    write_atomically(run_dir.path / MACHINES_FILE, text)


class VirtualRun:
    """One training in virtual time."""

    def __init__(
        self, options: LaunchOptions, machines: MachinesGroup, run_dir: RunDir, console: Console
    ) -> None:
        """Runs nothing yet.

        Args:
            options: what to train, and how.
            machines: on which machines.
            run_dir: where the run leaves its files.
            console: shows how it stands.
        """
        model, dataset = choose_task(options.model, options.dataset)
        assert model is not None
        assert dataset is not None
        self._options: Final = replace(options, model=model, dataset=dataset)
        self._machines: Final = machines
        self._run_dir: Final = run_dir
        self._console: Final = console
        self._workers: Final = options_of_workers(self._options, ADDRESS)
        self._task: Final = Task(
            model, dataset, Path(options.data_dir) if options.data_dir is not None else None,
            planned_epochs(options) or 1, options.chosen_seed, tuple(range(1, options.workers + 1)),
        )  # fmt: skip

    def run(self) -> int:
        """Trains to the end; returns the exit status.

        Raises:
            LeashError: whatever ends the run before it is done.
        """
        began_s = time.monotonic()
        threads = torch.get_num_threads()
        dataset = self._load()
        try:
            with screen_for(self._console) as screen:
                machines = self._measured(dataset, screen)
                write_machines(self._run_dir, machines)
                server = self._train(dataset, machines, screen)
        finally:
            torch.set_num_threads(threads)
            dataset.close()
        self._print_result(time.monotonic() - began_s)
        return server.engine.status

    def _load(self) -> Dataset:
        options, task = self._options, self._task
        return load_dataset(
            task.dataset, data_dir=task.data_dir, download=options.download, seed=task.seed,
            limit=options.len_train_data, image_size=options.image_size,
            loader_workers=options.loader_workers,
        )  # fmt: skip

    def _measured(self, dataset: Dataset, screen: Screen) -> MachinesGroup:
        """Fills in what a batch takes."""
        if self._machines.compute is not None:
            return self._machines
        options, task = self._workers[0], self._task
        about = (
            task.model, task.dataset, options.batch_size, options.threads, options.dropout,
            options.image_size,
        )  # fmt: skip
        if about not in _measured:
            _measured[about] = float(f"{measured_seconds(options, task, dataset):.3g}")
        seconds = _measured[about]
        screen.say(f"a batch takes {seconds:g} s here: --compute={seconds:g} repeats this run")
        return replace(self._machines, compute=str(seconds))

    def _train(self, dataset: Dataset, machines: MachinesGroup, screen: Screen) -> VirtualServer:
        options, workers = self._options, self._options.most_started
        assert machines.compute is not None
        world = World()
        self._run_dir.logs.mkdir(exist_ok=True)
        latencies = parse_slow(machines.network, workers, "--network")
        network = Network(world, latencies, machines.bandwidth_gbit, self._task.seed)
        settings = with_rates(options_of_server(options, self._run_dir))
        # An experiment repeats a run that ends early, so that nobody is told how to go on with it.
        settings = replace(settings, observers=settings.observers + 1, ready_fd=0)
        with ExitStack() as logs:
            server = VirtualServer(
                world, settings, self._run_dir, machines.server_us / 1e6,
                self._log("server", world, logs),
            )  # fmt: skip
            logs.callback(server.close)
            computes = parse_slow(machines.compute, workers, "--compute")
            programs: dict[int, tuple[Machine, Callable[[], None]]] = {}
            for rank, (own, compute) in enumerate(zip(self._workers, computes, strict=True), 1):
                machine = Machine(world, network, server, rank)
                say = self._log(f"worker-{rank}", world, logs)
                body = partial(train, machine, own, compute, dataset, say)
                programs[rank] = machine, body
                if rank <= options.workers:
                    machine.start(body)
            for turn in turns(options.workers, options.changes):
                machine, program = programs[turn.rank]
                begins = partial(machine.start, program)
                happens = partial(_unless_over, server, begins)
                if not turn.joins:
                    happens = partial(_unless_over, server, machine.tell_to_leave)
                world.at(BEGINS_S + turn.at_s, happens)
            observer = Machine(world, network, server, 0)
            evaluation = common_options(options, EvaluateOptions, run_dir=None, threads=1)
            observer.start(partial(observe, observer, evaluation, dataset))
            self._show_now_and_then(world, server, screen)
            world.run()
        return server

    def _log(self, name: str, world: World, logs: ExitStack) -> Say:
        """Makes what writes a machine's lines to its log, each with the virtual time."""
        file = logs.enter_context((self._run_dir.logs / f"{name}.log").open("w", encoding="utf-8"))
        return lambda text: print(f"{world.now_s:10.3f} s  {text}", file=file)

    def _show_now_and_then(self, world: World, server: VirtualServer, screen: Screen) -> None:
        """Shows how the run stands, from now on, about twice in a real second."""
        shown_s = 0.0

        def look() -> None:
            nonlocal shown_s
            if time.monotonic() - shown_s >= SHOW_S:
                shown_s = time.monotonic()
                screen.show(server.engine.coordinator.state())
            if not server.is_over:
                world.at(world.now_s + TICK_S, look)

        look()

    def _print_result(self, real_s: float) -> None:
        summary = json.loads(self._run_dir.summary.read_text("utf-8"))
        lines = result_lines(summary, planned_epochs(self._options))
        if self._options.step_events == 1:
            had_bound = self._options.rule.bound is not None
            lines.append(f"re-checked      {audit_text(self._run_dir, had_bound=had_bound)}")
        lines += [f"real time       {real_s:.1f} s", f"run directory   {self._run_dir.path}"]
        print_lines(self._console, lines)
