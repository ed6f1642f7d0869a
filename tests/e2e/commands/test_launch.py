"""`leash launch` as people run it: real processes, a real data set, and what they leave behind."""

import json
from pathlib import Path

import pytest
import yaml
from safetensors.numpy import load_file

from leash.ps.policy import MAY_STALL
from leash.ps.runs.audit import audit_run
from support.processes import LEASH, Child

BEFORE = Path(__file__).parents[2] / "support" / "before"


def launch(run: Path, *options: str, timeout_s: float = 100.0) -> Child:
    with Child([*LEASH, "launch", f"--run-dir={run}", *options]) as child:
        status = child.wait(timeout_s)
    assert status == 0, "\n".join(child.lines)
    return child


def summary_of(run: Path) -> dict[str, object]:
    summary: dict[str, object] = json.loads((run / "summary.json").read_text())
    return summary


def require_equal_weights(*runs: Path) -> None:
    results = [load_file(run / "checkpoints" / "final.safetensors") for run in runs]
    assert results[0].keys() == results[1].keys()
    for name, tensor in results[0].items():
        assert tensor.tobytes() == results[1][name].tobytes(), name


@pytest.mark.parametrize(
    "rule",
    [("--policy=bsp",), ("--policy=ssp", "--bound=2"), ("--policy=asp", "--shards=2")],
    ids=str,
)
def test_digits_train_to_their_accuracy_with_one_slow_worker(
    tmp_path: Path, rule: tuple[str, ...]
) -> None:
    run = tmp_path / "run"
    told = launch(
        run, *rule, "--workers=3", "--dataset=digits", "--epochs=8", "--batch-size=16",
        "--lr=0.05", "--momentum=0.5", "--slow=0,0,0.01",
    )  # fmt: skip
    summary = summary_of(run)
    assert summary["samples"] == 8 * 1438
    assert summary["test_accuracy"] >= 0.95  # type: ignore[operator]
    assert len(summary["test_accuracy_by_epoch"]) == 8  # type: ignore[arg-type]
    assert summary["evictions"] == summary["duplicate_pushes"] == summary["refused_messages"] == 0
    assert audit_run(run) == []
    assert str(run) in told.lines[-1]
    for left in ("config.yaml", "events.jsonl", "checkpoints/final.safetensors", "tensorboard"):
        assert (run / left).exists(), left


def test_a_bound_that_may_stall_a_run_is_told_on_the_screen(tmp_path: Path) -> None:
    told = launch(
        tmp_path / "run", "--policy=ssp", "--bound=2", "--bound-unit=versions", "--workers=1",
        "--dataset=digits", "--len-train-data=64",
    )  # fmt: skip
    assert MAY_STALL in told.lines


def test_the_settings_that_a_run_leaves_repeat_it_bit_by_bit(tmp_path: Path) -> None:
    """bsp, two workers, dropout on: the second run is made from the first one's config.yaml."""
    first, second = tmp_path / "first", tmp_path / "second"
    launch(
        first, "--policy=bsp", "--workers=2", "--model=lenet", "--dataset=digits", "--epochs=1",
        "--momentum=0.9", "--nesterov", "--weight-decay=0.001", "--seed=5",
    )  # fmt: skip
    assert yaml.safe_load((first / "config.yaml").read_text())["seed"] == 5
    launch(second, f"--config={first / 'config.yaml'}")
    require_equal_weights(first, second)


def test_the_settings_of_a_run_of_before_repeat_it_bit_by_bit(tmp_path: Path) -> None:
    """The file has the old names, `staleness` and `staleness_max`; the command line the new."""
    old, new = tmp_path / "old", tmp_path / "new"
    launch(old, f"--config={BEFORE / 'bsp.yaml'}", "--seed=5")
    launch(new, "--policy=bsp", "--bound=0", "--dataset=digits", "--workers=2", "--epochs=2",
           "--seed=5")  # fmt: skip
    require_equal_weights(old, new)


def test_batch_norm_statistics_are_shared_and_evaluated_with(tmp_path: Path) -> None:
    """resnet18 has batch norm: its running statistics travel as buffers."""
    run = tmp_path / "run"
    launch(
        run, "--policy=ssp", "--workers=2", "--model=resnet18", "--dataset=digits",
        "--len-train-data=256", "--batch-size=16", "--lr=0.02", "--epochs=4",
    )  # fmt: skip
    statistics = load_file(run / "checkpoints" / "final.safetensors")["bn1.running_var"]
    assert (statistics != 1).all()  # where they began
    assert summary_of(run)["test_accuracy"] > 0.5  # type: ignore[operator]
    assert audit_run(run) == []
