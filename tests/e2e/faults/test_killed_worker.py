"""A worker killed with SIGKILL stops nobody, whenever it happens; a replacement takes its place."""

import json
import random
import time
from pathlib import Path

import pytest

from e2e.outages.rows import require_told
from leash.ps.runs.audit import audit_run
from support.processes import pusher, server_process

STEPS = 120
STEP_S = 0.02
GOES_ON_WITHIN_S = 6.0  # of the killed worker's eviction after 5 s


@pytest.mark.parametrize(("policy", "shards"), [("bsp", 1), ("ssp", 2)])
def test_the_others_go_on_within_six_seconds_and_finish(
    tmp_path: Path, policy: str, shards: int
) -> None:
    kill_after_s = random.Random(f"{policy}{shards}").uniform(0.0, 1.0)
    run = tmp_path / "run"
    options = (
        f"--policy={policy}", "--workers=3", "--lr=0.001", f"--shards={shards}", "--rejoin-s=1"
    )  # fmt: skip
    with (
        server_process(run, *options) as (server, address),
        pusher(address, 1, steps=STEPS, step_s=STEP_S) as first,
        pusher(address, 2, steps=STEPS, step_s=STEP_S) as second,
        pusher(address, 3, steps=10 * STEPS, step_s=STEP_S) as victim,
    ):
        victim.read_until("step 1 ")
        time.sleep(kill_after_s)  # a moment of no meaning, not something waited for
        victim.kill()
        killed_s = time.monotonic()
        victim.wait()
        last = victim_step(victim.lines)
        # Whoever waited for the victim goes on: both get beyond what the bound had allowed them.
        for survivor in (first, second):
            survivor.read_until(f"step {min(last + 6, STEPS)} ", GOES_ON_WITHIN_S)
        assert time.monotonic() - killed_s < GOES_ON_WITHIN_S
        assert first.wait() == second.wait() == 0
        assert server.wait() == 1
    summary = json.loads((run / "summary.json").read_text())
    assert summary["ended"] == "incomplete"
    assert [(u["worker"], u["state"]) for u in summary["unfinished"]] == [(3, "evicted")]
    assert any("incomplete: not trained: worker 3 (evicted)" in line for line in server.lines)
    require_told("a worker is killed", server=server.lines)
    assert summary["evictions"] == 1
    assert summary["steps_by_worker"]["1"] == summary["steps_by_worker"]["2"] == STEPS
    assert audit_run(run) == []


@pytest.mark.parametrize("policy", ["bsp", "ssp"])
def test_a_restarted_worker_takes_part_again_at_once(tmp_path: Path, policy: str) -> None:
    run = tmp_path / "run"
    with (
        server_process(run, f"--policy={policy}", "--workers=2", "--lr=0.001") as (server, address),
        pusher(address, 1, steps=STEPS, step_s=STEP_S) as survivor,
        pusher(address, 2, steps=STEPS, step_s=STEP_S) as victim,
    ):
        victim.read_until("step 20 ")
        victim.kill()
        with pusher(address, 2, steps=20, step_s=STEP_S) as replacement:
            first_step = int(replacement.read_until("joined at").rsplit(" ", 1)[1])
            assert first_step >= 15  # where the run is, not at the beginning
            assert replacement.wait() == 0
        assert survivor.wait() == 0
        assert server.wait() == 0
    summary = json.loads((run / "summary.json").read_text())
    assert summary["evictions"] == 0  # the replacement came before the silence was noticed
    assert summary["steps_by_worker"]["1"] == STEPS
    assert audit_run(run) == []


def victim_step(lines: list[str]) -> int:
    """The last step that it printed."""
    return max(int(line.split()[1]) for line in lines if line.startswith("step"))
