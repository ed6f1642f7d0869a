"""Re-checks a run from its events: was the bound kept, was every step taken once and in order?

It knows nothing of the server's own clocks. It replays joins, leaves and pushes with a dictionary,
and looks at every reply that went out.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def audit_run(run_dir: Path) -> list[str]:
    """The violations in the events of a run directory, in words; an empty list is a clean run.

    Raises:
        ValueError: the run recorded only some of its steps (`--step-events`).
    """
    with (run_dir / "events.jsonl").open(encoding="utf-8") as events:
        return audit(json.loads(line) for line in events)


def audit(events: Iterable[dict[str, Any]]) -> list[str]:
    """The violations in a sequence of events; see `audit_run`."""
    violations: list[str] = []
    clocks: dict[int, int] = {}  # of the live workers
    bound: int | None = None
    for event in events:
        match event:
            case {"event": "started", "bound": bound, "step_events": step_events}:
                if step_events != 1:
                    raise ValueError("only a run with --step-events 1 can be re-checked")
            case {"event": "joined", "worker": worker, "first_step": first_step} if worker:
                clocks[worker] = first_step - 1
            case {"event": "left", "worker": worker}:
                clocks.pop(worker, None)
            case {"event": "push", "worker": worker, "step": step}:
                if step != clocks.get(worker, -1) + 1:
                    violations.append(f"{event}: expected step {clocks.get(worker, -1) + 1}")
                clocks[worker] = step
            case {"event": "step", "worker": worker, "lag": lag}:
                true_lag = clocks[worker] - min(clocks.values())
                if lag != true_lag:
                    violations.append(f"{event}: the lag was {true_lag}")
                if bound is not None and true_lag > bound:
                    violations.append(f"{event}: lag {true_lag} is beyond the bound {bound}")
    return violations
