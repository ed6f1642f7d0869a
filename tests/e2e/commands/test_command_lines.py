"""Command lines of the SSP demo that users come from, separate hosts, and people's own loops."""

import json
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from support.data import DATA, needs_mnist
from support.gpus import DEVICES
from support.processes import LEASH, Child, server_process

ROOT = Path(__file__).resolve().parents[3]


def free_port() -> int:
    """A port whose successor is free as well, for the data socket."""
    import socket

    while True:
        with socket.create_server(("127.0.0.1", 0)) as first:
            port: int = first.getsockname()[1]
            try:
                socket.create_server(("127.0.0.1", port + 1)).close()
            except OSError:
                continue
            return port


def read_lines(path: Path) -> list[str]:
    return path.read_text("utf-8").splitlines()


@needs_mnist
@pytest.mark.timeout(180)
def test_the_demos_command_lines_run_unchanged(tmp_path: Path) -> None:
    common = (
        "--ps-ip=127.0.0.1", f"--ps-port={free_port()}", f"--data-dir={DATA}", "--learners=1-2-3",
        "--model=MnistCNN", "--epochs=1", "--len-train-data=3000",
    )  # fmt: skip
    out = tmp_path / "out"
    with ExitStack() as stack:
        server = stack.enter_context(
            Child([sys.executable, "-m", "ps", *common, "--this-rank=0", "--stale-threshold=0"],
                  cwd=tmp_path)
        )  # fmt: skip
        workers = [
            stack.enter_context(
                Child([sys.executable, "-m", "worker", *common, f"--this-rank={rank}",
                       f"--save-path={out}", "--slow=0.002"], cwd=tmp_path)
            )
            for rank in (1, 2, 3)
        ]  # fmt: skip
        for child in (server, *workers):
            assert child.wait(120) == 0, "\n".join(child.lines)
    (run,) = (tmp_path / "runs").iterdir()
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["policy"], summary["bound"]) == ("bsp", 0)
    assert (summary["model"], summary["dataset"]) == ("mnist_cnn", "mnist")
    assert summary["samples"] == 3000
    (epoch,) = [line.split("\t") for line in read_lines(run / "trainlossMnistCNN.txt")]
    losses = [json.loads((out / f"worker-{rank}.json").read_text())["loss_by_epoch"][0]
              for rank in (1, 2, 3)]  # fmt: skip
    assert float(epoch[1]) == pytest.approx(sum(losses) / 3, rel=1e-6)
    assert 0 < float(epoch[3]) == float(epoch[4]) <= summary["train_seconds"]
    accuracy = f"{summary['test_accuracy']:.4%}"
    assert (epoch[0], epoch[2], epoch[5:]) == ("0", "0.0", ["0", accuracy])
    steps = [list(map(int, line.split("\t"))) for line in read_lines(run / "stalenessMnistCNN.txt")]
    assert len(steps) == summary["steps"]
    assert sum(samples for _, _, samples, _ in steps) == 3000
    assert {(epoch, staleness) for epoch, _, _, staleness in steps} == {(0, 0)}
    for rank in (1, 2, 3):
        left = json.loads((out / f"worker-{rank}.json").read_text())
        assert left["samples"] == 1000


def test_data_is_split_in_the_proportion_that_was_asked_for(tmp_path: Path) -> None:
    with ExitStack() as stack:
        _, address = stack.enter_context(
            server_process(tmp_path / "run", "--workers=2", "--stale-threshold=1000000")
        )
        workers = [
            stack.enter_context(
                Child([*LEASH, "worker", f"--server={address}", f"--rank={rank}",
                       "--dataset=digits", "--hetero-allocation=1.0-0.5", "--heterogeneity=0.5",
                       f"--save-path={tmp_path}"])
            )
            for rank in (1, 2)
        ]  # fmt: skip
        for worker in workers:
            assert worker.wait(60) == 0, "\n".join(worker.lines)
    samples = [
        json.loads((tmp_path / f"worker-{rank}.json").read_text())["samples"] for rank in (1, 2)
    ]
    assert samples == [958, 480]


def test_a_worker_may_start_before_its_server(tmp_path: Path) -> None:
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    with Child([*LEASH, "worker", f"--server={address}", "--dataset=digits"]) as worker:
        line = worker.read_until("waiting for a server")
        assert address in line
        with Child(
            [*LEASH, "server", f"--bind={address}", f"--run-dir={tmp_path / 'run'}"]
        ) as server:
            assert worker.wait(60) == 0, "\n".join(worker.lines)
            assert server.wait(30) == 0, "\n".join(server.lines)


