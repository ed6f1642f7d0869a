"""`leash em`: fits alone, or starts a server and workers, or is one of the workers."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from threadpoolctl import threadpool_limits

from leash._log import logged
from leash.ps.errors import UsageError
from leash.ps.options.base import make_folder
from leash.ps.options.em import EmOptions
from leash.ps.runs.rundir import RunDir
from leash.ps.wire.control import ControlChannel, await_state
from leash.ps.wire.keys import key_for
from leash.ps.words import DONE, FAILED, LIVE, STOPPED
from leash.worker.client import Client
from leash.worker.client.control.waiting import Waiting
from leash.worker.em.classifier import MixtureClassifier, mixture_for
from leash.worker.em.crew import Crew
from leash.worker.em.distributed import WorkerSums, require_server, statistics_layout
from leash.worker.em.images import DIGITS, require_files
from leash.worker.em.online import fit_online
from leash.worker.em.study import RESULTS, Study

STANDING: Final = (LIVE, DONE)  # the states of workers that were not lost


_say: Final = logged(partial(print, flush=True), __name__)


def run(options: EmOptions) -> int:
    """Fits the mixtures, tells their accuracies and draws them; returns the exit status.

    Raises:
        UsageError: the options do not fit each other, the images or the server.
        LeashError: a component has collapsed, or the run has ended without this worker.
    """
    require_files(options.path)
    if options.workers is not None:
        return Crew(options, _run_dir(options).path).run()
    with threadpool_limits(options.threads):
        if options.server is not None:
            return _take_part(options, options.server)
        return _alone(options)


def _run_dir(options: EmOptions) -> RunDir:
    if options.run_dir is not None and Path(options.run_dir, RESULTS).exists():
        raise UsageError(f"--run-dir {options.run_dir}: a run has left its results there; take "
                         "another")  # fmt: skip
    run_dir = RunDir.at(options.run_dir, "em")
    run_dir.write_config(options)
    return run_dir


def _alone(options: EmOptions) -> int:
    study = Study(options, _run_dir(options).path, _say)
    for k in options.ks:
        study.fit(k, _fit_alone)
        study.evaluate(k)
    study.report()
    return 0


def _fit_alone(classifier: MixtureClassifier, on_iteration: Callable[[int], None]) -> None:
    classifier.fit(on_iteration=on_iteration)


def _take_part(options: EmOptions, address: str) -> int:
    """Runs one worker. All workers compute the same mixtures; one of them tells the results."""

    def say(text: str) -> None:
        _say(f"leash em, worker {options.rank}: {text}")

    waiting = Waiting(say)
    with ControlChannel(address, key=key_for(options.key)) as channel:
        state = await_state(
            channel, options.wait_s, lambda s: waiting.server(address, s, options.wait_s)
        )
    workers = state["workers"]
    out = Path(options.run_dir) if options.run_dir is not None else _run_dir(options).path
    make_folder("--run-dir", out)
    study = Study(options, out, _say)
    size = DIGITS * mixture_for(options, max(options.ks)).family(study.dimensions).size
    client = Client(
        address, statistics_layout(workers, size), rank=options.rank, say=say, key=options.key
    )
    reason = STOPPED
    try:
        require_server(client.settings, len(client.chunks), size, online=options.online)
        if options.online:
            _online(options, study, client, workers)
        else:
            _in_step(options, study, client, workers, waiting)
        reason = DONE
    except Exception:
        reason = FAILED
        raise
    finally:
        client.close(reason)
    return 0


def _in_step(
    options: EmOptions, study: Study, client: Client, workers: int, waiting: Waiting
) -> None:
    sums = WorkerSums(client, workers)
    client.begin(client.slabs[0], waiting.workers)
    for k in options.ks:
        study.fit(k, partial(_fit_with, sums))
        if sums.reports:
            study.evaluate(k)
    # Nobody leaves before one worker has told all results: if it dies meanwhile, another does.
    while not sums.agree(done=_reported(study, sums)):
        pass


def _fit_with(
    sums: WorkerSums, classifier: MixtureClassifier, on_iteration: Callable[[int], None]
) -> None:
    classifier.fit(sums, on_iteration)


def _reported(study: Study, sums: WorkerSums) -> bool:
    if sums.reports:
        study.report()
    return sums.reports


def _online(options: EmOptions, study: Study, client: Client, workers: int) -> None:
    (k,) = options.ks

    def fitting(classifier: MixtureClassifier, on_step: Callable[[int], None]) -> None:
        fit_online(
            classifier.fits, client, workers, passes=options.passes,
            batch_size=options.batch_size, seed=options.seed, on_step=on_step,
        )  # fmt: skip

    study.fit(k, fitting)
    standing = [row["worker"] for row in client.state()["table"] if row["state"] in STANDING]
    if client.rank == min(standing):
        study.report()
