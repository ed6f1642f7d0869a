"""What `leash simulate` predicts is what `leash launch` does, with the same seed.

A run's events tell when each push arrived and when it was answered. From them comes what a batch
takes on this machine beside its delays, which is what the simulator has to be told. It is not told
when anybody waited, nor for how long.
"""

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any, Final

import pytest

from leash.ps.simulate.options import SimulateOptions
from leash.ps.simulate.prediction import predict
from leash.ps.slowness.by_rank import parse_slow
from leash.ps.slowness.delays import Delays
from support.processes import LEASH, Child

SEED: Final = 3
WORKERS: Final = 4
# A worker each of several kinds of slowness, and of about the same speed.
SLOW: Final = "exp:0.2/uniform:0.1,0.3/normal:0.2,0.08/0.12+pause:chance=0.05,for=1.6"
BATCH_SIZE: Final = 24
EPOCHS: Final = 3
STEPS: Final = EPOCHS * 15  # of every worker: its share of the samples is 359 or 360


@dataclass(frozen=True, slots=True)
class Seen:
    """One worker's part in a real run, in seconds since its start. Steps count from 0."""

    pushed_s: list[float]
    answered_s: list[float]

    def waited_s(self) -> float:
        # The first step is left out of all that is compared: in it torch wakes up.
        return sum(self.answered_s[1:]) - sum(self.pushed_s[1:])

    def lasted_s(self) -> float:
        return self.answered_s[-1] - self.answered_s[0]

    def compute(self, rank: int) -> str:
        """What its batches take beside their delays, and what the first takes more.

        An exponential distribution that is shifted has their mean and their deviation.
        """
        delays = Delays(parse_slow(SLOW, WORKERS)[rank - 1], seed=SEED, rank=rank)
        began_s = [0.0, *self.answered_s[:-1]]
        own_s = [
            pushed - began - delays.next(began)
            for began, pushed in zip(began_s, self.pushed_s, strict=True)
        ]
        mean_s = fmean(own_s[1:])
        spread_s = min(mean_s, pstdev(own_s[1:]))
        return f"{mean_s - spread_s}+exp:{spread_s}+{max(0.0, own_s[0] - mean_s)}@..0.001"


def launched(run: Path, *options: str) -> dict[int, Seen]:
    """A real run, as its events tell of it, by rank."""
    argv = [*LEASH, "launch", f"--run-dir={run}", f"--workers={WORKERS}", "--dataset=digits",
            "--data-plan=static", "--model=linear", f"--batch-size={BATCH_SIZE}", "--lr=0.01",
            f"--seed={SEED}", f"--epochs={EPOCHS}", f"--slow={SLOW}", *options]  # fmt: skip
    with Child(argv) as child:
        assert child.wait(100.0) == 0, "\n".join(child.lines)
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    (started_s,) = (event["t"] for event in events if event["event"] == "started")

    def times(kind: str, rank: int) -> list[float]:
        mine = [e for e in events if e["event"] == kind and e["worker"] == rank]
        assert [event["step"] for event in mine] == list(range(1, STEPS + 1))
        return [event["t"] - started_s for event in mine]

    return {r: Seen(times("push", r), times("step", r)) for r in range(1, WORKERS + 1)}


def figures(workers: dict[int, Seen]) -> tuple[float, float]:
    """steps/s and the share of the time that was waited, from the second step on."""
    began_s = min(seen.answered_s[0] for seen in workers.values())
    ended_s = max(seen.answered_s[-1] for seen in workers.values())
    waited_s = sum(seen.waited_s() for seen in workers.values())
    lasted_s = sum(seen.lasted_s() for seen in workers.values())
    return WORKERS * (STEPS - 1) / (ended_s - began_s), waited_s / lasted_s


def predicted(real: dict[int, Seen], policy: Any, bound: int | None) -> dict[int, Seen]:
    options = SimulateOptions(
        workers=WORKERS, slow=SLOW, steps=STEPS, data_plan="static", seed=SEED,
        compute="/".join(real[rank].compute(rank) for rank in sorted(real)),
        policy=policy, bound=bound, plot="not drawn.svg",
    )  # fmt: skip
    options.check()
    (rule,) = options.rules()
    steps = predict(options, rule).first_steps
    of_worker = {r: [s for s in steps if s.worker == r] for r in range(1, WORKERS + 1)}
    assert all(a.answered_s == b.began_s for mine in of_worker.values() for a, b in pairwise(mine))
    return {
        rank: Seen([s.pushed_s for s in mine], [s.answered_s for s in mine])
        for rank, mine in of_worker.items()
    }


@pytest.mark.alone
@pytest.mark.parametrize("rule", [("bsp", None), ("ssp", 3), ("asp", None)], ids=str)
def test_speed_and_waiting_are_predicted(tmp_path: Path, rule: tuple[str, int | None]) -> None:
    policy, bound = rule
    bounds = [f"--bound={bound}"] if bound else []
    real = launched(tmp_path / "run", f"--policy={policy}", *bounds)
    speed, waiting = figures(real)
    told_speed, told_waiting = figures(predicted(real, policy, bound))
    assert told_speed == pytest.approx(speed, rel=0.1)
    # Nobody waits under asp: there is no tenth of it.
    assert told_waiting == pytest.approx(waiting, rel=0.1, abs=0.01)
