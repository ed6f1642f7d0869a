import json
from pathlib import Path

from leash.ps.runs.events import EventLog
from support.sockless import StillClock, TightDisk


def test_each_event_is_a_line_with_the_seconds_since_the_beginning(tmp_path: Path) -> None:
    times = iter([100.0, 100.5, 102.25])
    log = EventLog(tmp_path / "events.jsonl", now=lambda: next(times))
    log.write("joined", worker=1, name="häuschen\n")
    log.write("step", worker=1, lag=0)
    log.close()
    lines = (tmp_path / "events.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [
        {"t": 0.5, "event": "joined", "worker": 1, "name": "häuschen\n"},
        {"t": 2.25, "event": "step", "worker": 1, "lag": 0},
    ]


def test_what_was_flushed_can_be_read_while_the_run_goes_on(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    log.write("started")
    log.flush()
    assert "started" in (tmp_path / "events.jsonl").read_text(encoding="utf-8")
    log.close()


def test_events_that_were_lost_are_an_event_with_their_number(tmp_path: Path) -> None:
    disk, times = TightDisk(room=0), StillClock()
    log = EventLog(tmp_path / "events.jsonl", times, disk)
    event = {"text": "x" * 1000}
    for _ in range(5000):
        log.write("step", **event)
    assert log.missing == 5000
    disk.room = None
    times.skip(60.0)
    log.write("left")
    log.close()
    rows = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert rows[-2:] == [
        {"t": 60.0, "event": "events_lost", "events": log.missing}, {"t": 60.0, "event": "left"}
    ]  # fmt: skip
    assert len(rows) - 2 + log.missing == 5000


def test_without_a_path_events_are_forgotten() -> None:
    log = EventLog(None)
    log.write("started")
    log.flush()
    log.close()
    assert not log.is_open


def test_nothing_is_written_after_the_end(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    log.close()
    log.write("late")
    log.close()
    assert (tmp_path / "events.jsonl").read_text(encoding="utf-8") == ""
