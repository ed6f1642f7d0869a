import pytest

from ps.errors import UsageError
from ps.policy import ASP, BSP, POLICIES, SSP, UNREACHABLE_BOUND, Rule, choose_rule


def test_the_table_has_the_three_policies() -> None:
    assert list(POLICIES) == ["bsp", "ssp", "asp"]
    assert [p.name for p in POLICIES.values() if p.average] == ["bsp"]


@pytest.mark.parametrize(
    ("policy", "staleness", "rule"),
    [
        (None, None, Rule(SSP, 3)),
        (None, 0, Rule(BSP, 0)),
        (None, 1, Rule(SSP, 1)),
        (None, UNREACHABLE_BOUND - 1, Rule(SSP, UNREACHABLE_BOUND - 1)),
        (None, UNREACHABLE_BOUND, Rule(ASP, None)),
        ("ssp", None, Rule(SSP, 3)),
        ("ssp", 7, Rule(SSP, 7)),
        ("ssp", UNREACHABLE_BOUND, Rule(SSP, UNREACHABLE_BOUND)),
        ("bsp", None, Rule(BSP, 0)),
        ("bsp", 0, Rule(BSP, 0)),
        ("asp", None, Rule(ASP, None)),
    ],
)
def test_policy_and_bound_make_a_rule(
    policy: str | None, staleness: int | None, rule: Rule
) -> None:
    assert choose_rule(policy, staleness) == rule


@pytest.mark.parametrize(
    ("policy", "staleness", "mend"),
    [
        (None, -1, "give 0 or more"),
        ("ssp", -1, "give 0 or more"),
        ("ssp", 0, "--policy bsp"),
        ("bsp", 1, "leave --staleness out"),
        ("asp", 0, "leave --staleness out"),
        ("asp", 3, "leave --staleness out"),
    ],
)
def test_a_contradiction_is_refused_in_one_line_that_names_the_mend(
    policy: str | None, staleness: int, mend: str
) -> None:
    with pytest.raises(UsageError, match=mend) as raised:
        choose_rule(policy, staleness)
    assert "\n" not in str(raised.value)


def test_a_rule_is_shown_with_its_bound_where_it_has_one() -> None:
    assert [str(choose_rule(None, s)) for s in (0, 3, 99999)] == ["bsp", "ssp(3)", "asp"]
