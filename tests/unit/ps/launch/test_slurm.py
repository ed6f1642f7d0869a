"""`leash launch --slurm`: what a task reads of its environment, and what is refused."""

from pathlib import Path

import pytest

from leash.ps.cli import parse
from leash.ps.errors import UsageError
from leash.ps.launch import command
from leash.ps.launch.slurm import SlurmTask
from leash.ps.options.launch import LaunchOptions

OF_SRUN = {
    "SLURM_JOB_ID": "17", "SLURM_STEP_ID": "2", "SLURM_PROCID": "3", "SLURM_NTASKS": "9",
    "SLURM_STEP_NUM_TASKS": "4",
}  # fmt: skip


def test_a_task_knows_its_rank_and_the_beginning_of_its_job() -> None:
    task = SlurmTask.of_environment(OF_SRUN)
    assert task == SlurmTask(rank=4, tasks=4, job="17", begin="17.2-0")
    again = SlurmTask.of_environment({**OF_SRUN, "SLURM_RESTART_COUNT": "1"})
    assert again.run_dir == task.run_dir == "runs/slurm-17"
    assert again.announcement(Path("run")) != task.announcement(Path("run"))


@pytest.mark.parametrize("missing", ["SLURM_PROCID", "SLURM_JOB_ID"])
def test_a_process_that_srun_has_not_started_is_refused(missing: str) -> None:
    environ = {name: value for name, value in OF_SRUN.items() if name != missing}
    with pytest.raises(UsageError, match="no task of Slurm; start it by srun"):
        SlurmTask.of_environment(environ)


def test_it_is_refused_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in OF_SRUN:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="this is no task of Slurm"):
        command.run(LaunchOptions(dataset="digits", slurm=True))
    assert list(tmp_path.iterdir()) == []


def test_there_are_as_many_workers_as_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in OF_SRUN.items():
        monkeypatch.setenv(name, value)
    _, options = parse(["launch", "--slurm", "--port=29500", "--dataset=digits"])
    options.check()
    assert isinstance(options, LaunchOptions)
    assert options.workers == 4


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--workers=2", "--workers: with --slurm there is one in each task"),
        ("--hosts=a,b", "--slurm: srun starts the workers where --hosts would"),
        ("--sync=.", "--sync: is for other machines"),
        ("--resize=60:1", "--resize: Slurm says how many tasks there are"),
    ],
)
def test_options_that_slurm_decides_are_refused(words: str, says: str) -> None:
    with pytest.raises(UsageError, match=f"^{says}"):
        parse(["launch", "--slurm", "--dataset=digits", *words.split()])[1].check()
