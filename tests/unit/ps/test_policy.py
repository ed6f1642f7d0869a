from typing import Any

import pytest

from leash.ps import policy as policies
from leash.ps._core import Rule as CoreRule
from leash.ps.errors import UsageError
from leash.ps.policy import (
    ASP,
    BACKUP,
    BSP,
    DROP,
    DSSP,
    POLICIES,
    SSP,
    UNREACHABLE_BOUND,
    Rule,
    choose_rule,
    message_fields,
    rule_from_message,
)

EVERY = [
    choose_rule("bsp", None), choose_rule("ssp", 5), choose_rule("asp", None),
    choose_rule("ssp", 4, bound_unit="versions"), choose_rule("dssp", 0, 0),
    choose_rule("dssp", 2, 9), choose_rule("backup", None, None, 0),
    choose_rule("backup", None, None, 2), choose_rule("drop", None, max_staleness=0),
    choose_rule("drop", None, max_staleness=8),
]  # fmt: skip


def test_each_policy_of_the_table_names_a_paper_that_the_docstring_tells_of() -> None:
    assert list(POLICIES) == ["bsp", "ssp", "asp", "dssp", "backup", "drop"]
    assert [p.name for p in POLICIES.values() if p.average] == ["bsp", "backup"]
    for policy in POLICIES.values():
        assert f"| {policy.name:6} | {policy.paper}," in (policies.__doc__ or "")


@pytest.mark.parametrize(
    ("policy", "bound", "rule"),
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
        ("dssp", None, Rule(DSSP, 3, bound_max=15)),
        ("dssp", 5, Rule(DSSP, 5, bound_max=17)),
        ("backup", None, Rule(BACKUP, None, backup_workers=1)),
    ],
)
def test_policy_and_bound_make_a_rule(policy: str | None, bound: int | None, rule: Rule) -> None:
    assert choose_rule(policy, bound) == rule


def test_drop_has_a_limit_of_staleness_and_no_bound() -> None:
    rule = choose_rule("drop", None, max_staleness=8)
    assert (rule.policy, rule.bound, rule.staleness_limit) == (DROP, None, 8)


@pytest.mark.parametrize(
    ("policy", "bound", "mend"),
    [
        (None, -1, "give 0 or more"),
        ("ssp", -1, "give 0 or more"),
        ("ssp", 0, "--policy bsp"),
        ("bsp", 1, "leave --bound out"),
        ("asp", 0, "leave --bound out"),
        ("asp", 3, "leave --bound out"),
        ("backup", 3, "leave --bound out"),
        ("drop", None, "--policy drop needs --max-staleness R"),
        ("drop", 8, "--bound 8: drop has no bound; leave --bound out, or give --max-staleness"),
        ("ssp", 1 << 31, "give at most 2147483647"),
    ],
)
def test_a_contradiction_is_refused_in_one_line_that_names_the_mend(
    policy: str | None, bound: int | None, mend: str
) -> None:
    with pytest.raises(UsageError, match=mend) as raised:
        choose_rule(policy, bound)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("settings", "mend"),
    [
        ({"policy": "dssp", "bound": 5, "bound_max": 4}, "at least --bound, .* 5"),
        ({"policy": "dssp", "bound": 0, "bound_max": 1025}, "at most 1024"),
        ({"policy": "ssp", "bound_max": 4}, "--bound-max 4: .* add --policy dssp"),
        ({"policy": "ssp", "max_staleness": 4}, "--max-staleness 4: .* add --policy drop"),
        ({"policy": "drop", "max_staleness": -1}, "--max-staleness -1: .* give 0 or more"),
        ({"policy": None, "backup_workers": 1}, "--backup-workers 1: add --policy backup"),
        ({"policy": "backup", "backup_workers": -1}, "--backup-workers -1: give 0 or more"),
        ({"policy": "asp", "bound_unit": "versions"}, "--bound-unit versions: goes with .* ssp"),
        ({"policy": "dssp", "bound_unit": "versions"}, "--bound-unit versions: goes with .* ssp"),
    ],
)
def test_a_limit_that_its_policy_does_not_have_is_refused(
    settings: dict[str, Any], mend: str
) -> None:
    with pytest.raises(UsageError, match=mend) as raised:
        choose_rule(**{"bound": None, **settings})
    assert "\n" not in str(raised.value)


def test_a_round_waits_for_one_worker_at_least() -> None:
    rule = choose_rule("backup", None, None, 2)
    rule.require_workers(3)
    with pytest.raises(UsageError, match=r"--backup-workers 2: of 2 workers .* give fewer"):
        rule.require_workers(2)


@pytest.mark.parametrize("rule", EVERY, ids=str)
def test_a_rule_is_told_and_sent_without_a_loss(rule: Rule) -> None:
    assert Rule.from_settings(rule.settings()) == rule
    assert rule_from_message(*message_fields(rule)) == rule


@pytest.mark.parametrize("rule", EVERY, ids=str)
def test_every_rule_is_one_of_the_core(rule: Rule) -> None:
    core: CoreRule = rule.core()
    assert (core.bound, core.bound_max, core.unit) == (rule.bound, rule.bound_max, rule.bound_unit)
    assert (core.gather == "each") != rule.policy.average
    assert core.backup_workers == rule.backup_workers
    assert core.staleness_limit == rule.staleness_limit


@pytest.mark.parametrize(
    "fields",
    [("none", 0, 0, 0, "clocks"), ("ssp", 3, 0, 0, "miles"), ("asp", 3, 0, 0, "clocks"),
     ("ssp", 3, 0, 2, "clocks"), ("bsp", 0, 5, 0, "clocks"), ("ssp", 0, 0, 0, "clocks")],
)  # fmt: skip
def test_what_no_command_line_would_send_is_refused(
    fields: tuple[str, int, int, int, str],
) -> None:
    with pytest.raises(UsageError):
        rule_from_message(*fields)


def test_a_rule_is_shown_with_its_bound_where_it_has_one() -> None:
    assert [str(choose_rule(None, s)) for s in (0, 3, 99999)] == ["bsp", "ssp(3)", "asp"]
    assert list(map(str, EVERY[3:])) == [
        "ssp(4 versions)", "dssp(0..0)", "dssp(2..9)", "backup(0)", "backup(2)", "drop(0)",
        "drop(8)",
    ]  # fmt: skip
