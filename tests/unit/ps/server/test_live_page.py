"""The server's side of its live page, with the process that shows it."""

import json
import os
import signal
import stat
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from leash.ps.errors import UsageError
from leash.ps.options.page import PageGroup
from leash.ps.server.page import KNOWN_AS, LivePage

LONG_S = 60.0
STATE: dict[str, Any] = {
    "train_seconds": 1.5, "steps": 12, "bytes_pushed": 100, "bytes_answered": 200, "missing": [],
    "started": True, "finished": False, "stopping": "", "awaited": [], "table": [],
    "bound": None, "policy": "asp", "wait_fraction": float("nan"),
}  # fmt: skip


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def page(tmp_path: Path, said: list[str]) -> Iterator[LivePage]:
    made = LivePage(PageGroup(page_at="127.0.0.1:0"), tmp_path, said.append)
    yield made
    made.close()


def until(page: LivePage, condition: Any, state: dict[str, Any] = STATE) -> Any:
    deadline_s = time.monotonic() + LONG_S
    while not (found := condition()):
        page.attend(lambda: state)
        assert time.monotonic() < deadline_s
    return found


def metrics(page: LivePage) -> str:
    with urllib.request.urlopen(f"{page.address}metrics", timeout=LONG_S) as answer:
        text: str = answer.read().decode()
        return text


def test_the_newest_snapshot_is_what_is_answered(page: LivePage) -> None:
    until(page, lambda: "leash_steps_total 12.0" in metrics(page))
    until(page, lambda: "leash_steps_total 13.0" in metrics(page), {**STATE, "steps": 13})
    assert "leash_waiting_ratio" not in metrics(page)  # it is not known


def test_a_process_that_has_no_time_holds_nobody_up(page: LivePage, said: list[str]) -> None:
    large = {**STATE, "table": [], "name": "x" * 3_000_000}  # more than its socket takes at once
    until(page, lambda: metrics(page))
    os.kill(page.process, signal.SIGSTOP)
    try:
        began_s = time.thread_time()
        for _ in range(200):
            page.attend(lambda: large)
        assert time.thread_time() - began_s < 5.0  # it did not wait, nor made 200 snapshots
    finally:
        os.kill(page.process, signal.SIGCONT)
    until(page, lambda: "leash_steps_total 12.0" in metrics(page))
    assert said == []


def test_a_process_that_dies_is_told_once_and_costs_nothing(
    page: LivePage, said: list[str], tmp_path: Path
) -> None:
    os.kill(page.process, signal.SIGKILL)
    until(page, lambda: said)
    for _ in range(10):
        page.attend(lambda: STATE)
    assert len(said) == 1
    assert said[0].startswith("the live page has ended (")
    assert said[0].endswith(f"leash page {tmp_path}")


def test_the_next_server_of_a_run_has_its_page_at_the_same_place(
    tmp_path: Path, said: list[str]
) -> None:
    addresses = []
    for _ in range(2):
        made = LivePage(PageGroup(page=True), tmp_path, said.append)
        addresses.append(made.address)
        made.close()
    assert addresses[0] == addresses[1]
    known = tmp_path / KNOWN_AS
    assert stat.S_IMODE(known.stat().st_mode) == 0o600
    assert json.loads(known.read_text())["token"] == ""


def test_beyond_this_machine_there_is_a_token_which_stays_too(
    tmp_path: Path, said: list[str]
) -> None:
    tokens = []
    for _ in range(2):
        made = LivePage(PageGroup(page_at="0.0.0.0:0"), tmp_path, said.append)
        tokens.append(made.address.rpartition("?token=")[2])
        made.close()
    assert tokens[0] == tokens[1]
    assert len(tokens[0]) >= 16


def test_a_place_that_is_taken_is_an_error_that_names_it(
    page: LivePage, tmp_path: Path, said: list[str]
) -> None:
    place = page.address.removeprefix("http://").rstrip("/")
    with pytest.raises(UsageError, match=f"--page-at {place}: cannot listen there: "):
        LivePage(PageGroup(page_at=place), tmp_path / "other", said.append)
