"""Reports of runs whose workers come and go."""

from pathlib import Path

import numpy as np

from leash.ps.report.analysis.diagnosis import diagnose
from leash.ps.report.analysis.figures import key_figures, value_of
from leash.ps.report.analysis.reading import read_run
from leash.ps.report.pictures.curves import crew_picture
from leash.ps.report.writing import write_report
from support.runs import Event, write_run

EVENTS: list[Event] = [
    {"t": 0.0, "event": "joined", "worker": 1, "incarnation": 1},
    {"t": 0.0, "event": "joined", "worker": 2, "incarnation": 2},
    {"t": 1.0, "event": "started", "policy": "asp", "bound": None, "workers": [1, 2],
     "step_events": 1},
    {"t": 4.0, "event": "joined", "worker": 3, "incarnation": 3},
    {"t": 4.0, "event": "lr_scaled", "workers": 3, "factor": 3},
    *({"t": 5.0 + w / 10, "event": e, "worker": w, "step": 1, "lag": 0, "staleness": 0}
      for w in (1, 2, 3) for e in ("push", "step")),
    {"t": 6.0, "event": "left", "worker": 2, "incarnation": 2, "reason": "stopped"},
    {"t": 8.0, "event": "joined", "worker": 2, "incarnation": 4},
    *({"t": 10.0, "event": "left", "worker": w, "incarnation": w, "reason": "done"}
      for w in (1, 2, 3)),
]  # fmt: skip
SUMMARY = {
    "workers": 4, "least_workers": 2, "most_at_once": 3, "ended": "done", "steps": 3, "epochs": 1,
}  # fmt: skip


def test_a_report_tells_how_many_took_part_and_when(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", EVENTS, {"workers": 2, "max_workers": 4}, SUMMARY))
    assert run.crew == "2 to 4"
    at = np.array([0.5, 3.5, 5.5, 7.5])
    assert run.workers_at(at).tolist() == [2, 3, 2, 3]
    assert value_of(key_figures(run, diagnose(run)), "workers at once") == "3"
    assert crew_picture(run) is not None
    page = write_report([tmp_path / "run"], tmp_path).read_text()
    assert "2 to 4 workers" in page
    assert "Who was there" in page


def test_a_run_of_a_fixed_number_is_told_as_ever(tmp_path: Path) -> None:
    fixed = {**SUMMARY, "workers": 3, "least_workers": 3}
    for number, (options, summary) in enumerate([
        ({"workers": 3}, fixed), ({"learners": "1-2-3"}, fixed),
        ({"workers": 3}, {"ended": "done", "workers": 3}), ({"workers": 3}, {}),
    ]):  # fmt: skip
        run = read_run(write_run(tmp_path / str(number), EVENTS, options, summary))
        assert run.crew == "3"
        assert crew_picture(run) is None
