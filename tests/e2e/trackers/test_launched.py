"""A run with trackers, from the command line to their files."""

import csv
import json
from pathlib import Path

import psutil
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from support.processes import LEASH, Child, own_processes, still_running

LIMIT_S = 90.0
SCRIPT = """
import torch
from leash import PSOptimizer

model = torch.nn.Linear(4, 1)
with PSOptimizer(model.named_parameters()) as optimizer:
    for step in range(1, 41):
        inputs = torch.randn(8, 4)
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(model(inputs), inputs.sum(1, keepdim=True))
        loss.backward()
        optimizer.step(samples=8)
        if step % 10 == 0:
            optimizer.log({"own/loss": loss, "rank": optimizer.client.rank})
"""


def test_what_the_copies_of_a_script_log_comes_to_all_trackers(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(SCRIPT)
    before = {process.pid for process in own_processes()}
    argv = [*LEASH, "launch", "--workers=2", "--log=tensorboard,csv", "--run-dir=run", "train.py"]
    with Child(argv, cwd=tmp_path) as launch:
        assert launch.wait(LIMIT_S) == 0, launch.lines
    with (tmp_path / "run" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    ranks = [row for row in rows if row["name"] == "rank"]
    steps = {w: [int(row["step"]) for row in ranks if row["worker"] == w] for w in "12"}
    assert steps == {"1": [10, 20, 30, 40], "2": [10, 20, 30, 40]}
    board = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    for worker in (1, 2):
        assert [e.step for e in board.Scalars(f"own/loss/worker_{worker}")] == steps[str(worker)]
        assert board.Scalars(f"lag/worker_{worker}")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["ended"], summary["not_written"]) == ("done", {})
    left = [psutil.Process(p.pid) for p in own_processes() if p.pid not in before]
    assert still_running(left, 10.0) == []


def test_a_tracker_that_fails_all_the_time_is_in_the_summary_and_the_run_is_done(
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.csv").mkdir()  # so that it cannot be a file
    argv = [*LEASH, "launch", "--workers=1", "--dataset=digits", "--epochs=30", "--log=csv",
            f"--run-dir={run}", "--slow=0.005"]  # fmt: skip
    with Child(argv, cwd=tmp_path) as launch:
        launch.read_until("cannot write csv: Is a directory", LIMIT_S)
        assert launch.wait(LIMIT_S) == 0, launch.lines
    summary = json.loads((run / "summary.json").read_text())
    assert summary["ended"] == "done"
    assert summary["not_written"]["csv"]["why"] == "Is a directory"
    assert "WARNING: cannot write csv: Is a directory" in (run / "logs" / "server.log").read_text()
