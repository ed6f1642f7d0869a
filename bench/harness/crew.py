"""Runs the worker processes of a trial, which go through each round together.

Every worker of every system is a process of its own, also where there is only one, so that none
inherits what another has left in memory, in torch, or in a cache.
"""

import multiprocessing
import os
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from multiprocessing.connection import Connection
from threading import BrokenBarrierError
from typing import Any, Final, TypeAlias

from leash.bench.harness.trial import Exchange, Round, Trial, timed
from leash.ps.errors import LeashError

# Processes are spawned: after a fork, ZeroMQ contexts and torch's threads break in the child.
SPAWN: Final = multiprocessing.get_context("spawn")
START_S: Final = 120.0
TOGETHER_S: Final = 60.0  # a worker waits so long for the others to come to its round
END_S: Final = 10.0

Join: TypeAlias = Callable[[Trial, str, int], AbstractContextManager[Exchange]]


@contextmanager
def crew(trial: Trial, join: Join, address: str, *, ahead: int | None = None) -> Iterator[Round]:
    """Starts the workers of a trial, which join; gives the function that runs a round.

    Args:
        trial: what they measure.
        join: is called in each worker's process with trial, address and rank.
        address: where to join.
        ahead: by how many exchanges one worker may be ahead of another, so that all have to do as
            many of them; None: by any number.
    """
    barrier = SPAWN.Barrier(trial.workers)
    last = None if ahead is None else SPAWN.RawValue("q", 0)
    members = [
        _start(trial, join, address, rank + 1, barrier, last, ahead or 0)
        for rank in range(trial.workers)
    ]
    pipes = [pipe for _, pipe in members]

    def round_(seconds: float) -> list[list[float]]:
        for pipe in pipes:
            pipe.send(seconds)
        return [_receive(pipe, trial) for pipe in pipes]

    try:
        for pipe in pipes:
            _receive(pipe, trial)  # the worker says that it has joined
        yield round_
    finally:
        for pipe in pipes:
            pipe.close()
        for process, _ in members:
            end(process)


class CommonEnd:
    """Ends a round of several workers behind the same exchange, if none can leave others behind.

    Worker 1 notes the number of the last exchange before it enters its next one. Nobody can have
    left that last one by then, and when they have left it and look, they find its number: nobody
    has to wait for a word.
    """

    def __init__(self, last: Any, rank: int, ahead: int = 0) -> None:
        """Begins to count exchanges, over all rounds.

        Args:
            last: the number of a round's last exchange, in memory that all workers share.
            rank: of this worker.
            ahead: by how many exchanges a worker may be ahead of another.
        """
        self._last: Final = last
        self._leads: Final = rank == 1
        self._ahead: Final = ahead
        self._done = 0

    def __call__(self, is_over: bool) -> bool:
        """Says whether the round ends behind the exchange that has just been done."""
        self._done += 1
        if self._last.value == self._done:
            return True
        if self._leads and is_over and self._last.value < self._done:
            self._last.value = self._done + 1 + self._ahead
        return False


def _start(
    trial: Trial, join: Join, address: str, rank: int, barrier: Any, last: Any, ahead: int
) -> tuple[Any, Any]:
    here, there = SPAWN.Pipe()
    process = SPAWN.Process(
        target=work, args=(there, barrier, last, ahead, trial, join, address, rank), daemon=True
    )
    process.start()
    there.close()
    return process, here


def work(
    pipe: "Connection[Any, Any]", barrier: Any, last: Any, ahead: int, trial: Trial, join: Join,
    address: str, rank: int,
) -> None:  # fmt: skip
    """Runs rounds in a worker's process, until the pipe is closed."""
    be_quiet()
    more = () if last is None else (CommonEnd(last, rank, ahead),)
    with join(trial, address, rank) as exchange:
        pipe.send([])
        while True:
            try:
                seconds: float = pipe.recv()
                barrier.wait(TOGETHER_S)
            except (EOFError, BrokenBarrierError):
                return
            pipe.send(timed(exchange, seconds, *more))


def _receive(pipe: Any, trial: Trial) -> list[float]:
    try:
        if not pipe.poll(START_S):
            raise LeashError(f"{trial.system}: a worker has said nothing for {START_S:.0f} s")
        times: list[float] = pipe.recv()
    except EOFError:
        raise LeashError(f"{trial.system}: a worker has ended too early; see above") from None
    return times


@contextmanager
def server_process(serve: Callable[..., None], *args: Any) -> Iterator[str]:
    """Starts a process that serves; gives the address that it tells first.

    Args:
        serve: is called there with `args` and a function that tells the address.
    """
    here, there = SPAWN.Pipe()
    process = SPAWN.Process(target=_serve, args=(serve, args, there), daemon=True)
    process.start()
    there.close()
    try:
        yield here.recv()
    finally:
        here.close()
        process.terminate()  # it has nothing to clean up
        end(process)


def _serve(serve: Callable[..., None], args: tuple[Any, ...], pipe: Any) -> None:
    be_quiet()
    serve(*args, pipe.send)


def be_quiet() -> None:
    """Lets the process that started this one end it, without a complaint of torch."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    warnings.simplefilter("ignore")


def end(process: Any) -> None:
    process.join(END_S)
    if process.is_alive():
        process.kill()
        process.join()
