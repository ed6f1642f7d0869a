"""Finds the server and the rank of a worker whose script does not name them.

::

    given to PSOptimizer ─▸ LEASH_SERVER, LEASH_RANK ─▸ RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT
                            set by `leash launch`       set by torchrun

torchrun starts no server, so the process of RANK 0 does, on a free port, and tells the others
through torch's store. That server is a child of RANK 0's process and ends with it at the latest;
RANK 0 waits at its exit for the workers that have not finished.
"""

import atexit
import itertools
import json
import os
import shlex
import sys
from dataclasses import replace
from types import TracebackType
from typing import Any, Final, Literal

from leash._log import Say
from leash.ps.cli import parse
from leash.ps.errors import LeashError, ServerUnreachableError, StoppingError, UsageError
from leash.ps.interrupt import held
from leash.ps.options.addresses import AUTO_RANK, split_address
from leash.ps.options.base import to_argv
from leash.ps.options.optimizer import with_rates
from leash.ps.options.server import ServerOptions
from leash.ps.processes import RANK_VARIABLE, SERVER_VARIABLE, ServerProcess, stop_all
from leash.ps.runs.rundir import RunDir
from leash.ps.wire.control import ControlChannel, request_state
from leash.ps.wire.keys import admin_key
from leash.ps.words import is_good_end

SERVER_OPTIONS_VARIABLE: Final = "LEASH_SERVER_OPTIONS"
OF_TORCHRUN: Final = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
LOOPBACK: Final = "127.0.0.1"
SERVER_GRACE_S: Final = 3.5
HOW_TO_JOIN: Final = (
    "PSOptimizer: give {}; or start the script by `leash launch --workers N SCRIPT` or by "
    "torchrun, and leave both out"
)
UNEVEN_GROUPS: Final = (
    "group=: its {} processes, of which this is RANK {} of {}, are not one of several equal parts "
    "of torchrun's: give server= and rank="
)

# Each PSOptimizer of a process that finds its server by torchrun has one of its own: all processes
# make them in the same order.
_numbers: Final = itertools.count(1)
# torch's store may be served by this process, and then others read it as long as they join.
_stores: Final[list[Any]] = []


