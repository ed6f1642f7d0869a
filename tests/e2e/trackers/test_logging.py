"""What a loop of one's own logs, from `optimizer.log` to events.jsonl and `leash status`."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import nn

from leash import PSOptimizer
from leash.ps.commands.run_table import run_table
from leash.ps.errors import ArgumentError, UsageError
from leash.ps.runs.rundir import RunDir
from leash.ps.wire.layout import Layout, Slot
from leash.worker.client import Client
from leash.worker.client.control.log_queue import WAITING_MAX
from support.servers import serving


def events_of(run: Path, kind: str) -> list[dict[str, Any]]:
    events = map(json.loads, (run / "events.jsonl").read_text().splitlines())
    return [event for event in events if event["event"] == kind]


def test_what_a_loop_logs_is_in_the_events_and_shown_and_the_last_of_it_too(
    tmp_path: Path,
) -> None:
    model = nn.Linear(2, 2)
    with serving(run_dir=RunDir(tmp_path / "run")) as server:
        with PSOptimizer(model.named_parameters(), server.address, rank=1) as optimizer:
            for _ in range(3):
                optimizer.zero_grad()
                loss = model(torch.ones(1, 2)).square().sum()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                optimizer.log({"loss": loss, "nan": float("nan")})
            optimizer.log({"val/accuracy": 0.5}, step=99)
            with pytest.raises(ArgumentError, match="metrics='lag'"):
                optimizer.log({"lag": 1.0})
            with pytest.raises(ArgumentError, match="step=-1"):
                optimizer.log({"loss": 1.0}, step=-1)
            optimizer.client.liveness.stop()  # so that all is told
            (row,) = optimizer.client.state()["table"]
            assert row["logged"]["val/accuracy"] == 0.5
            assert "\nlogged val/accuracy: 0.5 by worker 1\n" in shown(optimizer.client.state())
            optimizer.log({"last": 1.0})  # the liveness has ended, but the bye has not been said
        server.join()
    logged = events_of(tmp_path / "run", "logged")
    assert [(e["worker"], e["step"], list(e["metrics"])) for e in logged] == [
        *((1, step, ["loss", "nan"]) for step in (1, 2, 3)), (1, 99, ["val/accuracy"]),
        (1, 3, ["last"]),
    ]  # fmt: skip
    assert logged[0]["metrics"]["nan"] == "nan"


def shown(state: dict[str, Any]) -> str:
    """The table of a run, as a terminal has it."""
    with io.StringIO() as text:
        Console(width=100, file=text).print(run_table(state))
        return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"


def test_a_loop_that_logs_more_than_can_be_sent_hears_of_it_once(tmp_path: Path) -> None:
    said = list[str]()
    model = nn.Linear(2, 2)
    rows = WAITING_MAX + 500
    with serving(run_dir=RunDir(tmp_path / "run")) as server:
        with PSOptimizer(model.named_parameters(), server.address, 1, say=said.append) as optimizer:
            for number in range(rows):
                optimizer.log({"number": number})
        server.join()
    assert [line for line in said if "left out" in line] == said[-1:]
    logged = events_of(tmp_path / "run", "logged")
    lost = sum(event["rows"] for event in events_of(tmp_path / "run", "logged_lost"))
    assert len(logged) + lost == rows
    assert lost > 0


def test_an_observer_logs_nothing() -> None:
    layout = Layout([Slot("w", "f32", (2,))])
    with serving() as server:
        worker = Client(server.address, layout, rank=1)
        observer = Client(server.address, layout)
        with pytest.raises(UsageError, match="an observer only reads"):
            observer.log({"loss": 1.0})
        observer.close()
        worker.close()
