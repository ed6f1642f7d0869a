"""A worker on another host, as a launcher has it: its process there, its log here."""

import math
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from select import select
from subprocess import PIPE, TimeoutExpired
from typing import IO, Final

from leash.ps.hosts.frames import (
    DONE_WORD,
    END_WORD,
    FOLLOWER,
    KILLED,
    MAX_LINE_NBYTES,
    MAX_OUT_NBYTES,
    OUT_WORD,
    PRESENT_S,
    READ_NBYTES,
    Request,
    WorkerStart,
)
from leash.ps.hosts.ssh import NOT_CONNECTED, Outcome, ssh_argv

FOLLOW_AGAIN_S: Final = (0.5, 1.0, 2.0, 4.0, 8.0)  # before each further try; then the last
START_TRIES: Final = 3
# Once the run is over, or this worker was to be killed, one whose host does not answer is given up.
GIVE_UP_S: Final = 15.0
UNREACHABLE_S: Final = 15.0
KILL_S: Final = 3.0
CLOSE_S: Final = 1.0  # an ssh may take so long to end
LAST_WORD_S: Final = 5.0  # and so long to tell the host that all has come, which it waits for
GIVE_UP_LOOK_S: Final = 0.2
NO_FOLLOWER: Final = "it says what no follower says"
FAILED_STATUS: Final = 1


class LostSsh(Exception):  # noqa: N818  # it is none: the worker goes on
    """The connection to a host has ended before the worker has."""


class RemoteWorker:
    """Starts a worker over ssh and follows it, over a new connection whenever one is lost.

    It looks like a `subprocess.Popen`. Its status is that of the process on the host; KILLED, if
    the host has lost it.

    Attributes:
        returncode: the status; None until it is known.
        stdin: always None.
    """

    def __init__(
        self, who: str, host: str, command: str, folder: str, start: WorkerStart, log: Path,
        say: Callable[[str], None],
    ) -> None:  # fmt: skip
        """Begins to start it, and waits for nothing.

        Args:
            who: for people: "worker 2".
            host: as ssh takes it.
            command: that runs a follower there.
            folder: the name of a folder that is to be made there, which nobody can guess.
            start: what to start.
            log: where to put what it prints.
            say: shows a line. It is called in another thread.
        """
        self.returncode: int | None = None
        self.stdin: IO[bytes] | None = None
        self._who: Final = f"{who} on {host}"
        self._argv: Final = ssh_argv(host, command)
        self._folder: Final = folder
        self._start: WorkerStart | None = start  # None once it has
        self._log: Final = log.open("wb", buffering=0)
        self._say: Final = say
        self._taken = 0  # bytes of its log
        self._lock: Final = threading.Lock()  # of what is below, but for the events
        self._signals: list[int] = []
        self._ssh: subprocess.Popen[bytes] | None = None  # the newest
        self._is_followed = False
        self._lost_s: float | None = None  # since when it is not, though it was
        self._over_s: float | None = None  # since when the run is over
        self._killed_s: float | None = None
        self._tries = 0  # to follow, since nobody does
        self._ended: Final = threading.Event()
        self._hurry: Final = threading.Event()
        threading.Thread(target=self._keep_following, daemon=True).start()

    # As a Popen.

    def poll(self) -> int | None:
        """Its status, if it has ended or was given up."""
        if self.returncode is None and self._is_given_up(time.monotonic()):
            self._say(f"{self._who}: its host does not answer, and it is left to itself: it ends "
                      "when it hears that the run is over")  # fmt: skip
            self._end(KILLED)
            with self._lock:
                if self._ssh is not None:
                    self._ssh.kill()
        return self.returncode

    def _is_given_up(self, now: float) -> bool:
        with self._lock:
            if self._killed_s is not None:
                return now - self._killed_s >= KILL_S
            if self._over_s is None or self._lost_s is None:
                return False
            return now - self._lost_s >= GIVE_UP_S and now - self._over_s >= KILL_S

    def wait(self, timeout: float | None = None) -> int:
        """Waits for its end; raises TimeoutExpired."""
        until_s = math.inf if timeout is None else time.monotonic() + timeout
        while (status := self.poll()) is None:
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                raise TimeoutExpired(self._argv, timeout or 0.0)
            self._ended.wait(min(GIVE_UP_LOOK_S, left_s))  # it may be given up meanwhile
        return status

    def send_signal(self, number: int) -> None:
        """Sends a signal to the process on the host, now or when its host answers again."""
        if self.poll() is not None:
            return
        with self._lock:
            self._signals.append(number)
            self._tell(f"{len(self._signals)} {number}")
        self._hurry.set()

    def terminate(self) -> None:
        """Sends it SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Sends it SIGKILL; it is given up soon if its host says nothing of its end."""
        self.send_signal(signal.SIGKILL)
        with self._lock:
            self._killed_s = self._killed_s or time.monotonic()

    @property
    def is_unreachable(self) -> bool:
        """Whether nobody has been able to follow it for a while, though somebody did before."""
        with self._lock:
            lost_s = self._lost_s
        return lost_s is not None and time.monotonic() - lost_s >= UNREACHABLE_S

    def expect_end(self) -> None:
        """Hears that the run is over: one that nobody follows is not waited for for long."""
        with self._lock:
            self._over_s = self._over_s or time.monotonic()
        self._hurry.set()

    # In a thread of its own.

    def _keep_following(self) -> None:
        with self._log:
            while self.returncode is None:
                try:
                    self._end(self._follow_over(self._connected()))
                except LostSsh as error:  # noqa: PERF203
                    self._note_loss(str(error))
                    self._hurry.wait(FOLLOW_AGAIN_S[min(self._tries, len(FOLLOW_AGAIN_S)) - 1])
                    self._hurry.clear()

    def _note_loss(self, why: str) -> None:
        if self.returncode is not None:
            return
        self._tries += 1
        if self._start is not None:
            if self._tries == START_TRIES:
                self._log.write(f"leash launch: does not start: {why}\n".encode())
                self._end(FAILED_STATUS)
            return
        with self._lock:
            was_followed, self._is_followed = self._is_followed, False
            self._lost_s = self._lost_s or time.monotonic()
        if was_followed:
            self._say(f"{self._who}: ssh is lost ({why}); the worker goes on by itself if its host "
                      "does; trying again")  # fmt: skip

    def _connected(self) -> "subprocess.Popen[bytes]":
        ssh = subprocess.Popen(
            self._argv, stdin=PIPE, stdout=PIPE, stderr=PIPE, start_new_session=True
        )
        with self._lock:
            self._ssh = ssh
        return ssh

    def _follow_over(self, ssh: "subprocess.Popen[bytes]") -> int:
        """Follows it to its end; returns its status. Raises LostSsh with the reason."""
        complaints: list[bytes] = []
        assert ssh.stderr is not None
        hearing = threading.Thread(target=_hear, args=(ssh.stderr, complaints), daemon=True)
        hearing.start()
        try:
            status = self._follow(ssh)
            _close(ssh, LAST_WORD_S)
            return status
        except LostSsh as error:
            _close(ssh)
            hearing.join(CLOSE_S)
            words = b"".join(complaints).decode(errors="replace")
            is_told = str(error) and ssh.returncode != NOT_CONNECTED
            why = str(error) if is_told else Outcome(ssh.returncode, "", words).last_words
            raise LostSsh(why) from None
        finally:
            _close(ssh)

    def _follow(self, ssh: "subprocess.Popen[bytes]") -> int:
        assert ssh.stdin is not None
        assert ssh.stdout is not None
        reader = _Reader(ssh.stdout, self._say_present)
        with suppress(BrokenPipeError):
            ssh.stdin.write(Request(self._folder, self._taken, self._start).to_line())
            ssh.stdin.flush()
        while reader.line() != FOLLOWER:  # what a login has printed
            continue
        self._note_following()
        while True:
            word, _, value = reader.line().partition(b" ")
            number = _number(value)
            if word == OUT_WORD and 0 <= number <= MAX_OUT_NBYTES:
                self._log.write(reader.exactly(number))
                self._taken += number
            elif word == END_WORD:
                with self._lock:
                    self._tell(DONE_WORD.decode())
                return number
            else:
                raise LostSsh(NO_FOLLOWER)

    def _note_following(self) -> None:
        with self._lock:
            was_lost, self._lost_s, self._is_followed = self._lost_s, None, True
            # Those that it has had it does not take again.
            for number, wanted in enumerate(self._signals, start=1):
                self._tell(f"{number} {wanted}")
        self._start, self._tries = None, 0
        if was_lost is not None:
            self._say(f"{self._who}: ssh is back")

    def _say_present(self) -> None:
        with self._lock:
            self._tell("")

    def _tell(self, line: str) -> None:
        """Tells the follower, if there is one. REQUIRES: the lock."""
        if self._is_followed and self._ssh is not None and self._ssh.stdin is not None:
            with suppress(OSError, ValueError):  # it is about to be noticed that it has gone
                self._ssh.stdin.write(line.encode() + b"\n")
                self._ssh.stdin.flush()

    def _end(self, status: int) -> None:
        with self._lock:
            if self.returncode is None:
                self.returncode = status
        self._ended.set()
        self._hurry.set()


