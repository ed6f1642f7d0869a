import json
from pathlib import Path

from leash.ps.runs.events import EventLog


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
