"""What cannot be written is said once, and what came of it."""

from pathlib import Path

from leash.ps.runs.unwritten import Unwritten

NO_SPACE = OSError(28, "No space left on device")


def test_a_file_that_cannot_be_written_is_said_once_for_each_reason_and_when_it_can_be() -> None:
    said: list[str] = []
    unwritten = Unwritten(said.append)
    for _ in range(3):
        unwritten.fail("events.jsonl", NO_SPACE)
    unwritten.fail("summary.json", "a reason")
    assert said == [
        f"WARNING: cannot write {what}; the run goes on, keeps what was written before, and tries "
        "again"
        for what in ("events.jsonl: No space left on device", "summary.json: a reason")
    ]
    assert unwritten.lasting == ["events.jsonl: No space left on device", "summary.json: a reason"]
    unwritten.done("events.jsonl")
    unwritten.done("events.jsonl")
    assert said[2:] == ["can write events.jsonl again"]
    assert unwritten.lasting == ["summary.json: a reason"]
    unwritten.fail("events.jsonl", OSError(5, "Input/output error"))
    assert len(said) == 4
    assert unwritten.as_dict()["events.jsonl"] == {
        "why": "Input/output error", "times": 4, "lasts": True
    }  # fmt: skip


def test_a_file_that_was_always_written_is_never_mentioned() -> None:
    said: list[str] = []
    unwritten = Unwritten(said.append)
    unwritten.note(Path("/run/events.jsonl"), None)
    assert (said, unwritten.lasting, unwritten.as_dict()) == ([], [], {})
    unwritten.note(Path("/run/events.jsonl"), NO_SPACE)
    assert unwritten.lasting == ["events.jsonl: No space left on device"]