@pytest.mark.parametrize("device", DEVICES)
def test_somebodys_own_loop_trains_in_three_lines(tmp_path: Path, device: str) -> None:
    script = ROOT / "examples" / "own_loop.py"
    with ExitStack() as stack:
        server, address = stack.enter_context(
            server_process(
                tmp_path / "run", "--workers=2", "--policy=ssp", "--lr=0.1", "--momentum=0.5"
            )
        )
        command = [sys.executable, str(script), f"--server={address}", f"--device={device}"]
        workers = [stack.enter_context(Child([*command, f"--rank={rank}"])) for rank in (1, 2)]
        for child in (*workers, server):
            assert child.wait(60) == 0, "\n".join(child.lines)
    losses = [float(line.split("loss ")[1].split(",")[0]) for line in workers[0].lines]
    assert len(losses) == 20
    assert losses[-1] < losses[0] / 2


def launch_own(tmp_path: Path, source: str, *options: str) -> dict[str, Any]:
    """Two workers on build() and data() of a module in the working directory; the run's summary."""
    (tmp_path / "my_module.py").write_text(source)
    command = [
        *LEASH, "launch", "--workers=2", "--model=my_module:build", "--dataset=my_module:data",
        "--epochs=20", f"--run-dir={tmp_path / 'run'}", *options,
    ]  # fmt: skip
    with Child(command, cwd=tmp_path) as child:
        assert child.wait(60) == 0, "\n".join(child.lines)
    summary: dict[str, Any] = json.loads((tmp_path / "run" / "summary.json").read_text())
    return summary


def test_somebodys_own_model_and_data_train_without_a_script(tmp_path: Path) -> None:
    source = (
        "import torch\n"
        "def build():\n"
        "    return torch.nn.Linear(4, 2)\n"
        "def data():\n"
        "    x = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))\n"
        "    y = (x.sum(1) > 0).long()\n"
        "    return (x[:150], y[:150]), (x[150:], y[150:])\n"
    )
    assert launch_own(tmp_path, source, "--lr=0.5")["test_accuracy"] > 0.9


def test_a_timeout_ends_a_run_cleanly(tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [
        *LEASH, "launch", "--workers=2", "--dataset=digits", "--epochs=100000", "--timeout=1.5",
        f"--run-dir={run}",
    ]  # fmt: skip
    with Child(command) as child:
        assert child.wait(60) == 0, "\n".join(child.lines)
    summary = json.loads((run / "summary.json").read_text())
    assert summary["ended"] == "timeout"
    assert 1.5 <= summary["train_seconds"] < 5
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    told = [e["event"] for e in events if e["event"] == "evaluated" or e.get("worker")]
    assert told[-1] == "evaluated"  # the parameters with which the training ended
    assert summary["test_accuracy"] is not None
    ((epochs, samples),) = [(u["epochs"], u["samples"]) for u in summary["unfinished"]]
    assert epochs.endswith("-100000")
    assert samples > 0


def test_a_workers_own_timeout_is_a_good_end_for_it_and_for_its_run(tmp_path: Path) -> None:
    """Even while it waits: the other worker of a bsp run takes far longer for a step."""
    with ExitStack() as stack:
        server, address = stack.enter_context(
            server_process(tmp_path / "run", "--workers=2", "--policy=bsp")
        )
        workers = [
            stack.enter_context(
                Child([*LEASH, "worker", f"--server={address}", f"--rank={rank}",
                       "--dataset=digits", "--epochs=1000", "--timeout=2", f"--slow={slow_s}"])
            )
            for rank, slow_s in ((1, 0), (2, 5))
        ]  # fmt: skip
        for child in (*workers, server):
            assert child.wait(60) == 0, "\n".join(child.lines)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["ended"] == "timeout"
    assert [left["state"] for left in summary["unfinished"]] == ["timeout"] * 2


def test_a_regression_has_a_loss_and_no_accuracy(tmp_path: Path) -> None:
    source = (
        "import torch\n"
        "def build():\n"
        "    return torch.nn.Linear(2, 1)\n"
        "def data():\n"
        "    x = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))\n"
        "    y = x @ torch.tensor([[2.0], [-1.0]])\n"
        "    return (x[:150], y[:150]), (x[150:], y[150:])\n"
    )
    summary = launch_own(tmp_path, source, "--lr=0.1")
    assert summary["test_accuracy"] is None
    assert summary["test_loss"] < 0.01
