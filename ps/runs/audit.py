"""Re-checks a run from its events: whether the bound held, and each step came once and in order.

It knows nothing of the server's own clocks. It replays joins, leaves, pushes and changes of the
policy with dictionaries, and looks at every reply that went out:

- the recorded lag is the true one, and within the bound of the policy at that moment, which under
  dssp is the upper limit;
- the server dropped a gradient exactly when its recorded staleness is beyond the policy's limit,
  which is 0 under backup, and --max-staleness under drop;
- under a bound in versions, the recorded staleness is at most bound + N - 1, where N is the number
  of workers that took part since this worker's last reply (csrc/core/admission/admission.h says
  why).

Where events are missing, since they could not be written, it says how many, and nothing else.

It believes the recorded staleness itself, since events do not record pulls, nor which gradients
were finite. It does not know which workers contributed to a mean, or why dssp granted a number of
steps.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from leash.ps.policy import ASP, BACKUP, CLOCKS, Rule
from leash.ps.runs.events import Event

BEFORE_START: Final = Rule(ASP, None)


def audit_run(run_dir: Path) -> list[str]:
    """Lists the violations in the events of a run directory, in words; none for a clean run.

    Raises:
        ValueError: the run recorded only some of its steps (`--step-events`), or events are missing
            that could not be written.
    """
    with (run_dir / "events.jsonl").open(encoding="utf-8") as events:
        found = audit(json.loads(line) for line in events)
    summary = run_dir / "summary.json"
    told = json.loads(summary.read_text("utf-8")) if summary.exists() else {}
    if missing := told.get("events_missing", 0):
        raise ValueError(_missing(missing))
    return found


def _missing(events: int) -> str:
    return (
        f"{events} events are missing, which could not be written; only all of them can be checked"
    )


def audit(events: Iterable[Event]) -> list[str]:
    """Lists the violations in a sequence of events; see `audit_run`."""
    replay = Replay()
    return [f"{event}: {violation}" for event in events for violation in replay.take(event)]


@dataclass(slots=True)
class Replay:
    """The state of a run after some of its events."""

    rule: Rule = BEFORE_START
    clocks: dict[int, int] = field(default_factory=dict)  # of the live workers
    # Worker ▸ how many have taken part since its last reply under this rule, itself included.
    peers: dict[int, int] = field(default_factory=dict)
    pushed: dict[int, tuple[Rule, int | None]] = field(default_factory=dict)  # rule and peers then

    def take(self, event: Event) -> Iterator[str]:
        """Takes the next event; yields what it violates."""
        match event:
            case {"event": "started", "step_events": step_events}:
                if step_events != 1:
                    raise ValueError("only a run with --step-events 1 can be re-checked")
                self.rule = Rule.from_settings(event)
            case {"event": "events_lost", "events": events}:
                raise ValueError(_missing(events))
            case {"event": "policy_changed"}:
                self.rule = Rule.from_settings(event)
                self.peers.clear()
            case {"event": "joined", "worker": worker, "first_step": first_step} if worker:
                self.clocks[worker] = first_step - 1
                self.peers = {other: count + 1 for other, count in self.peers.items()}
            case {"event": "left", "worker": worker}:
                self.clocks.pop(worker, None)
                self.peers.pop(worker, None)
            case {"event": "push", "worker": worker, "step": number}:
                yield from self._push(worker, number)
            case {"event": "step", "worker": worker, "lag": lag, "staleness": staleness}:
                yield from self._lag(worker, lag)
                yield from self._staleness(worker, staleness, bool(event.get("dropped")))
                self.peers[worker] = len(self.clocks)

    def _push(self, worker: int, number: int) -> Iterator[str]:
        expected = self.clocks.get(worker, -1) + 1
        if number != expected:
            yield f"expected step {expected}"
        self.clocks[worker] = number
        self.pushed[worker] = self.rule, self.peers.get(worker)

    def _lag(self, worker: int, lag: int) -> Iterator[str]:
        true_lag = self.clocks[worker] - min(self.clocks.values())
        if lag != true_lag:
            yield f"the lag was {true_lag}"
        bound = self.rule.bound if self.rule.bound_max is None else self.rule.bound_max
        if bound is not None and self.rule.bound_unit == CLOCKS and true_lag > bound:
            yield f"lag {true_lag} is beyond the bound {bound}"

    def _staleness(self, worker: int, staleness: int, dropped: bool) -> Iterator[str]:
        # The gradient was judged by the rule when it came, which may not be the rule of its reply.
        rule, peers = self.pushed.get(worker, (self.rule, None))
        limit = 0 if rule.policy is BACKUP else rule.staleness_limit
        if dropped != (limit is not None and staleness > limit):
            is_dropped = "was" if dropped else "was not"
            yield f"a gradient of staleness {staleness} {is_dropped} dropped under {rule}"
        if rule.bound_unit == CLOCKS or rule.bound is None or peers is None:
            return
        most = rule.bound + peers - 1
        if staleness > most:
            yield f"staleness {staleness} is beyond {most}, which {rule} allows"
