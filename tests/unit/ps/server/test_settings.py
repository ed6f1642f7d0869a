"""What a run was started with: told to workers, and left in summary.json."""

import pytest

from leash.ps.options.server import ServerOptions
from leash.ps.server.settings import run_settings, summary_settings

OPTIONS = ServerOptions(
    policy="ssp", bound=2, workers=3, model="mlp", dataset="digits", epochs=4, time_scale=0.5,
    batch_plan="weighted", local_steps="8", lr=0.5,
)  # fmt: skip
RANKS = (1, 2, 3)
RULE = OPTIONS.rule


def test_workers_are_told_of_the_rule_the_task_and_the_optimizer() -> None:
    told = run_settings(OPTIONS, RULE, RANKS, "lease")
    assert {**told, **RULE.settings()} == told
    wanted = {
        "workers": 3, "learners": "1-2-3", "data_plan": "lease", "batch_plan": "weighted",
        "local_steps": "8", "seed": 1, "planned_epochs": 4, "model": "mlp", "dataset": "digits",
        "optimizer": "sgd", "lr": 0.5,
    }  # fmt: skip
    assert {name: told[name] for name in wanted} == wanted
    assert "time_scale" not in told


def test_the_summary_repeats_what_workers_were_told_and_adds_the_time_scale() -> None:
    told = run_settings(OPTIONS, RULE, RANKS, "lease")
    kept = summary_settings(OPTIONS, RULE, RANKS, "lease")
    assert kept.pop("time_scale") == 0.5
    assert list(kept) == [
        *RULE.settings(), "workers", "least_workers", "model", "dataset", "seed", "data_plan",
        "batch_plan", "local_steps",
    ]  # fmt: skip
    assert kept == {name: told[name] for name in kept}


@pytest.mark.parametrize("workers", [1, 100, 10_000])
def test_a_welcome_of_many_workers_names_the_first_hundred(workers: int) -> None:
    told = run_settings(OPTIONS, RULE, range(1, workers + 1), "lease")
    assert told["workers"] == workers
    assert told["learners"].split("-") == [str(n) for n in range(1, min(workers, 100) + 1)]
