import io
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from leash.ps.commands import doctor
from leash.ps.commands.doctor import (
    Finding,
    core_check,
    msgpack_check,
    show,
    torch_check,
    torchvision_check,
)
from leash.ps.commands.probe import Probe, encrypted_bytes_per_s
from leash.ps.commands.status import run as run_status
from leash.ps.errors import ServerUnreachableError, UsageError
from leash.ps.options.commands import DoctorOptions, StatusOptions
from leash.ps.options.server import ServerOptions
from leash.ps.server.loop import Server
from leash.ps.words import CORE_ANEW


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Where a real server, without workers, listens."""
    quiet = lambda _: None  # noqa: E731
    server = Server(ServerOptions(bind="tcp://127.0.0.1:0", chunk_kib=256), None, say=quiet)
    thread = threading.Thread(target=server.run)
    thread.start()
    yield server.address
    server.stop("the test is over", 0)
    thread.join()


@pytest.fixture
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a server's host; and PyTorch takes seconds."""
    installed = doctor._installed
    monkeypatch.setattr(doctor, "_installed", lambda name: name != "torch" and installed(name))


@pytest.mark.usefixtures("no_torch")
def test_a_sound_host_gets_status_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.run(DoctorOptions()) == 0
    out = capsys.readouterr().out
    for what in ("python", "leash", "core", "pyzmq", "curve", "msgpack", "numpy", "machine"):
        assert f"ok   {what}" in out
    assert "info torch       not installed: fine for a server's host" in out
    assert "fail" not in out


@pytest.mark.usefixtures("no_torch")
def test_a_server_that_answers_is_measured(
    address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert doctor.run(DoctorOptions(server=address)) == 0
    out = capsys.readouterr().out
    assert f"ok   server      answers at {address}: starting: waiting for worker 1" in out
    assert "ok   round trip" in out
    assert "messages of 256 KiB" in out  # no larger than the server's chunks


@pytest.mark.usefixtures("no_torch")
def test_a_server_that_does_not_answer_fails_with_its_mend(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "STATUS_TIMEOUT_S", 0.1)
    assert doctor.run(DoctorOptions(server="tcp://127.0.0.1:1")) == 1
    out = capsys.readouterr().out
    assert "fail server      no server answers at tcp://127.0.0.1:1" in out
    assert "▸ start one with leash server" in out


def test_a_core_that_does_not_import_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "leash.ps._core", None)
    check = core_check()
    assert (check.verdict, check.mend) == ("fail", CORE_ANEW)


@pytest.mark.parametrize(
    ("version", "verdict"), [("1.2.3", "ok"), ("1.10.0", "ok"), ("1.2.2", "warn"), ("1.1", "warn")]
)
def test_an_old_msgpack_is_warned_of(version: str, verdict: str) -> None:
    assert msgpack_check(version).verdict == verdict


@pytest.mark.parametrize(
    ("answers", "complaint", "verdict", "found"),
    [
        (['["2.1", "12.1", "H200"]'], "", "ok", "2.1, CUDA 12.1 on H200"),
        (['["2.1", null, null]'], "", "ok", "2.1, no GPU on this machine"),
        ([], "ImportError: libc10.so", "fail", "ImportError: libc10.so"),
        ([], doctor.LATE, "warn", "did not answer in time"),
    ],
)
def test_torch_is_as_it_says_itself(
    monkeypatch: pytest.MonkeyPatch, answers: list[str], complaint: str, verdict: str, found: str
) -> None:
    monkeypatch.setattr(doctor, "version", lambda _: "2.1")
    monkeypatch.setattr(doctor, "NVIDIA_DRIVER", Path("/nonexistent"))
    check = torch_check(answers, complaint)
    assert check.verdict == verdict
    assert found in check.found


def test_a_gpu_that_torch_cannot_use_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "NVIDIA_DRIVER", Path("/"))
    assert torch_check(['["2.1", null, null]'], "").mend.startswith("install a CUDA build")
    assert torch_check(['["2.1", "12.1", null]'], "").mend.startswith("update the NVIDIA driver")


def test_a_torchvision_that_does_not_import_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "version", lambda _: "0.28")
    check = torchvision_check(["[]"], "RuntimeError: operator does not exist")
    assert (check.verdict, check.found) == ("warn", "0.28, RuntimeError: operator does not exist")
    assert torchvision_check(["[]", '["0.28", false]'], "").verdict == "ok"
    check = torchvision_check(["[]", '["0.28", true]'], "")
    assert (check.verdict, "that imports it fails" in check.found) == ("warn", True)


def test_a_mend_stands_below_what_it_mends() -> None:
    out = io.StringIO()
    show(Finding("warn", "torch", "is old", "get a new one"), Console(file=out))
    assert out.getvalue().splitlines() == [
        "warn torch       is old", "                 ▸ get a new one"
    ]  # fmt: skip


def test_echoes_come_back_whole_and_fast_enough_to_count(address: str) -> None:
    state_port = _state(address)["data_ports"][0]
    with Probe(address, state_port, 256 * 1024) as probe:
        assert 0 < probe.round_trip_s() < 1
        assert probe.bytes_per_s(64 * 1024) > 1e6


def test_a_data_socket_behind_a_closed_port_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leash.ps.commands.probe.TIMEOUT_S", 0.1)
    with (
        Probe("tcp://127.0.0.1:29500", 1, 1024) as probe,
        pytest.raises(ServerUnreachableError, match=r"tcp://127\.0\.0\.1:1 does not answer: open"),
    ):
        probe.round_trip_s()


# leash status


def _state(address: str) -> dict[str, list[int]]:
    done = subprocess.run(
        [sys.executable, "-m", "leash.ps.cli", "status", "--server", address, "--json"],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    state: dict[str, list[int]] = json.loads(done.stdout)
    return state


def test_status_as_json_is_the_servers_state(address: str) -> None:
    state = _state(address)
    assert state["missing"] == [1]
    assert len(state["data_ports"]) == 1


def test_status_is_a_table(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_status(StatusOptions(server=address)) == 0
    assert "starting: waiting for worker 1" in capsys.readouterr().out


def test_status_of_no_server_is_a_wrong_argument() -> None:
    with pytest.raises(UsageError, match=r"no server answers at tcp://127\.0\.0\.1:1"):
        run_status(StatusOptions(server="tcp://127.0.0.1:1", wait_s=0.1))


def test_a_library_that_encrypts_slowly_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps = tmp_path / "maps"
    maps.write_text("7f00-7f01 r-xp /usr/lib/libzmq.so.5\n")
    monkeypatch.setattr(doctor, "encrypted_bytes_per_s", lambda: 6e7)
    found = doctor.curve_check(maps)
    assert (found.verdict, found.found) == ("warn", "0.06 GB/s with keys, by tweetnacl")
    assert "libsodium" in found.mend
    maps.write_text("7f00-7f01 r-xp /usr/lib/libsodium.so.26\n")
    assert doctor.curve_check(maps).verdict == "ok"  # slow, but only since the machine is busy
    monkeypatch.setattr(doctor, "encrypted_bytes_per_s", lambda: 9e8)
    maps.write_text("")
    assert doctor.curve_check(maps).found == "0.90 GB/s with keys, by libsodium"


def test_what_is_measured_really_goes_through_curve() -> None:
    assert 0 < encrypted_bytes_per_s(nbytes=1000, count=3) < 1e12
