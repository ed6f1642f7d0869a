"""`leash set` on a run that goes on: who waits is let go, and the events tell of it."""

import json
import subprocess
from pathlib import Path

import pytest

from leash.ps import cli
from leash.ps.runs.audit import audit_run
from support.processes import LEASH, pusher, server_process

STEPS = 60
CHANGES = {
    "--policy=bsp": {"policy": "bsp", "bound": 0},
    "--policy=backup --backup-workers=2": {"policy": "backup", "backup_workers": 2},
    "--policy=dssp --bound=1 --bound-max=6": {"policy": "dssp", "bound_max": 6},
    "--policy=drop --max-staleness=1": {"policy": "drop", "staleness_limit": 1},
    "--policy=ssp --bound=2 --bound-unit=versions": {"bound_unit": "versions"},
    "--policy=drop --staleness=2": {"policy": "drop", "staleness_limit": 2},
    "--bound=5": {"policy": "ssp", "bound": 5, "bound_unit": "clocks"},
}


def leash_set(address: str, *options: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*LEASH, "set", f"--server={address}", *options],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("shards", [1, 2])
def test_a_run_goes_on_under_one_policy_after_the_other(tmp_path: Path, shards: int) -> None:
    run = tmp_path / "run"
    options = ("--policy=asp", "--workers=3", "--lr=0.001", f"--shards={shards}")
    with (
        server_process(run, *options) as (server, address),
        pusher(address, 1, steps=STEPS, step_s=0.02) as first,
        pusher(address, 2, steps=STEPS, step_s=0.02) as second,
        pusher(address, 3, steps=STEPS // 2, hold=1) as slow,
    ):
        first.read_until("step 1 ")
        *changes, last = CHANGES
        for change in changes:
            assert cli.run(["set", f"--server={address}", *change.split()]) == 0
        done = leash_set(address, last)
        assert (done.returncode, done.stdout) == (0, "the run goes by ssp(5) now\n")
        server.read_until("from now on ssp(5)")
        slow.tell("go")
        for worker in (first, second, slow):
            assert worker.wait(60) == 0
        assert server.wait() == 0
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["policy"], summary["bound"]) == ("ssp", 5)
    assert summary["steps_by_worker"] == {"1": STEPS, "2": STEPS, "3": STEPS // 2}
    assert summary["duplicate_pushes"] == summary["refused_messages"] == 0
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    changed = [event for event in events if event["event"] == "policy_changed"]
    assert len(changed) == len(CHANGES)
    for event, expected in zip(changed, CHANGES.values(), strict=True):
        assert expected.items() <= event.items()
    assert audit_run(run) == []


def test_what_the_run_cannot_have_is_one_line_and_changes_nothing(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with (
        server_process(run, "--policy=bsp", "--workers=2", "--lr=0.001") as (server, address),
        pusher(address, 1, steps=3) as first,
        pusher(address, 2, steps=3, hold=1) as second,
    ):
        refused = leash_set(address, "--policy=backup", "--backup-workers=2")
        assert (refused.returncode, refused.stdout) == (2, "")
        assert "--backup-workers 2: of 2 workers at least one must" in refused.stderr
        assert refused.stderr.count("\n") == 1
        second.tell("go")
        assert first.wait() == second.wait() == server.wait() == 0
    assert json.loads((run / "summary.json").read_text())["policy"] == "bsp"


def test_nobody_at_the_address_is_one_line() -> None:
    done = leash_set("tcp://127.0.0.1:1", "--policy=asp", "--wait-s=0.2")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "no server answers at tcp://127.0.0.1:1" in done.stderr
