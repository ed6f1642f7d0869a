"""Servers in the middle of a run, to be attacked."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from support.contract import LR, Attack, Pair, Worker, joined
from support.peers import peers
from support.servers import RunningServer, serving


@pytest.fixture(scope="module")
def target() -> Iterator[tuple[RunningServer, Worker]]:
    """A server in the middle of a run. Nobody there is ever silent for too long."""
    with in_the_middle() as target:
        yield target


@contextmanager
def in_the_middle(*, has_lane: bool = True) -> Iterator[tuple[RunningServer, Worker]]:
    settings: dict[str, Any] = {"workers": 1, "lr": LR, "chunk_kib": 64, "evict_s": 900.0}
    with (
        serving(has_lane=has_lane, **settings) as running,
        peers(running.address, running.data_address) as sockets,
    ):
        worker = joined(running, 1, *sockets)
        worker.init()
        yield running, worker


@pytest.fixture
def attack(target: tuple[RunningServer, Worker]) -> Iterator[Attack]:
    with attacked(*target) as attack:
        yield attack


@pytest.fixture
def attack_without_lane() -> Iterator[Attack]:
    """The same where Python moves all messages, so that a test can come between."""
    with in_the_middle(has_lane=False) as target, attacked(*target) as attack:
        yield attack


@contextmanager
def attacked(running: RunningServer, worker: Worker) -> Iterator[Attack]:
    with peers(running.address, running.data_address) as (control, data):
        yield Attack(worker, running, control, data)
    worker.require_unchanged()
    worker.complete_a_step()


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Two workers under ssp with bound 1, and a spare data connection."""
    settings: dict[str, Any] = {
        "workers": 2,
        "policy": "ssp",
        "bound": 1,
        "chunk_kib": 64,
        "lr": LR,
    }
    with serving(**settings) as running, peers(
        *[running.address, running.data_address] * 2, running.data_address
    ) as (control, data, other_control, other_data, spare):  # fmt: skip
        first = joined(running, 1, control, data)
        second = joined(running, 2, other_control, other_data)
        first.init()
        yield Pair(first, second, spare, running)
