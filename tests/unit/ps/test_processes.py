"""How a server that is being started tells where it listens, and how processes end."""

import io
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from leash.ps.errors import LeashError, UsageError
from leash.ps.options.addresses import split_address
from leash.ps.processes import (
    FREE_PORT,
    Failure,
    ReadyPipe,
    ServerProcess,
    are_free,
    error_of,
    failure_of,
    lasting_address,
    say_line,
    stop_all,
)
from leash.ps.wire.control import ControlChannel, request_state

TELLS = "import os, sys; os.write(int(sys.argv[1].partition('=')[2]), b'tcp://here:1')"


@pytest.mark.parametrize(("program", "address"), [(TELLS, "tcp://here:1"), ("", "")])
def test_the_pipe_brings_the_address_or_the_end_of_one_that_has_told_none(
    program: str, address: str
) -> None:
    with ReadyPipe() as ready:
        process = subprocess.Popen([sys.executable, "-c", program, *ready.words],
                                   pass_fds=ready.fds)  # fmt: skip
    assert ready.await_address() == address
    assert process.wait(30) == 0


def test_a_server_is_found_at_the_address_that_it_has_told(tmp_path: Path) -> None:
    words = [f"--bind={FREE_PORT}", f"--run-dir={tmp_path / 'run'}", "--workers=3"]
    server = ServerProcess(words, tmp_path / "server.log")
    try:
        with ControlChannel(server.await_address()) as channel:
            assert request_state(channel)["workers"] == 3
    finally:
        stop_all([server.process], 10.0)


def test_a_server_that_ends_instead_has_its_own_last_words(tmp_path: Path) -> None:
    server = ServerProcess(["--workers=0"], tmp_path / "server.log")
    with pytest.raises(UsageError, match=r"^--workers 0: give 1 or more$"):
        server.await_address()
    stop_all([server.process], 10.0)


def test_an_address_that_lasts_has_its_ports_in_a_row_and_no_connection_is_given_them() -> None:
    host, port = split_address(lasting_address(3))
    least = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert port + 3 <= max(least, 29_000)
    assert are_free(host, port, 3)
    with socket.create_server((host, port + 2)):
        assert are_free(host, port, 2)
        assert not are_free(host, port, 3)


def test_a_server_that_is_started_again_writes_on_in_its_log(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_text("of the first\n")
    server = ServerProcess(["--workers=0"], log, again=True)
    with pytest.raises(UsageError, match=r"^--workers 0: give 1 or more$"):
        server.await_address()
    stop_all([server.process], 10.0)
    assert log.read_text().startswith("of the first\nleash server: ")


@pytest.mark.parametrize("status", [-9, 130, 143])
def test_one_that_was_killed_needs_no_log(status: int, tmp_path: Path) -> None:
    log = tmp_path / "none.log"
    before = failure_of("worker 1", status, log, has_begun=False)
    assert before == Failure("worker 1", "killed before the run began", 1)
    assert failure_of("worker 1", status, log, has_begun=True).words == "killed"


def test_those_that_fail_alike_share_their_words_and_a_wrong_argument_goes_first() -> None:
    alike = [Failure("worker 1", "killed", 1), Failure("worker 2", "killed", 1)]
    other = Failure("server", "no memory", 1)
    error = error_of([*alike, other], Path("run/logs"))
    assert str(error) == "worker 1, worker 2: killed; server: no memory (see run/logs)"
    assert type(error) is LeashError
    nan = [Failure(f"worker {n}", f"step {7 + n} of worker {n}: a NaN", 1) for n in (1, 2, 3)]
    assert str(error_of([*nan, other], Path("logs"))) == (
        "worker 1: step 8 of worker 1: a NaN; likewise worker 2, worker 3; server: no memory "
        "(see logs)"
    )
    wrong = error_of([*alike, Failure("worker 3", "--lr x: expected a number", 2)], Path("logs"))
    assert (type(wrong), str(wrong)) == (UsageError, "--lr x: expected a number")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full device")
def test_a_log_on_a_full_disk_ends_no_process() -> None:
    program = "from leash.ps.processes import say_line\nfor n in range(9): say_line(f'line {n}')"
    with open("/dev/full", "wb") as full:
        ended = subprocess.run(
            [sys.executable, "-c", program], stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert (ended.returncode, ended.stderr) == (0, b"")
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert ended.stdout.decode().splitlines() == [f"line {n}" for n in range(9)]


def test_a_line_is_written_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then lines of several threads, such as a worker's and its control channel's, stay whole."""
    pieces: list[str] = []

    class Output(io.StringIO):
        def write(self, text: str) -> int:
            pieces.append(text)
            return len(text)

    monkeypatch.setattr(sys, "stdout", Output())
    say_line("waiting for the server")
    assert [piece for piece in pieces if piece] == ["waiting for the server\n"]
