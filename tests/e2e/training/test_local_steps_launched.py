"""`leash launch --local-steps`, as people run it, and the bytes that it saves."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
import zmq
from safetensors.numpy import load_file
from torch import nn

from leash.ps._core import StepEngine
from leash.ps.runs.audit import audit_run
from leash.ps.wire.frames import DATA, REPLIES, decode
from leash.ps.wire.messages import Params, PushPull
from leash.worker import PSOptimizer
from leash.worker.client import data_driver, exchange
from leash.worker.client.encoding import Encoding
from support.processes import LEASH, Child
from support.servers import serving


def launch(run: Path, *options: str) -> dict[str, Any]:
    """Its summary."""
    argv = [*LEASH, "launch", f"--run-dir={run}", "--workers=2", "--dataset=digits", *options]
    with Child(argv) as child:
        status = child.wait(100)
    assert status == 0, "\n".join(child.lines)
    assert audit_run(run) == []
    summary: dict[str, Any] = json.loads((run / "summary.json").read_text())
    return summary


def bytes_per_sample(summary: dict[str, Any]) -> float:
    total: float = summary["bytes_pushed"] + summary["bytes_answered"]
    return total / summary["samples"]


@pytest.mark.parametrize(
    "options",
    [
        (
            "--policy=bsp",
            "--transport=shm",
            "--outer-momentum=0.9",
            "--outer-nesterov",
            "--outer-lr=0.7",
        ),
        ("--policy=ssp", "--bound=2", "--transport=tcp", "--codec=bf16"),
        ("--policy=asp", "--shards=2", "--optimizer=adamw"),
        ("--policy=ssp", "--transport=shm", "--codec=int8", "--momentum=0.5"),
    ],
    ids=str,
)
def test_digits_train_to_their_accuracy_with_local_steps(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    summary = launch(
        tmp_path / "run", *options, "--local-steps=4", "--epochs=8", "--batch-size=16",
        "--slow=0,0.002", "--data-plan=static",
    )  # fmt: skip
    assert summary["samples"] == 8 * 1438
    # 719 samples each, in 45 batches: 11 rounds of four, and one batch that is left.
    assert summary["steps"] == 2 * 8 * 12
    assert summary["test_accuracy"] > 0.85
    assert summary["evictions"] == summary["refused_messages"] == 0


def test_batch_norm_statistics_travel_with_local_steps_too(tmp_path: Path) -> None:
    run = tmp_path / "run"
    summary = launch(
        run, "--policy=ssp", "--model=resnet18", "--len-train-data=256", "--batch-size=16",
        "--lr=0.02", "--epochs=4", "--local-steps=4", "--data-plan=static",
    )  # fmt: skip
    statistics = load_file(run / "checkpoints" / "final.safetensors")["bn1.running_var"]
    assert (statistics != 1).all()  # where they began
    assert summary["test_accuracy"] > 0.5


def test_eight_local_steps_take_less_than_a_seventh_of_the_bytes(tmp_path: Path) -> None:
    """And by themselves they learn: the rate of steps is as without, and bsp takes the mean."""
    options = ("--policy=bsp", "--epochs=2", "--batch-size=8")
    plain = launch(tmp_path / "plain", *options)
    local = launch(tmp_path / "local", *options, "--local-steps=8")
    assert bytes_per_sample(plain) > 7 * bytes_per_sample(local)
    assert plain["samples"] == local["samples"]
    settings = [yaml.safe_load((tmp_path / run / "config.yaml").read_text())
                for run in ("plain", "local")]  # fmt: skip
    rates = [(s["lr"], s["lr_scaling"], s["outer_lr"]) for s in settings]
    assert rates == [(0.01, "linear", None), (0.01, "none", 1.0)]
    assert local["test_accuracy"] > 0.8


class Scales:
    """Weighs the payloads of a worker's pushes as they leave its engine, and of their answers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pushed = self.answered = 0
        # A lane calls the engine from C++, past the one that weighs.
        monkeypatch.setattr(data_driver, "why_plain", lambda: "to be weighed")
        make = exchange.make_engine
        monkeypatch.setattr(
            exchange, "make_engine", lambda *parts: WeighedEngine(make(*parts), self)
        )


class WeighedEngine:
    """A step engine, of which all that goes out and comes in is weighed."""

    def __init__(self, engine: StepEngine, scales: Scales) -> None:
        self._engine = engine
        self._scales = scales

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def next(self, shard: int, most: int) -> Any:
        outgoing = self._engine.next(shard, most)
        if outgoing is not None and isinstance(decode(outgoing[0], DATA), PushPull):
            self._scales.pushed += len(outgoing[1])
        return outgoing

    def receive(self, shard: int, frames: list[zmq.Frame]) -> Any:
        header, *payloads = frames
        answer = decode(header.bytes, REPLIES)
        if isinstance(answer, Params) and answer.step > 0:
            self._scales.answered += len(payloads[0])
        return self._engine.receive(shard, frames)


@pytest.mark.parametrize("codec", ["f32", "bf16", "int8", "topk"])
def test_the_bytes_that_a_run_counts_are_those_that_travel(
    codec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = nn.Sequential(nn.Linear(200, 100), nn.BatchNorm1d(100), nn.Linear(100, 3))
    scales = Scales(monkeypatch)
    with (
        serving(chunk_kib=64, lr=0.01) as server,
        PSOptimizer(
            model.named_parameters(), server.address, 1, buffers=model.named_buffers(),
            transport="tcp", encoding=Encoding(codec),
        ) as optimizer,
    ):  # fmt: skip
        for _ in range(3):
            model(torch.randn(4, 200)).square().mean().backward()
            optimizer.step()
    counted = server.server.metrics.summary()  # of a server that has ended: all is counted
    assert scales.pushed > 0
    assert (counted["bytes_pushed"], counted["bytes_answered"]) == (scales.pushed, scales.answered)


@pytest.mark.parametrize("codec", ["f32", "bf16", "int8"])
def test_bytes_in_shared_memory_count_as_those_of_a_message(codec: str) -> None:
    counted = []
    for transport in ("tcp", "shm"):
        torch.manual_seed(1)
        model = nn.Linear(300, 100)
        with (
            serving(chunk_kib=64, lr=0.01) as server,
            PSOptimizer(
                model.named_parameters(), server.address, 1, transport=transport,
                encoding=Encoding(codec),
            ) as optimizer,
        ):  # fmt: skip
            model(torch.ones(4, 300)).square().mean().backward()
            optimizer.step()
        summary = server.server.metrics.summary()  # of a server that has ended: all is counted
        counted.append((summary["bytes_pushed"], summary["bytes_answered"]))
    tcp, shm = counted
    assert shm[0] == tcp[0] > 0
    # Answers to a segment are written there as they are; the others in the codec, where it fits.
    assert shm[1] == 4 * 100 * 301
    assert tcp[1] == (shm[1] // 2 if codec == "bf16" else shm[1])
