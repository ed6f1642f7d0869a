"""`leash launch --slurm`: each task of a job step is a worker, and the first has the server too.

::

    srun leash launch --slurm …   on each node
      task 0   the server, rank 1    writes RUN/slurm-JOB.STEP-RESTART.json, once it listens
      task N   rank N + 1            reads it, as soon as it is there

The run directory is on a file system that all nodes share. A job that is queued again has the same
one, and goes on there.
"""

import json
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from leash.ps.errors import LeashError, ServerUnreachableError, UsageError
from leash.ps.interrupt import held
from leash.ps.launch.script import is_told_of_a_good_end
from leash.ps.launch.starter import LocalStarter, WorkerProcess
from leash.ps.launch.workers import LaunchedWorkers
from leash.ps.options.addresses import split_address
from leash.ps.options.launch import LaunchOptions
from leash.ps.options.plan import SLURM_TASKS
from leash.ps.processes import error_of, lasting_address
from leash.ps.wire.control import ControlChannel, request_state
from leash.ps.wire.hosts import EVERY_IPV4, own_hosts
from leash.ps.wire.keys import key_for, worker_files
from leash.ps.wire.messages import Dismiss, Dismissed

SERVER_START_S: Final = 300.0  # the first task may take so long to have its server listen
FILE_LOOK_AGAIN_S: Final = 0.5  # a shared file system tells of no change
REACH_S: Final = 60.0
TASK_ANSWER_S: Final = 2.0  # from one address
STOP_S: Final = 3.5  # from SIGTERM to SIGKILL


@dataclass(frozen=True, slots=True)
class SlurmTask:
    """This process's place in its job."""

    rank: int  # of its worker, from 1
    tasks: int
    job: str
    begin: str  # a name for this beginning of the job: it may be queued again

    @classmethod
    def of_environment(cls, environ: Mapping[str, str]) -> "SlurmTask":
        """Reads what srun sets. Raises UsageError where it has not started this process."""
        tasks = next((environ[name] for name in SLURM_TASKS if name in environ), "")
        process, job = environ.get("SLURM_PROCID", ""), environ.get("SLURM_JOB_ID", "")
        if not (process.isdecimal() and tasks.isdecimal() and job):
            raise UsageError("--slurm: this is no task of Slurm; start it by srun, as "
                             "examples/slurm.sbatch does, or leave the option out")  # fmt: skip
        step, restart = environ.get("SLURM_STEP_ID", "0"), environ.get("SLURM_RESTART_COUNT", "0")
        return cls(int(process) + 1, int(tasks), job, f"{job}.{step}-{restart}")

    @property
    def run_dir(self) -> str:
        """Where the job's run leaves its files, unless an option says so."""
        return f"runs/slurm-{self.job}"

    def announcement(self, run_dir: Path) -> Path:
        """The file in which the first task tells the others of its server."""
        return run_dir / f"slurm-{self.begin}.json"


def bind_on_this_node(options: LaunchOptions) -> str:
    """Where the first task's server listens: at every address of its node."""
    port = options.port or split_address(lasting_address(1 + options.shards))[1]
    return f"tcp://{EVERY_IPV4[1]}:{port}"


class FirstTaskStarter(LocalStarter):
    """Starts the first task's own worker, once it has told the others of the server."""

    def __init__(
        self, options: LaunchOptions, keys: Sequence[str], task: SlurmTask, run_dir: Path
    ) -> None:
        """Starts none yet.

        Args:
            options: of the launch.
            keys: the files of the workers' keys, by rank.
            task: the first.
            run_dir: of the run.
        """
        super().__init__(options, keys, ranks=[1])
        self._own_address: Final = options.address
        self._announcement: Final = task.announcement(run_dir)

    def start(self, rank: int, address: str, log: Path) -> WorkerProcess:
        """As `Starter.start`."""
        own = [self._own_address] if self._own_address else own_hosts(ipv6=False)
        # The loopback is for tasks of this node; with its key no other server is taken for it.
        told = Announcement([*own, socket.gethostname(), "127.0.0.1"], split_address(address)[1])
        written = self._announcement.with_suffix(".new")
        written.write_text(json.dumps(asdict(told)))
        written.rename(self._announcement)
        return super().start(rank, address, log)


def run_other_task(
    options: LaunchOptions, keys: str, task: SlurmTask, run_dir: Path, say: Callable[[str], None]
) -> int:
    """Runs the worker of a task that is not the first; returns the exit status.

    Args:
        options: of the launch.
        keys: the folder of the keys, which the first task makes.
        task: this one.
        run_dir: of the run.
        say: shows a line.

    Raises:
        UsageError: the first task has told of no server, or it cannot be reached.
        LeashError: the worker has failed.
    """
    told = _await_announcement(task.announcement(run_dir), say)
    files = worker_files(keys, options.most_started)
    key = files[task.rank - 1]
    address = _reachable(told, key)
    workers = LaunchedWorkers(
        options, run_dir / "logs", LocalStarter(options, files, ranks=[task.rank]), say
    )
    say(f"worker {task.rank} on {socket.gethostname()}: its server is at {address}")
    try:
        workers.start(address)
        while workers.any_running:
            workers.relay()
            workers.wait_a_moment()
    finally:
        with held():
            if workers.any_running:
                _tell_to_leave(task.rank, address, key)
                workers.await_ends(options.grace_s)
            workers.stop(STOP_S)
        workers.relay()
    failures = workers.failures(has_begun=True, even_if_killed=False)
    failures = [f for f in failures if not is_told_of_a_good_end(f.words)]
    if failures:
        raise error_of(failures, run_dir / "logs")
    return workers.status_of(task.rank)


@dataclass(frozen=True, slots=True)
class Announcement:
    """What the first task tells the others."""

    hosts: list[str]  # at which its server may be found
    port: int


def _await_announcement(path: Path, say: Callable[[str], None]) -> Announcement:
    deadline_s = time.monotonic() + SERVER_START_S
    has_said = False
    while not path.exists():
        if time.monotonic() > deadline_s:
            raise UsageError(f"--slurm: the first task has not told of its server in {path} "
                             f"within {SERVER_START_S:.0f} s; see what it has printed, and give a "
                             "--run-dir that all nodes share")  # fmt: skip
        if not has_said:
            say("waiting for the server of the first task")
            has_said = True
        time.sleep(FILE_LOOK_AGAIN_S)
    return Announcement(**json.loads(path.read_text()))


def _reachable(told: Announcement, key: str) -> str:
    """The address at which the server answers this node."""
    deadline_s = time.monotonic() + REACH_S
    while True:
        for host in told.hosts:
            address = f"tcp://{host}:{told.port}"
            with (
                suppress(ServerUnreachableError),
                ControlChannel(address, key=key_for(key)) as channel,
            ):
                request_state(channel, TASK_ANSWER_S)
                return address
        if time.monotonic() > deadline_s:
            raise UsageError(f"--slurm: no way from {socket.gethostname()} to the server of the "
                             f"first task, at port {told.port} of {', '.join(told.hosts)}; open "
                             "it and the next ones, or give --address and --port")  # fmt: skip


def _tell_to_leave(rank: int, address: str, key: str) -> None:
    """Has the server tell the worker, who takes no harm if Slurm has told it already."""
    with suppress(LeashError), ControlChannel(address, key=key_for(key)) as channel:
        channel.request(Dismiss(rank, ""), Dismissed, timeout_s=TASK_ANSWER_S)
