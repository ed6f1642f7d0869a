"""`leash launch --report`: real processes, and the page that they leave."""

import json
from pathlib import Path

from support.processes import LEASH, Child


def test_a_launch_ends_with_a_page_that_names_the_slow_worker(tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = (
        "--report", f"--run-dir={run}", "--workers=3", "--policy=ssp", "--bound=2",
        "--dataset=digits", "--epochs=2", "--batch-size=16", "--slow=0.01,0.01,0.2",
    )  # fmt: skip
    with Child([*LEASH, "launch", *words]) as child:
        assert child.wait(110) == 0, "\n".join(child.lines)
    assert child.lines[-1] == f"report          {run / 'report.html'}"
    html = (run / "report.html").read_text("utf-8")
    assert "worker 3 is persistently" in html
    assert "bounds cannot hide that" in html
    assert "exchanging" in html
    assert (run / "report" / "timeline.png").read_bytes().startswith(b"\x89PNG")
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    training = [event for event in events if event["event"] == "training"]
    assert {event["worker"] for event in training} == {1, 2, 3}
