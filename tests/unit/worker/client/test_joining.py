"""A process that joins a run waits for its values."""

from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from leash.ps.errors import NotReadyError
from leash.ps.wire.messages import Beaten
from leash.worker.client import joining
from leash.worker.client.joining import Joining

LACKS = Beaten(True, (), initialize=True, initialized=False, epoch=0, finished=False, stopping="")
HAS = Beaten(True, (), initialize=False, initialized=True, epoch=0, finished=False, stopping="")


class Member:
    """Hears these answers to its beats, and the last one again and again."""

    def __init__(self, *answers: Beaten) -> None:
        self.heard = 0
        self._answers = answers

    def _beat(self) -> Iterator[Beaten]:
        while True:
            self.heard += 1
            yield self._answers[min(self.heard, len(self._answers)) - 1]

    def wait_until(self, is_reached: Callable[[Beaten], bool], _: object) -> Beaten:
        return next(beaten for beaten in self._beat() if is_reached(beaten))


def await_values(member: Member) -> None:
    nothing = cast(Any, None)
    made = Joining(cast(Any, member), nothing, nothing, nothing)
    made.await_values(None, lambda _: None)


def test_a_shard_may_say_a_little_later_that_it_has_its_values() -> None:
    member = Member(LACKS, LACKS, HAS)
    await_values(member)
    assert member.heard == 3


def test_a_server_without_values_is_told_after_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "NEWS_S", 0.01)
    with pytest.raises(NotReadyError, match=r"the server has lost all values; call begin\(\)"):
        await_values(Member(LACKS))
