"""torch is the oracle: whatever people do gives what torch gives, or one clear error."""

import pytest
import torch

from oracle.body import check
from oracle.cases import Case, all_habits, every_combination, pairwise_combinations
from oracle.not_yet import NOT_YET, is_not_yet
from oracle.run import OPTIMIZERS

GPU = torch.cuda.is_available()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    cases = (
        every_combination() if metafunc.config.getoption("--torture") else
        pairwise_combinations()
    )  # fmt: skip
    if "case" in metafunc.fixturenames:
        metafunc.parametrize("case", [_marked(case) for case in cases])
    if "gpu_case" in metafunc.fixturenames:
        # One test that is skipped where there is no GPU, rather than a thousand.
        on_gpu = [_marked(case) for case in cases if GPU and case.habit.on_gpu]
        metafunc.parametrize("gpu_case", on_gpu)


def _marked(case: Case) -> object:
    why = is_not_yet(case)
    marks = [pytest.mark.xfail(strict=True, reason=why)] if why else []
    return pytest.param(case, marks=marks, id=str(case))


def test_it_does_what_torch_does_or_says_why_not(case: Case) -> None:
    check(case.habit, case.setting, f32=case.f32)


# torch's own first product in a thread of one's own says this, without a server too.
@pytest.mark.filterwarnings("ignore:Attempting to run cuBLAS")
def test_it_does_so_on_a_gpu(gpu_case: Case) -> None:
    check(gpu_case.habit, gpu_case.setting, f32=gpu_case.f32, device="cuda")


def test_there_are_habits_enough() -> None:
    assert len(all_habits()) >= 80


def test_every_day_every_two_of_habit_optimizer_overlap_and_transport_meet() -> None:
    days, all_of_them = list(pairwise_combinations()), list(every_combination())
    all_of_them = [case for case in all_of_them if case.habit.daily]

    def met(cases: list[Case], *names: str) -> set[tuple[object, ...]]:
        return {
            tuple(c.habit.name if n == "habit" else getattr(c.setting, n) for n in names)
            for c in cases
        }

    for names in (
        ("habit", "optimizer"),
        ("habit", "overlap"),
        ("habit", "transport"),
        ("optimizer", "overlap", "transport"),
    ):
        assert met(days, *names) == met(all_of_them, *names)
    assert len(met(days, "optimizer")) == len(OPTIMIZERS)
    assert {c.habit.name for c in days if c.f32} == {c.habit.name for c in all_of_them}


def test_what_is_not_yet_is_a_habit() -> None:
    assert NOT_YET.keys() <= all_habits().keys()
