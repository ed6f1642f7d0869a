import pytest

from leash.ps.errors import UsageError
from leash.ps.options.launch import LaunchOptions
from leash.ps.options.plan import (
    PlanGroup,
    batch_count,
    choose_data_plan,
    data_plan_of_worker,
    parse_local_steps,
)
from leash.worker.datasets.base import in_batches

TOLD = {"data_plan": "lease", "batch_plan": "equal", "local_steps": "1"}


@pytest.mark.parametrize(
    ("policy", "plan"), [("bsp", "static"), ("ssp", "lease"), ("asp", "lease")]
)
def test_bsp_has_fixed_shares_and_the_others_leases(policy: str, plan: str) -> None:
    assert choose_data_plan(PlanGroup(), policy, has_allocation=False) == plan
    assert choose_data_plan(PlanGroup(), policy, has_allocation=True) == "static"


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 50])
def test_batches_are_counted_as_workers_cut_them(batch_size: int) -> None:
    for samples in range(40):
        cut = list(in_batches(list(range(samples)), batch_size))
        assert batch_count(samples, batch_size) == len(cut)


@pytest.mark.parametrize(
    "options", [PlanGroup(batch_plan="weighted"), PlanGroup(local_steps="auto")]
)
def test_what_follows_the_speed_takes_leases(options: PlanGroup) -> None:
    assert choose_data_plan(options, "bsp", has_allocation=False) == "lease"
    with pytest.raises(UsageError, match="leave one of the two out"):
        choose_data_plan(options, "bsp", has_allocation=True)


def test_a_plan_that_was_asked_for_is_taken() -> None:
    assert choose_data_plan(PlanGroup(data_plan="lease"), "bsp", has_allocation=False) == "lease"
    static = PlanGroup(data_plan="static")
    assert choose_data_plan(static, "asp", has_allocation=False) == "static"


def test_a_worker_follows_its_server_unless_its_share_is_fixed() -> None:
    assert data_plan_of_worker(TOLD, has_allocation=False) == "lease"
    assert data_plan_of_worker({**TOLD, "data_plan": "static"}, has_allocation=False) == "static"
    assert data_plan_of_worker(TOLD, has_allocation=True) == "static"


@pytest.mark.parametrize("told", [{"batch_plan": "weighted"}, {"local_steps": "auto"}])
def test_a_fixed_share_is_refused_where_the_work_follows_the_speed(told: dict[str, str]) -> None:
    with pytest.raises(UsageError, match=r"--hetero-allocation: .* leave one of the two out"):
        data_plan_of_worker({**TOLD, **told}, has_allocation=True)


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "many", "", str(1 << 21)])
def test_local_steps_are_a_number_or_auto(text: str) -> None:
    with pytest.raises(UsageError, match="give auto, or a number from 1"):
        parse_local_steps(text)


def test_local_steps_as_numbers() -> None:
    assert parse_local_steps("auto") is None
    assert parse_local_steps("8") == 8


def test_a_launch_refuses_fixed_shares_together_with_leases_at_once() -> None:
    options = LaunchOptions(dataset="digits", workers=2, hetero_allocation="1-1", data_plan="lease")
    with pytest.raises(UsageError, match="leave one of the two out"):
        options.check()
