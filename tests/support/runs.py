"""Run directories made by a naive model of a policy, so that a report has known answers."""

import heapq
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

Event = dict[str, Any]
StepTime = Callable[[int], float]  # from a step's number to its seconds


def simulate(
    step_times: Sequence[StepTime], steps: int, bound: int | None, begins_s: float = 1.0
) -> list[Event]:
    """The events of workers that take so long for their steps, with exchanges that take no time.

    Args:
        step_times: of the workers 1, 2, …
        steps: of each worker.
        bound: how far one may be ahead of the slowest; None for asp.
    """
    ranks = range(1, len(step_times) + 1)
    events: list[Event] = [{"t": 0.1, "event": "joined", "worker": 0, "incarnation": 1}]
    events += [{"t": 0.5, "event": "joined", "worker": w, "incarnation": 1} for w in ranks]
    events.append({
        "t": begins_s, "event": "started", "policy": "asp" if bound is None else "ssp",
        "bound": bound, "workers": list(ranks), "step_events": 1,
    })  # fmt: skip
    clocks = dict.fromkeys(ranks, 0)
    parked: dict[int, int] = {}  # worker ▸ step
    pushes = [(begins_s + step_times[w - 1](1), w) for w in ranks]
    heapq.heapify(pushes)
    while pushes:
        t, worker = heapq.heappop(pushes)
        clocks[worker] += 1
        parked[worker] = clocks[worker]
        events.append({"t": t, "event": "push", "worker": worker, "step": clocks[worker]})
        slowest = min(clocks.values())
        free = [w for w, step in parked.items() if bound is None or step <= slowest + bound]
        for w in free:
            step = parked.pop(w)
            events.append({"t": t, "event": "step", "worker": w, "step": step,
                           "lag": step - slowest, "staleness": step % 3})  # fmt: skip
            if step < steps:
                heapq.heappush(pushes, (t + step_times[w - 1](step + 1), w))
            else:
                events.append({"t": t, "event": "left", "worker": w, "reason": "done"})
    return events


def write_run(
    path: Path,
    events: Sequence[Event],
    options: Event | None = None,
    summary: Event | None = None,
) -> Path:
    """A run directory; None leaves a file out."""
    path.mkdir(parents=True)
    lines = [json.dumps(event) + "\n" for event in events]
    (path / "events.jsonl").write_text("".join(lines))
    if options is not None:
        (path / "config.yaml").write_text(yaml.safe_dump(options))
    if summary is not None:
        (path / "summary.json").write_text(json.dumps(summary))
    return path
