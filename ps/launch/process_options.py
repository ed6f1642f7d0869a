"""Makes the options of the processes that a launch starts, from its own."""

from collections.abc import Sequence

from leash.ps.options.base import common_options
from leash.ps.options.launch import LaunchOptions, data_plan_of
from leash.ps.options.server import ServerOptions
from leash.ps.options.worker import WorkerOptions
from leash.ps.processes import FREE_PORT
from leash.ps.runs.rundir import RunDir


def planned_epochs(options: LaunchOptions) -> int | None:
    """How many epochs are planned; a script of one's own may not count any."""
    return options.epochs or (1 if options.script is None else None)


def options_of_server(
    options: LaunchOptions, run_dir: RunDir, bind: str = FREE_PORT
) -> ServerOptions:
    """Makes the options of the server that a launch starts.

    Args:
        options: of the launch.
        run_dir: where the run leaves its files.
        bind: where the server listens.
    """
    return common_options(
        options, ServerOptions, bind=bind, run_dir=str(run_dir.path), fresh=False,
        epochs=planned_epochs(options),
        threads=options.server_threads,  # a launch's `threads` are torch's
        data_plan=data_plan_of(options),
    )  # fmt: skip


def options_of_workers(
    options: LaunchOptions, address: str, keys: Sequence[str] = ()
) -> list[WorkerOptions]:
    """Makes the options of the workers that a launch starts, by rank.

    Args:
        options: of the launch.
        address: of the server.
        keys: the files of the workers' keys, by rank; none without keys.
    """
    by_worker = zip(options.slownesses, options.ratios, strict=True)
    return [
        common_options(
            options, WorkerOptions, server=address, rank=rank, slow=slowness.text,
            heterogeneity=str(ratio), timeout_s=None,  # the server ends the run in time
            key=keys[rank - 1] if keys else None,
        )
        for rank, (slowness, ratio) in enumerate(by_worker, start=1)
    ]  # fmt: skip
