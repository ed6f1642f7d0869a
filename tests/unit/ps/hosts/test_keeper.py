"""A worker on a host: followers come and go, and it ends with its run."""

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from leash.ps.hosts.frames import FOLLOWER_MODULE, KILLED, Request, WorkerStart
from leash.ps.hosts.keeper import ABSENT_S, CLOSED_S, RunWatch
from leash.ps.processes import module_argv

WAITS = "import os, sys; open(sys.argv[1]).read(); print('done', os.environ['LEASH_KEY'])"


# Whether a run is over.


def test_a_run_whose_launcher_is_heard_is_not_over_whatever_the_server_does() -> None:
    watch = RunWatch(600.0, 0.0)
    for now in range(0, 10_000, 10):
        watch.hear(now)
        watch.see(now, is_open=False, refuses=True)
        assert not watch.must_look(now)
        assert not watch.is_over(now)


def test_a_run_is_over_once_nobody_listens_for_a_while() -> None:
    watch = RunWatch(600.0, 0.0)
    assert watch.must_look(ABSENT_S)
    watch.see(ABSENT_S, is_open=False, refuses=True)
    watch.see(ABSENT_S + 9, is_open=True, refuses=False)  # it was started again
    watch.see(ABSENT_S + 10, is_open=False, refuses=True)
    assert not watch.is_over(ABSENT_S + 10 + CLOSED_S - 1)
    assert watch.is_over(ABSENT_S + 10 + CLOSED_S)


def test_an_outage_is_borne_for_as_long_as_the_worker_is_patient() -> None:
    watch = RunWatch(600.0, 0.0)
    watch.see(100.0, is_open=True, refuses=False)
    watch.see(200.0, is_open=False, refuses=False)
    assert not watch.is_over(699.0)
    assert watch.is_over(700.0)


# A keeper and its followers, as processes.


class Followed:
    """A follower, with what it has told."""

    def __init__(self, request: Request) -> None:
        self.process = subprocess.Popen(
            module_argv(FOLLOWER_MODULE), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.told = b""
        self.tell(request.to_line())

    def tell(self, line: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line)
        self.process.stdin.flush()

    def read_until(self, words: bytes) -> None:
        assert self.process.stdout is not None
        while words not in self.told:
            data = os.read(self.process.stdout.fileno(), 4096)
            assert data, self.told
            self.told += data

    def close(self) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        status = self.process.wait(20)
        self.process.stdout.close()
        return status


@pytest.fixture
def name() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="leash-test-") as folder:
        os.rmdir(folder)
        yield os.path.basename(folder)
        os.makedirs(folder, exist_ok=True)


def start_of(tmp_path: Path, program: str, *words: str) -> WorkerStart:
    (tmp_path / "p.py").write_text(program)
    return WorkerStart(
        words=["p.py", *words], is_script=True, directory=str(tmp_path), threads=1, variables={},
        server="tcp://127.0.0.1:1", patience_s=600.0, grace_s=1.0, key="the key",
    )  # fmt: skip


def test_a_worker_outlives_its_follower_and_the_next_goes_on_in_its_log(
    tmp_path: Path, name: str
) -> None:
    os.mkfifo(tmp_path / "fifo")
    start = start_of(tmp_path, f"print('begun', flush=True)\n{WAITS}", str(tmp_path / "fifo"))
    folder = Path(tempfile.gettempdir(), name)
    first = Followed(Request(name, 0, start))
    first.read_until(b"begun")
    assert (folder / "key").read_text() == "the key"
    assert ((folder / "key").stat().st_mode & 0o777, folder.stat().st_mode & 0o777) == (
        0o600, 0o700
    )  # fmt: skip
    assert first.close() == 1
    (tmp_path / "fifo").write_text("go on")
    second = Followed(Request(name, len("begun\n"), start))  # it starts no second one
    second.read_until(b"end 0\n")
    assert b"begun" not in second.told
    assert f"done {folder / 'key'}".encode() in second.told
    assert sorted(os.listdir(folder)) == ["log", "socket", "status"]
    second.tell(b"done\n")
    assert second.close() == 0
    assert not folder.exists()


def test_a_signal_that_comes_twice_is_taken_once(tmp_path: Path, name: str) -> None:
    program = """
import os, signal, sys
seen = []
signal.signal(signal.SIGTERM, lambda *_: seen.append(1))
signal.signal(signal.SIGINT, lambda *_: (print(len(seen)), sys.exit(7)))
print("ready", flush=True)
while True:
    signal.pause()
"""
    follower = Followed(Request(name, 0, start_of(tmp_path, program)))
    follower.read_until(b"ready")
    follower.tell(b"1 15\n1 15\n\n")
    # By the log of the worker's own, so that the second is not sent before the first is taken.
    follower.tell(b"1 15\n")
    time.sleep(0)
    follower.tell(b"2 2\n")
    follower.read_until(b"end 7\n")
    assert b"ready" in follower.told
    follower.tell(b"done\n")
    follower.close()


def test_a_worker_whose_keeper_was_killed_and_one_that_is_unknown_were_killed(name: str) -> None:
    follower = Followed(Request(name, 0, None))
    follower.read_until(b"end %d\n" % KILLED)
    follower.tell(b"done\n")
    assert follower.close() == 0


def test_a_worker_that_cannot_start_says_why(tmp_path: Path, name: str) -> None:
    start = start_of(tmp_path / "gone", "") if (tmp_path / "gone").mkdir() is None else None
    assert start is not None
    (tmp_path / "gone" / "p.py").unlink()
    (tmp_path / "gone").rmdir()
    follower = Followed(Request(name, 0, start))
    follower.read_until(b"end 1\n")
    assert b"No such file or directory" in follower.told
    follower.tell(b"done\n")
    follower.close()
