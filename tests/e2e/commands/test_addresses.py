"""Every command finds a server by IPv4, by IPv6 and by name, and a wrong address is told apart."""

import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import zmq

from leash import Client, StoppingError
from leash.ps.runs.rundir import RunDir
from leash.ps.server.coordinator import ALL_DONE
from leash.ps.wire.frames import decode_as, encode
from leash.ps.wire.layout import Layout, Slot
from leash.ps.wire.messages import Hello, Welcome
from support.processes import LEASH, Child, pusher, server_process
from support.servers import serving

LAYOUT = Layout([Slot("weights", "f32", (4,))])


def told(cwd: Path, *words: str) -> tuple[int, str, str]:
    """The status of a command, its output, and what it wrote to stderr."""
    ended = subprocess.run(
        [*LEASH, *words], cwd=cwd, capture_output=True, text=True, timeout=60, check=False
    )
    return ended.returncode, ended.stdout, ended.stderr


def refusal(cwd: Path, *words: str) -> str:
    """The one line with which this command line is refused."""
    status, out, err = told(cwd, *words)
    assert status == 2, out + err
    (line,) = err.splitlines()
    return line


@contextmanager
def plain_server(cwd: Path, *options: str) -> Iterator[tuple[Child, str]]:
    """`leash server` as people start it, without a descriptor; gives its port, too."""
    command = [*LEASH, "server", *options]
    with Child(command, cwd=cwd) as server:
        server.read_until("waiting for worker")
        (line,) = [line for line in server.lines if "listening at" in line]
        yield server, line.split(",")[0].rpartition(":")[2]


@pytest.mark.parametrize(
    ("bind", "reached"),
    [
        ("tcp://[::1]:0", ["[::1]"]),
        ("tcp://localhost:0", ["localhost"]),
        ("tcp://0.0.0.0:0", ["127.0.0.1", "localhost"]),
        ("tcp://[::]:0", ["[::1]", "127.0.0.1"]),
    ],
)
def test_a_server_of_two_shards_is_reached_by_address_and_by_name(
    tmp_path: Path, bind: str, reached: list[str]
) -> None:
    options = (
        f"--bind={bind}", "--insecure", "--shards=2", "--workers=2", "--policy=ssp", "--lr=0.1",
    )  # fmt: skip
    with server_process(tmp_path / "run", *options) as (server, address):
        port = address.rpartition(":")[2]
        first, last = (f"tcp://{host}:{port}" for host in (reached[0], reached[-1]))
        status, out, err = told(tmp_path, "status", f"--server={first}", "--json")
        assert (status, err) == (0, "")
        assert len(json.loads(out)["data_ports"]) == 2
        assert told(tmp_path, "set", f"--server={last}", "--policy=asp")[::2] == (0, "")
        with pusher(first, 1, steps=3) as one, pusher(last, 2, steps=3) as two:
            for worker in (one, two):
                assert worker.wait(60) == 0, "\n".join(worker.lines)
        assert server.wait(20) == 0


def test_leash_worker_and_doctor_speak_ipv6(tmp_path: Path) -> None:
    options = ("--bind=tcp://[::1]:0", "--shards=2", "--workers=1")
    with server_process(tmp_path / "run", *options) as (server, address):
        _, out, _ = told(tmp_path, "doctor", f"--server={address}")
        assert "GB/s each way" in out
        assert "ms to tcp://[::1]:" in out
        port = address.rpartition(":")[2]
        where = ("--ps-ip=::1", f"--ps-port={port}")
        task = ("--dataset=digits", "--len-train-data=64", "--transport=tcp")
        with Child([*LEASH, "worker", *where, *task]) as worker:
            assert worker.wait(60) == 0, "\n".join(worker.lines)
        assert server.wait(20) == 0


# Without an address of IPv4, not even for itself.
_IPV6_ALONE = 'ip link set lo up && ip address delete 127.0.0.1/8 dev lo && exec "$@"'
_NAMESPACE = ["unshare", "--map-root-user", "--net", "sh", "-c", _IPV6_ALONE, "-"]


