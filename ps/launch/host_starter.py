"""Starts a launch's workers on other hosts: what `ps/hosts` does, for the options of a launch."""

import itertools
import os
import queue
import secrets
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

from leash.ps.errors import UsageError
from leash.ps.hosts.checks import Wanted, check_hosts
from leash.ps.hosts.copying import copied_directory, copy_to_hosts, runs_in
from leash.ps.hosts.frames import FOLLOWER_MODULE, WorkerStart
from leash.ps.hosts.places import portable, portable_words, shell_word
from leash.ps.hosts.remote_worker import RemoteWorker
from leash.ps.launch.process_options import options_of_workers
from leash.ps.launch.script import variables_of_copy
from leash.ps.launch.starter import WorkerProcess
from leash.ps.options.addresses import split_address
from leash.ps.options.base import flag, is_path, to_argv
from leash.ps.options.launch import LaunchOptions
from leash.ps.options.worker import WorkerOptions
from leash.ps.processes import PREEMPT_FILE_VARIABLE, module_argv
from leash.ps.runs.rundir import RUNS
from leash.ps.wire.hosts import EVERY_IPV4, EVERY_IPV6

FOLDER_TOKEN_NBYTES: Final = 8  # of the names of folders on hosts, which nobody can guess


@dataclass(frozen=True, slots=True)
class ReadyHosts:
    """Hosts that have all that a worker needs.

    Attributes:
        addresses: host ▸ the address of this machine at which it finds the server.
        port: at which the server is to listen, and at those behind it.
    """

    addresses: dict[str, str]
    port: int

    @property
    def bind(self) -> str:
        """Where the server listens, so that all of them reach it."""
        needs_ipv6 = any(address.startswith("[") for address in self.addresses.values())
        return f"tcp://{EVERY_IPV6 if needs_ipv6 else EVERY_IPV4[1]}:{self.port}"


def prepare_hosts(options: LaunchOptions, say: Callable[[str], None]) -> ReadyHosts:
    """Checks every host, and copies the code if that is asked for. Starts nothing.

    Args:
        options: of the launch; they have hosts.
        say: shows a line.

    Raises:
        UsageError: a host lacks something, which was shown; or the code could not be copied.
    """
    here, names = os.getcwd(), [host.name for host in options.places]
    copied = None if options.sync is None else copied_directory(options.sync, here)
    wanted = Wanted(
        python=_python(options), directory=portable(here), paths=_paths(options, copied),
        is_synced=copied is not None,
    )  # fmt: skip
    addresses, port = check_hosts(
        names, wanted, 1 + options.shards, first_port=options.port, address=options.address, say=say
    )
    if copied is not None:
        runs = [RUNS] if options.run_dir is None else [RUNS, options.run_dir]
        left_out = {*map(os.path.realpath, runs), *runs_in(copied)}
        copy_to_hosts(copied, names, sorted(left_out), say)
    return ReadyHosts(addresses, port)


def _python(options: LaunchOptions) -> str:
    return portable(options.python or sys.executable)


def _paths(options: LaunchOptions, copied: str | None) -> list[str]:
    """What has to be on a host before a worker is started."""
    if options.script is None:
        return []
    script = shlex.split(options.script)[0]
    if copied is not None and Path(script).resolve().is_relative_to(copied):
        if not Path(script).exists():
            raise UsageError(f"{script}: there is no such script to copy; give the path of one")
        return []
    return [portable(script)]


class HostStarter:
    """Starts workers over ssh, each with its key, and tells what becomes of their connections."""

    def __init__(self, options: LaunchOptions, ready: ReadyHosts, keys: Sequence[str]) -> None:
        """Starts none yet.

        Args:
            options: of the launch.
            ready: its hosts.
            keys: the files of the workers' keys, by rank.
        """
        self.ranks: Sequence[int] = range(1, options.workers + 1)
        self._options: Final = options
        self._ready: Final = ready
        self._keys: Final = keys
        self._hosts: Final = [host.name for host in options.places for _ in range(host.workers)]
        words = map(shlex.quote, module_argv(FOLLOWER_MODULE)[1:])
        self._command: Final = " ".join([shell_word(_python(options)), *words])
        self._token: Final = secrets.token_hex(FOLDER_TOKEN_NBYTES)
        self._numbers: Final = itertools.count(1)  # a rank that comes back has another folder
        self._workers: Final[dict[int, RemoteWorker]] = {}  # by rank
        self._news: Final[queue.SimpleQueue[str]] = queue.SimpleQueue()

    def start(self, rank: int, address: str, log: Path) -> WorkerProcess:
        """As `Starter.start`."""
        host = self._hosts[rank - 1]
        worker = RemoteWorker(
            f"worker {rank}", host, self._command,
            f"leash-{self._token}-{next(self._numbers)}",
            self._start_of(rank, self._address_at(host, address)), log, self._news.put,
        )  # fmt: skip
        self._workers[rank] = worker
        return worker

    def name_of(self, rank: int) -> str:
        """As `Starter.name_of`."""
        return f"worker {rank} on {self._hosts[rank - 1]}"

    def news(self) -> Iterator[str]:
        """As `Starter.news`."""
        while not self._news.empty():
            yield self._news.get()

    def is_unreachable(self, rank: int) -> bool:
        """As `Starter.is_unreachable`."""
        return self._workers[rank].is_unreachable

    def expect_ends(self) -> None:
        """As `Starter.expect_ends`."""
        for worker in self._workers.values():
            worker.expect_end()

    def how_to_join(self, address: str) -> str:
        """As `Starter.how_to_join`."""
        there = self._address_at(self._hosts[0], address)
        key = f"worker-{self._options.most_started + 1}.key"
        return (f"leash worker --server {there} --rank auto --key {key}, which is in "
                f"{self._options.keys}")  # fmt: skip

    def _address_at(self, host: str, address: str) -> str:
        """The server's address, as a host finds it."""
        return f"tcp://{self._ready.addresses[host]}:{split_address(address)[1]}"

    def _start_of(self, rank: int, address: str) -> WorkerStart:
        options = self._options
        is_script = options.script is not None
        variables = {}
        if options.script is not None:
            script, *others = shlex.split(options.script)
            words = [portable(script), *others]
            variables = variables_of_copy(options, rank, address)
            if options.preempt_file is not None:
                variables[PREEMPT_FILE_VARIABLE] = portable(options.preempt_file)
        else:
            own = options_of_workers(options, address)[rank - 1]
            paths = [flag(field.name) for field in fields(WorkerOptions) if is_path(field)]
            words = portable_words(to_argv(own), paths)
        return WorkerStart(
            words=words, is_script=is_script, directory=portable(os.getcwd()),
            threads=options.threads, variables=variables, server=address,
            patience_s=options.patience, grace_s=options.grace_s,
            key=Path(self._keys[rank - 1]).read_text("utf-8") if self._keys else None,
        )  # fmt: skip
