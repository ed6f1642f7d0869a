import math
from typing import Any

from leash.ps.trackers.logged import ROWS_AT_ONCE, ROWS_PER_S, Logged, fit_logged
from leash.ps.trackers.rows import NAMES_MAX, ROWS_MAX, Row, joined_rows, pack_row
from leash.ps.wire.messages import Log
from support.sockless import StillClock


class Events:
    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []

    def write(self, event: str, at_s: float | None = None, **details: Any) -> None:
        self.told.append({"event": event, **details})

    @property
    def rows(self) -> list[tuple[int, int, dict[str, Any]]]:
        return [(e["worker"], e["step"], e["metrics"]) for e in self.told if e["event"] == "logged"]

    @property
    def lost(self) -> int:
        return sum(event["rows"] for event in self.told if event["event"] == "logged_lost")


def payload(*rows: Row) -> bytes:
    return joined_rows([pack_row(*row) for row in rows])


def a(*numbers: int) -> bytes:
    return payload(*((number, {"a": float(number)}) for number in numbers))


def test_rows_become_events_and_the_newest_numbers_are_kept() -> None:
    events = Events()
    logged = Logged(events)
    assert logged.take(Log(2, 7, 5, 1), payload((10, {"loss": 0.5}), (20, {"loss": math.nan})))
    assert logged.take(Log(1, 8, 6, 1), payload((1, {"acc": 0.25})))
    assert events.rows == [
        (2, 10, {"loss": 0.5}), (2, 20, {"loss": "nan"}), (1, 1, {"acc": 0.25})
    ]  # fmt: skip
    assert math.isnan(logged.newest_of(2)["loss"])
    assert logged.newest_of(1) == {"acc": 0.25}
    assert logged.newest_of(3) == {}


def test_each_row_counts_once_whichever_message_and_incarnation_brings_it() -> None:
    events = Events()
    logged = Logged(events)
    messages = ((7, 1, (1, 2)), (7, 1, (1, 2)), (8, 1, (1, 2, 3)), (8, 4, (4,)))
    for incarnation, first, sent in messages:
        logged.take(Log(1, incarnation, 5, first), a(*sent))
    assert [step for _, step, _ in events.rows] == [1, 2, 3, 4]
    assert not logged.take(Log(1, 8, 5, 3), a(3, 4))
    assert logged.take(Log(1, 9, 6, 1), a(1))  # another process counts from 1


def test_a_server_that_comes_later_takes_rows_from_where_they_are() -> None:
    events = Events()
    logged = Logged(events)
    logged.take(Log(1, 7, 5, 501), a(501, 502))
    logged.take(Log(1, 7, 5, 501), a(501, 502, 503))
    assert [step for _, step, _ in events.rows] == [501, 502, 503]


def test_more_rows_than_fit_are_left_out_and_said() -> None:
    events, clock = Events(), StillClock()
    logged = Logged(events, clock)
    sent = 0
    while not events.lost:
        logged.take(Log(1, 7, 5, sent + 1), a(*range(ROWS_MAX)))
        sent += ROWS_MAX
    assert len(events.rows) == ROWS_AT_ONCE
    assert len(events.rows) + events.lost == sent
    clock.skip(0.25)
    before = len(events.rows)
    logged.take(Log(1, 7, 5, sent + 1), a(*range(ROWS_MAX)))
    assert len(events.rows) - before == min(ROWS_MAX, int(0.25 * ROWS_PER_S))
    logged.take(Log(2, 7, 5, 1), a(1))  # another worker has its own
    assert events.rows[-1][0] == 2


def test_what_a_worker_has_left_out_is_said_once() -> None:
    events = Events()
    logged = Logged(events)
    for _ in range(2):
        logged.take(Log(1, 7, 5, 1, lost=9), a(1))
    assert events.lost == 9


def test_a_worker_that_logs_ever_new_names_takes_no_more_memory() -> None:
    logged = Logged(Events())
    for number in range(3 * NAMES_MAX):
        logged.take(Log(1, 7, 5, number + 1), payload((1, {f"name {number}": 1.0})))
    assert len(logged.newest_of(1)) == NAMES_MAX
    assert f"name {3 * NAMES_MAX - 1}" in logged.newest_of(1)


def test_what_is_shown_fits_a_message() -> None:
    rows = [{"logged": {f"{n} of {'x' * 50}": 1.0 for n in range(NAMES_MAX)}} for _ in range(200)]
    fit_logged(rows)
    assert rows[0]["logged"]
    assert not rows[-1]["logged"]