def test_a_whole_run_is_launched_where_there_is_ipv6_alone(tmp_path: Path) -> None:
    """A server of two shards, its evaluator and two workers; over TCP, which is what is tested."""
    if subprocess.run([*_NAMESPACE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this system lets nobody make a network without IPv4")
    words = ("launch", "--workers=2", "--shards=2", "--dataset=digits", "--epochs=1",
             "--transport=tcp", "--run-dir=run")  # fmt: skip
    with Child([*_NAMESPACE, *LEASH, *words], cwd=tmp_path) as launched:
        assert launched.wait(100) == 0, "\n".join(launched.lines)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["ended"], summary["epochs"]) == ("done", 1)


def test_a_server_prints_the_line_that_starts_a_worker_and_the_one_that_goes_on(
    tmp_path: Path,
) -> None:
    """Both are typed as they stand; the second server begins with the first one's values."""
    options = ("--bind=tcp://127.0.0.1:0", "--run-dir=run", "--epochs=100000", "--dataset=digits")
    with plain_server(tmp_path, *options) as (server, _):
        assert "leash server: run directory run" in server.lines
        (line,) = [line for line in server.lines if "start a worker on this machine" in line]
        words = shlex.split(line.partition(" with: leash ")[2])
        with Child([*LEASH, *words], cwd=tmp_path) as worker:
            worker.read_until("epoch 2", 60)
            server.process.terminate()
            assert server.wait(10) == 143
            assert worker.wait(10) == 1
            assert worker.lines[-1].startswith("leash worker: the run is over: told to end by SIG")
    (end,) = [line for line in server.lines if "ended after" in line]
    assert re.search(r"ended after \d+ steps, in epoch \d+ of 100000: told to end by SIGTERM", end)
    again = shlex.split(server.lines[-1].removeprefix("leash server: to go on: leash "))
    assert again[-1] == "run/checkpoints/final.safetensors"
    words = (*again[1:], "--bind=tcp://127.0.0.1:0", "--run-dir=again")
    with plain_server(tmp_path, *words) as (_, port):
        where = f"--server=tcp://127.0.0.1:{port}"
        state = json.loads(told(tmp_path, "status", where, "--json")[1])
        assert state["planned_epochs"] == 100000
        assert state["initialized"]


def test_a_data_port_is_told_from_the_servers(tmp_path: Path) -> None:
    with server_process(tmp_path / "run", "--workers=1", "--shards=2") as (_, address):
        _, out, _ = told(tmp_path, "status", f"--server={address}", "--json")
        own, far = (f"tcp://127.0.0.1:{port}" for port in json.loads(out)["data_ports"])
        commands = (
            ["status", f"--server={own}"],
            ["set", f"--server={far}", "--policy=asp"],
            ["worker", f"--server={far}", "--dataset=digits"],
        )
        for words in commands:
            where = words[1].partition("=")[2]
            line = refusal(tmp_path, *words)
            assert f"leash {words[0]}: address {where}: this is a data port of the server" in line


def test_a_worker_that_joins_after_the_end_is_told_so() -> None:
    """The run is done, and its server stays until an observer has left."""
    with serving(workers=1, observers=1) as running:
        observer = Client(running.address, LAYOUT)
        worker = Client(running.address, LAYOUT, rank=1)
        worker.begin(worker.slabs[0])
        worker.close()
        with pytest.raises(StoppingError, match=ALL_DONE):
            Client(running.address, LAYOUT, rank=1)
        observer.close()
        assert running.join() == 0


def test_a_worker_that_joins_while_the_results_are_written_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before, it heard nothing, and asked after 30 s whether this was a server of Leash."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    late = context.socket(zmq.DEALER)
    begin_summary = RunDir.begin_summary

    def write_as_it_joins(run_dir: RunDir, summary: dict[str, Any]) -> None:
        late.send_multipart([encode(Hello("worker", 1, "late")), LAYOUT.pack()])
        assert running.server._control.poll(10_000)
        return begin_summary(run_dir, summary)

    monkeypatch.setattr(RunDir, "begin_summary", write_as_it_joins)
    with serving(run_dir=RunDir(tmp_path / "run"), workers=1) as running:
        late.connect(running.address)
        worker = Client(running.address, LAYOUT, rank=1)
        worker.begin(worker.slabs[0])
        worker.close()
        assert late.poll(10_000)
        with pytest.raises(StoppingError, match=ALL_DONE):
            decode_as(Welcome, late.recv_multipart()[0])
        assert running.join() == 0
    context.destroy(linger=0)
