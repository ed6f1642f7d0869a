"""Metrics for Prometheus, as its own parser and its own tool read them."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from leash.ps.live.metrics import (
    COUNTERS,
    GAUGES,
    WORKER_COUNTERS,
    WORKER_GAUGES,
    RunCollector,
    exposition,
)

ROOT = Path(__file__).resolve().parents[4]
ROW: dict[str, Any] = {
    "worker": 1, "state": "live", "step": 40, "samples": 640, "lag": 2, "wait_fraction": 0.25,
    "samples_per_s": 99.5, "loss": None, "silence_s": 0.1,
}  # fmt: skip
STATE: dict[str, Any] = {
    **dict.fromkeys(COUNTERS, 7), **dict.fromkeys(GAUGES, 0.5), "policy": "ssp", "model": 'a "b"\n',
    "dataset": None, "started": True, "finished": False, "not_written": {"events.jsonl": "full"},
    "table": [ROW, {**ROW, "worker": 2, "state": "evicted", "loss": 0.125}],
}  # fmt: skip


def told(state: dict[str, Any] | None) -> str:
    newest = None if state is None else (state, 10.0)
    text, content_type = exposition(RunCollector(lambda: newest, now=lambda: 10.5))
    assert content_type.startswith("text/plain")
    return text.decode()


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_every_figure_of_the_snapshot_is_told() -> None:
    found = samples(told(STATE))
    for name, _ in COUNTERS.values():
        assert found[f"{name}_total", ()] == 7
    for name, _ in GAUGES.values():
        assert found[name, ()] == 0.5
    for name, _ in WORKER_COUNTERS.values():
        assert (f"{name}_total", (("worker", "2"),)) in found
    assert found["leash_worker_loss", (("worker", "2"),)] == 0.125
    assert ("leash_worker_loss", (("worker", "1"),)) not in found
    assert found["leash_workers", (("state", "evicted"),)] == 1
    assert found["leash_cannot_write", ()] == 1
    assert found["leash_snapshot_age_seconds", ()] == 0.5
    (labels,) = [labels for name, labels in found if name == "leash_run_info"]
    assert dict(labels)["model"] == 'a "b"\n'


def test_before_the_first_snapshot_there_is_nothing() -> None:
    assert told(None) == ""


def test_prometheus_own_tool_finds_nothing_to_say() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed: apt-get install prometheus")
    checked = subprocess.run(
        [promtool, "check", "metrics"], input=told(STATE), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


def test_every_metric_is_documented() -> None:
    page = (ROOT / "docs" / "page.md").read_text("utf-8")
    for name, _ in samples(told(STATE)):
        assert f"`{name}`" in page, name
    for table in (COUNTERS, WORKER_COUNTERS):
        for name, _ in table.values():
            assert f"`{name}_total`" in page
    for table in (GAUGES, WORKER_GAUGES):
        for name, _ in table.values():
            assert f"`{name}`" in page


def test_the_dashboard_asks_for_metrics_that_there_are() -> None:
    dashboard = json.loads((ROOT / "examples" / "grafana.json").read_text("utf-8"))
    known = {name for name, _ in samples(told(STATE))}
    asked = {
        name
        for panel in dashboard["panels"]
        for target in panel["targets"]
        for name in re.findall(r"\bleash_\w+", target["expr"])
    }
    assert len(asked) > 10
    assert asked <= known
    places = [panel["gridPos"] for panel in dashboard["panels"]]
    taken = {
        (x, y)
        for place in places
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    }
    assert len(taken) == sum(place["w"] * place["h"] for place in places)  # none lies over another
    assert max(x for x, _ in taken) < 24
