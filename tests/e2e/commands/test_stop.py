"""`leash stop`: whoever may ends a run, which leaves what a run leaves, and ends well."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from leash.ps.runs.checkpoint import check_checkpoint
from support.processes import LEASH, Child, pusher, server_process


def leash_stop(address: str, *options: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*LEASH, "stop", f"--server={address}", *options],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_an_admin_stops_a_launched_run_and_nobody_else_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LEASH_KEY", raising=False)
    run, keys = tmp_path / "run", tmp_path / "keys"
    words = ["launch", "--workers=2", "--dataset=digits", "--epochs=100000", "--policy=bsp",
             f"--keys={keys}", f"--run-dir={run}"]  # fmt: skip
    with Child([*LEASH, *words]) as launch:
        launch.read_until("test accuracy", 60)
        listening = re.search(r"tcp://\S+:\d+", (run / "logs" / "server.log").read_text())
        assert listening is not None
        address = listening[0]
        for name in ("observer", "worker-1"):
            refused = leash_stop(address, f"--key={keys / f'{name}.key'}")
            assert (refused.returncode, refused.stdout) == (2, "")
            assert refused.stderr.count("\n") == 1
            assert f"key {name} may not" in refused.stderr
        done = leash_stop(address, f"--key={keys / 'admin.key'}", "--reason=too dear")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("the run is ending")
        assert launch.wait(30) == 0, "\n".join(launch.lines)
        assert any("ended early     stopped: too dear, in epoch" in line for line in launch.lines)
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["ended"], summary["refused_messages"]) == ("stopped: too dear", 2)
    final = check_checkpoint(run / "checkpoints" / "final.safetensors")
    assert int(final["version"]) > 0
    for rank in (1, 2):
        log = (run / "logs" / f"worker-{rank}.log").read_text()
        assert log.rstrip().endswith(f"leash worker {rank}: stopped: too dear")


def test_without_keys_a_run_on_the_loopback_is_stopped_before_its_start_too(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with (
        server_process(run, "--workers=2") as (server, address),
        pusher(address, 1, steps=3) as waiting,
    ):
        server.read_until("waiting for")
        assert leash_stop(address).returncode == 0
        assert waiting.wait() == 1
        assert any("StoppingError: stopped" in line for line in waiting.lines)
        assert server.wait() == 0
    assert json.loads((run / "summary.json").read_text())["ended"] == "stopped"


def test_nobody_at_the_address_and_a_reason_too_long_are_one_line() -> None:
    nobody = leash_stop("tcp://127.0.0.1:1", "--wait-s=0.2")
    assert (nobody.returncode, nobody.stdout, nobody.stderr.count("\n")) == (2, "", 1)
    assert "no server answers at tcp://127.0.0.1:1" in nobody.stderr
    long = leash_stop("tcp://127.0.0.1:1", f"--reason={'x' * 501}")
    assert (long.returncode, long.stderr.count("\n")) == (2, 1)
    assert "--reason: takes at most 500 characters" in long.stderr
