"""A server that was killed, and is started again with the same command line."""

import json
from pathlib import Path

import pytest

from leash.ps.runs.audit import audit_run
from support.processes import LEASH, Child, pusher, server_process

OPTIONS = ("--workers=1", "--policy=asp", "--lr=0.1", "--checkpoint-every=3u")


@pytest.mark.parametrize("shards", [1, 2])
def test_the_same_command_goes_on_with_the_run_and_fresh_begins_anew(
    tmp_path: Path, shards: int
) -> None:
    run_dir, options = tmp_path / "run", (*OPTIONS, f"--shards={shards}")
    with (
        server_process(run_dir, *options) as (server, address),
        pusher(address, 1, steps=10**6, step_s=0.05) as worker,
    ):
        worker.read_until("step 20 ")
        server.process.kill()
        server.wait()
    assert not (run_dir / "summary.json").exists()

    with server_process(run_dir, *options) as (server, address):
        server.read_until("server 2 of this run")
        assert any("goes on from" in line for line in server.lines)
        with pusher(address, 1, steps=3) as worker:
            assert worker.wait() == 0
        assert server.wait() == 0
    told = json.loads((run_dir / "summary.json").read_text())
    assert (told["ended"], told["generations"], told["steps"]) == ("done", 2, 3)
    assert (run_dir / "events-1.jsonl").exists()
    assert audit_run(run_dir) == []

    argv = [*LEASH, "server", "--bind=tcp://127.0.0.1:0", f"--run-dir={run_dir}", *options]
    with Child(argv) as refused:
        assert refused.wait() == 2
        assert "the run there is done; take another, or begin anew with --fresh" in str(
            refused.lines
        )

    with server_process(run_dir, *options, "--fresh") as (server, address):
        with pusher(address, 1, steps=2) as worker:
            assert worker.wait() == 0
        assert server.wait() == 0
    told = json.loads((run_dir / "summary.json").read_text())
    assert (told["generations"], told["steps"]) == (1, 2)
    before = json.loads((run_dir / "before-1" / "summary.json").read_text())
    assert before["generations"] == 2


def test_a_newest_checkpoint_that_is_damaged_is_passed_over(tmp_path: Path) -> None:
    run_dir, options = tmp_path / "run", ("--workers=1", "--policy=asp", "--lr=0.1")
    for server_is_killed in (True, False):
        with server_process(run_dir, *options, "--checkpoint-every=2u") as (server, address):
            if not server_is_killed:
                server.read_until("server 2 of this run")
                assert any("latest.safetensors: not a readable" in line for line in server.lines)
            with pusher(address, 1, steps=10**6 if server_is_killed else 2, step_s=0.05) as worker:
                worker.read_until("step 2 ")
                if server_is_killed:
                    worker.read_until("step 15 ")
                    server.process.kill()
                    server.wait()
        latest = run_dir / "checkpoints" / "latest.safetensors"
        if server_is_killed:
            content = bytearray(latest.read_bytes())
            content[-1] ^= 1
            latest.write_bytes(content)
