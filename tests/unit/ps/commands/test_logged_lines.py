import math
from typing import Any

from leash.ps.commands.logged_lines import NAMED_WORKERS, SHOWN_NAMES, logged_lines


def state(*logged: dict[str, float]) -> dict[str, Any]:
    return {"table": [{"worker": rank, "logged": row} for rank, row in enumerate(logged, 1)]}


def test_a_line_for_each_name_says_what_each_worker_has_logged_last() -> None:
    lines = logged_lines(state({"loss": 0.314159, "acc": 0.9}, {}, {"loss": math.nan}))
    assert lines == ["logged loss: 0.3142 by worker 1, nan by 3", "logged acc: 0.9 by worker 1"]


def test_a_state_without_any_has_no_line() -> None:
    assert logged_lines(state({}, {})) == []
    assert logged_lines({"table": [{"worker": 1}]}) == []  # of a server of before


def test_many_are_cut_and_counted() -> None:
    workers = logged_lines(state(*({"loss": 1.0} for _ in range(NAMED_WORKERS + 3))))
    assert workers[0].endswith(f"1 by {NAMED_WORKERS}, and 3 more")
    names = logged_lines(state({f"name {n}": 1.0 for n in range(SHOWN_NAMES + 2)}))
    assert names[-1] == "logged 2 more names"
    assert len(names) == SHOWN_NAMES + 1