class _Reader:
    """Reads lines and bytes of a pipe, and does something now and then while nothing comes."""

    def __init__(self, pipe: IO[bytes], meanwhile: Callable[[], None]) -> None:
        self._fd: Final = pipe.fileno()
        self._meanwhile: Final = meanwhile
        self._told_s = time.monotonic()
        self._data = bytearray()

    def line(self) -> bytes:
        while (end := self._data.find(b"\n")) < 0:
            if len(self._data) > MAX_LINE_NBYTES:
                raise LostSsh("a line without an end")
            self._fill()
        return self._taken(end + 1)

    def exactly(self, nbytes: int) -> bytes:
        while len(self._data) < nbytes:
            self._fill()
        return self._taken(nbytes)

    def _taken(self, nbytes: int) -> bytes:
        data = bytes(self._data[:nbytes])
        del self._data[:nbytes]
        return data

    def _fill(self) -> None:
        while True:
            ready, _, _ = select([self._fd], [], [], PRESENT_S)
            if time.monotonic() - self._told_s >= PRESENT_S:
                self._told_s = time.monotonic()
                self._meanwhile()
            if ready:
                break
        if not (data := os.read(self._fd, READ_NBYTES)):
            raise LostSsh
        self._data += data


def _number(text: bytes) -> int:
    try:
        return int(text)
    except ValueError:
        raise LostSsh(NO_FOLLOWER) from None


def _close(ssh: "subprocess.Popen[bytes]", within_s: float = CLOSE_S) -> None:
    """Ends an ssh, whose host may not answer any more, once it has sent what it was given."""
    if ssh.stdin is not None:
        with suppress(OSError):
            ssh.stdin.close()
    try:
        ssh.wait(within_s)
    except TimeoutExpired:
        ssh.kill()
        ssh.wait()
    if ssh.stdout is not None:
        ssh.stdout.close()


def _hear(pipe: IO[bytes], complaints: list[bytes]) -> None:
    with pipe:
        complaints.extend(pipe)
