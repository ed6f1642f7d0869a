import errno
from collections.abc import Sequence

from leash.ps.trackers.curves import Point
from leash.ps.trackers.feed import AT_ONCE, REOPEN_S, WAITING_MAX, TrackerFeed
from support.sockless import StillClock


def points(*steps: int) -> list[Point]:
    return [Point(0.0, "a", 1, "step", step, 1.0) for step in steps]


class Desk:
    """Trackers that fail when a test says so, and what they were given."""

    def __init__(self) -> None:
        self.clock = StillClock()
        self.steps: list[int] = []
        self.failure: Exception | None = None
        self.opened = self.closed = 0
        self.told: list[tuple[str, str]] = []
        self.feed = TrackerFeed("it", self.open, lambda *told: self.told.append(told), self.clock)

    def open(self) -> "Desk":
        self.opened += 1
        return self

    def write(self, points: Sequence[Point]) -> None:
        assert len(points) <= AT_ONCE
        if self.failure is not None:
            raise self.failure
        self.steps += [point.step for point in points]

    def close(self) -> None:
        self.closed += 1


def test_a_tracker_gets_all_points_in_their_order() -> None:
    desk = Desk()
    many = list(range(3 * AT_ONCE + 1))
    desk.feed.put(points(*many))
    desk.feed.advance()
    desk.feed.put(points(7))
    desk.feed.close()
    assert desk.steps == [*many, 7]
    assert (desk.opened, desk.closed, desk.told) == (1, 1, [])


def test_one_that_fails_is_said_once_opened_anew_and_given_what_it_lacks() -> None:
    desk = Desk()
    desk.failure = OSError(errno.ENOSPC, "No space left on device")
    for step in range(4):
        desk.feed.put(points(step))
        desk.feed.advance()
        desk.clock.skip(REOPEN_S / 2)
    assert desk.told == [("it", "No space left on device")]
    assert (desk.opened, desk.closed, desk.steps) == (2, 2, [])
    desk.failure = None
    desk.clock.skip(REOPEN_S)
    desk.feed.advance()
    assert desk.steps == [0, 1, 2, 3]
    assert desk.told[1:] == [("it", "")]


def test_one_that_cannot_be_opened_or_closed_ends_nothing() -> None:
    told = list[tuple[str, str]]()

    def fail() -> Desk:
        raise RuntimeError("no key\nat all")

    feed = TrackerFeed("it", fail, lambda *words: told.append(words), StillClock())
    feed.put(points(1))
    feed.advance()
    feed.close()
    assert told == [("it", "no key at all")]


def test_what_waits_takes_no_more_than_its_room_and_the_newest_stays() -> None:
    desk = Desk()
    desk.failure = RuntimeError()
    desk.feed.put(points(*range(WAITING_MAX + 5)))
    desk.feed.advance()
    assert desk.feed.lost == 5
    assert desk.told == [("it", "RuntimeError")]
    desk.failure = None
    desk.feed.close()
    assert desk.steps[0] == 5
    assert desk.steps[-1] == WAITING_MAX + 4