def find_server_and_rank(
    server: str | None, rank: int | Literal["auto"] | None, say: Say, processes: int = 1
) -> tuple[str, int | Literal["auto"]]:
    """Finds what is not given: in the environment, or by starting a server under torchrun.

    Args:
        server: the server's address, if the script names it.
        rank: this worker's number, or "auto", if the script names it.
        say: shows a line: where the server is that this process starts.
        processes: of which a worker is made; this is the first of them.

    Raises:
        UsageError: neither the script nor the environment says it; or a variable is wrong.
        LeashError: the server that RANK 0 was to start did not come up.
    """
    if rank is None:
        rank = _rank_of_environment()
    told = os.environ.get(SERVER_VARIABLE)
    if told is not None and sys.excepthook is sys.__excepthook__:
        sys.excepthook = _say_the_end
    if server is not None and told is not None and server != told:
        say(f"server={server}: leash launch has started one at {told}; leave server= and rank= out "
            "to take part in its run")  # fmt: skip
    server = told if server is None else server
    by_torchrun = all(name in os.environ for name in OF_TORCHRUN)
    if by_torchrun and (rank is None or server is None):
        own, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        if own % processes or world % processes:
            raise UsageError(UNEVEN_GROUPS.format(processes, own, world))
        if rank is None:
            rank = 1 + own // processes
        if server is None:
            server = _server_by_torchrun(say, workers=world // processes)
    if server is None or rank is None:
        missing = [
            *(["server=, the server's address"] if server is None else []),
            *(["rank=, this worker's number from 1"] if rank is None else []),
        ]
        raise UsageError(HOW_TO_JOIN.format(" and ".join(missing)))
    return server, rank


def _say_the_end(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Ends a script of a launch with a line, and no traceback, where it leaves a good end uncaught.

    The launch knows such an end by the last line.
    """
    if isinstance(error, StoppingError) and is_good_end(str(error)):
        sys.stderr.write(f"the run has ended before this script: {kind.__name__}: {error}\n")
    else:
        sys.__excepthook__(kind, error, trace)


def _rank_of_environment() -> int | Literal["auto"] | None:
    text = os.environ.get(RANK_VARIABLE)
    if text is None:
        return None
    if text == AUTO_RANK:
        return AUTO_RANK
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"{RANK_VARIABLE}={text}: expected a worker's number, from 1, or auto")
    return int(text)


def _server_by_torchrun(say: Say, *, workers: int) -> str:
    """The address of the server that the process of RANK 0 starts."""
    from torch.distributed.rendezvous import rendezvous  # it takes a while to import

    store, rank, _ = next(iter(rendezvous("env://")))
    _stores.append(store)
    key = f"leash/server/{next(_numbers)}"
    if rank == 0:
        try:
            told = {"address": _start_server(workers, say)}
        except LeashError as error:
            store.set(key, json.dumps({"error": str(error)}))
            raise
        store.set(key, json.dumps(told))
    told = json.loads(store.get(key))
    if "error" in told:
        raise LeashError(f"RANK 0 could not start the server: {told['error']}")
    return str(told["address"])


class OwnServer:
    """A server that this process has started, and that ends with the run or with this process."""

    def __init__(self, options: ServerOptions, say: Say) -> None:
        """Starts it; `await_address` waits for it.

        Args:
            options: its own.
            say: shows a line: the results, once they are there.

        Raises:
            UsageError: its run directory cannot be, or it has keys and no file of an admin's.
        """
        self.run_dir: Final = RunDir.at(options.run_dir, options.rule.policy.name)
        self.run_dir.write_config(with_rates(options))
        self.run_dir.logs.mkdir(exist_ok=True)
        words = to_argv(replace(options, run_dir=str(self.run_dir.path)))
        self._say: Final = say
        self._address = ""
        self._key: Final = None if options.keys is None else admin_key(options.keys)
        with held():
            self._server: Final = ServerProcess(words, self.run_dir.logs / "server.log")
            atexit.register(self.see_out)

    def await_address(self) -> str:
        """Waits until it listens; returns where a process of this host finds it.

        Raises:
            UsageError, LeashError: it has ended instead.
        """
        self._address = self._server.await_address()
        return self._address

    def see_out(self) -> None:
        """Waits for the end of the run, which others may go on with; ends one that cannot go on."""
        has_failed = getattr(sys, "last_value", None) is not None
        if self._address and not has_failed and self._has_begun():
            self._server.process.wait()
        stop_all([self._server.process], SERVER_GRACE_S)
        summary = self.run_dir.read_summary()
        if summary is not None and summary["steps"]:
            from leash.ps.commands.run_table import result_lines  # it takes a while to import

            for line in result_lines(summary):
                self._say(line)

    def _has_begun(self) -> bool:
        """Whether the run has begun, so that the server ends by itself when all workers leave."""
        try:
            with ControlChannel(self._address, key=self._key) as channel:
                return bool(request_state(channel)["started"])
        except ServerUnreachableError:
            return True  # it has ended, or is about to


def _start_server(workers: int, say: Say) -> str:
    """Starts the server of a run; returns the address for all of its workers."""
    world = os.environ["WORLD_SIZE"]
    is_local = os.environ.get("LOCAL_WORLD_SIZE", world) == world
    bind = LOOPBACK if is_local else "0.0.0.0"
    server = OwnServer(_server_options(f"--bind=tcp://{bind}:0", f"--workers={workers}"), say)
    address = server.await_address()
    if not is_local:
        address = f"tcp://{os.environ['MASTER_ADDR']}:{split_address(address)[1]}"
    say(f"started a server for {workers} workers at {address}; run directory {server.run_dir.path}")
    return address


def _server_options(*words: str) -> ServerOptions:
    """The server's options: these words, and those of the environment, which win."""
    given = shlex.split(os.environ.get(SERVER_OPTIONS_VARIABLE, ""))
    try:
        _, options = parse(["server", *words, *given])
        options.check()
    except UsageError as error:
        raise UsageError(f"{SERVER_OPTIONS_VARIABLE}: {error}") from None
    assert isinstance(options, ServerOptions)
    return options
