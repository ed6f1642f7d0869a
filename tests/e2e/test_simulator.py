"""What `leash simulate` predicts is what `leash launch` then does, with the same seed."""

import json
from pathlib import Path
from typing import Any, Final

import pytest

from ps.config import SimulateConfig
from ps.simulate import predict
from ps.simulate_options import choose_rules
from support.processes import LEASH, Child

WORKERS: Final = 4
# A worker each of every kind that the laboratory knows, but of about the same speed.
SLOW: Final = "exp:0.05/0.01@..3+0.09@3../normal:0.05,0.02/0.03+pause:chance=0.05,for=0.4"
SAMPLES: Final = 1438
BATCH_SIZE: Final = 24
STEPS_OF_AN_EPOCH: Final = 15  # of every worker: its share of the samples is 359 or 360


def measured(run: Path, epochs: int, *options: str) -> dict[str, Any]:
    """The summary of a real run."""
    argv = [*LEASH, "launch", f"--run-dir={run}", f"--workers={WORKERS}", "--dataset=digits",
            "--data-plan=static", "--model=linear", f"--batch-size={BATCH_SIZE}", "--lr=0.01",
            "--seed=3", f"--epochs={epochs}", *options]  # fmt: skip
    with Child(argv) as child:
        assert child.wait(100.0) == 0, "\n".join(child.lines)
    summary: dict[str, Any] = json.loads((run / "summary.json").read_text())
    assert summary["steps_by_worker"] == {
        str(rank): STEPS_OF_AN_EPOCH * epochs for rank in range(1, WORKERS + 1)
    }
    return summary


@pytest.fixture(scope="module")
def own_time(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What a batch and a message take on this machine, from a run of its own."""
    sleep_s = 0.05
    summary = measured(
        tmp_path_factory.mktemp("own") / "run", 3, "--policy=asp", f"--slow={sleep_s}"
    )
    step_s = summary["train_seconds"] / (3 * STEPS_OF_AN_EPOCH)
    waiting = sum(summary["wait_fraction_by_worker"].values()) / WORKERS
    return {
        "compute": str(max(0.0, step_s * (1 - waiting) - sleep_s)),
        "network": str(step_s * waiting / 2),
    }


@pytest.mark.parametrize("rule", [("bsp", None), ("ssp", 2), ("asp", None)], ids=str)
def test_speed_and_waiting_are_predicted(
    tmp_path: Path, own_time: dict[str, str], rule: tuple[Any, int | None]
) -> None:
    policy, staleness = rule
    options = [f"--policy={policy}", *([f"--staleness={staleness}"] if staleness else [])]
    real = measured(tmp_path / "run", 6, f"--slow={SLOW}", *options)
    config = SimulateConfig(
        workers=WORKERS, slow=SLOW, steps=6 * STEPS_OF_AN_EPOCH, data_plan="static", seed=3,
        policy=policy, staleness=staleness, **own_time,
    )  # fmt: skip
    config.check()
    (chosen,) = choose_rules(None, policy, staleness)
    told = predict(config, chosen).row()
    assert told["steps_per_second"] == pytest.approx(real["steps_per_second"], rel=0.1)
    shares = [summary["wait_fraction_by_worker"] for summary in (told, real)]
    predicted, seen = (sum(share.values()) / WORKERS for share in shares)
    # Of a share of a few per cent, as under asp, the noise of the machine is more than a tenth.
    assert predicted == pytest.approx(seen, rel=0.1, abs=0.02)
    assert told["max_lag"] <= real["max_lag"] + 1 or policy == "asp"
