"""A worker that is told to go, and the time that it has for that."""

import threading
from pathlib import Path

import pytest

from leash.ps.interrupt import ToldToLeave
from leash.worker.client.control.departure import Departure


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_nobody_is_told_until_somebody_tells() -> None:
    departure = Departure()
    assert not departure.look()
    assert not departure.is_overdue
    assert departure.why == ""


def test_the_first_who_tells_counts_and_the_grace_runs_from_then() -> None:
    clock = Clock()
    departure = Departure(10.0, now=clock, end=lambda: None)
    departure.tell("SIGTERM")
    clock.now_s = 6.0
    departure.tell("leash leave")
    assert (departure.why, departure.is_overdue) == ("SIGTERM", False)
    clock.now_s = 10.0
    assert departure.is_overdue
    departure.is_done()


def test_a_file_tells_it_once_it_is_there(tmp_path: Path) -> None:
    clock, file = Clock(), tmp_path / "preempted"
    departure = Departure(10.0, file, now=clock, end=lambda: None)
    assert not departure.look()
    file.touch()
    assert not departure.look()  # it looks a few times a second
    clock.now_s = 1.0
    assert departure.look()
    assert departure.why == "preempted"
    departure.is_done()


def test_the_process_is_ended_if_it_has_not_left_when_its_grace_is_over() -> None:
    ended = threading.Event()
    Departure(0.0, end=ended.set).tell("SIGTERM")
    assert ended.wait(10.0)


def test_nothing_ends_a_process_that_has_left() -> None:
    ended = threading.Event()
    departure = Departure(0.0, end=ended.set)
    departure.tell("SIGTERM")
    departure.is_done()
    departure.tell("leash leave")
    assert not ended.wait(1.5)


def test_it_goes_with_the_status_of_a_process_that_sigterm_has_ended() -> None:
    departure = Departure(end=lambda: None)
    departure.tell("preempted")
    departure.is_done()
    with pytest.raises(ToldToLeave, match="preempted") as told:
        departure.go()
    assert told.value.code == 143
    assert not isinstance(told.value, Exception)  # no `except Exception` keeps it
