"""A worker of an own loop that waits for others: it says whom, and gives up when it was told to."""

import threading

import numpy as np
import pytest
import torch

from leash.ps.errors import NotReadyError, UnknownWorkerError, UsageError
from leash.ps.wire.layout import Layout, Slot
from leash.worker import PSOptimizer
from leash.worker.client import Client
from leash.worker.client.control import waiting
from support.servers import serving

LAYOUT = Layout([Slot("w", "f32", (4,))])


def test_it_says_once_whom_it_waits_for_and_that_it_is_someone_else_now(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(waiting, "MOMENT_S", 0.0)
    parameter = torch.nn.Parameter(torch.zeros(4))
    with serving(workers=3) as running:
        others = [Client(running.address, LAYOUT, rank=3)]
        said: list[str] = []

        def say(line: str) -> None:
            said.append(line)
            if line == "waiting for worker 2":
                others.append(Client(running.address, LAYOUT, rank=2))

        with PSOptimizer([("w", parameter)], running.address, rank=1, say=say) as optimizer:
            assert said == ["waiting for worker 2"]
            for client in others:
                slab = np.zeros(LAYOUT.nbytes, np.uint8)
                client.begin(slab)
                client.close()
            parameter.sum().backward()
            optimizer.step()
        assert running.join() == 0
    assert capsys.readouterr().err == ""


def test_by_default_it_says_so_where_warnings_go_and_ends_after_the_time_that_it_was_given(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(waiting, "MOMENT_S", 0.0)
    with serving(workers=2) as running:
        client = Client(running.address, LAYOUT, rank=2, wait_s=0.7)
        with pytest.raises(
            NotReadyError, match=r"waited 0\.7 s .wait_s. for worker 1: start whoever"
        ):
            client.begin(np.zeros(LAYOUT.nbytes, np.uint8))
        client.close("failed")
    assert [(r.levelname, r.message) for r in caplog.records if r.name.startswith("leash.")] == [
        ("WARNING", "waiting for worker 1")
    ]


def test_an_optimizer_that_was_told_how_long_to_wait_names_whom_it_missed() -> None:
    parameter = torch.nn.Parameter(torch.zeros(4))
    with serving(workers=3) as running:
        with pytest.raises(NotReadyError, match="for workers 1, 3: start whoever"):
            PSOptimizer([("w", parameter)], running.address, rank=2, wait_s=0.5)
        assert running.server.members.workers[2].state == "failed"  # it does not stay


def test_without_a_limit_it_waits_for_as_long_as_it_takes() -> None:
    with serving(workers=2) as running:
        slabs = [np.zeros(LAYOUT.nbytes, np.uint8) for _ in range(2)]
        first = Client(running.address, LAYOUT, rank=1)
        begun = threading.Thread(target=first.begin, args=(slabs[0],))
        begun.start()
        begun.join(0.5)
        assert begun.is_alive()
        second = Client(running.address, LAYOUT, rank=2)
        second.begin(slabs[1])
        begun.join()
        first.close()
        second.close()
        assert running.join() == 0


def test_a_rank_that_the_run_does_not_have_is_told_which_it_has() -> None:
    parameter = torch.nn.Parameter(torch.zeros(4))
    with (
        serving(workers=2) as running,
        pytest.raises(
            UnknownWorkerError, match=r"rank 3 is not among .*: 1, 2; ranks start from 1"
        ),
    ):
        PSOptimizer([("w", parameter)], running.address, rank=3)


def test_an_observer_that_would_push_is_told_what_it_is() -> None:
    slab = np.zeros(LAYOUT.nbytes, np.uint8)
    with serving(workers=1) as running:
        observer, worker = (Client(running.address, LAYOUT, rank=rank) for rank in (0, 1))
        worker.begin(slab)
        with pytest.raises(UsageError, match=r"rank 0 is an observer.*ranks start from 1"):
            observer.push_pull(slab, slab, samples=1)
        worker.close()
        observer.close()
        assert running.join() == 0
