"""A push is applied by the options that it names, or not at all, whatever comes late or is lost."""

import json
import logging
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from leash.ps.wire.layout import Layout, Slot
from leash.ps.wire.messages import Error, GroupOptions, Message, Ok, OptionsSet, Push
from leash.ps.wire.options_table import OptionsTable
from support.sockless import SocklessServer, hand

LAYOUT = Layout([Slot("w", "f32", (4,)), Slot("b", "f32", (2,)), Slot("d", "f64", (2,))])
SGD = {"lr": 0.5, "weight_decay": 0.0, "maximize": False, "momentum": 0.0, "dampening": 0.0,
       "nesterov": False}  # fmt: skip


def table(*rates: float, group_of_slot: tuple[int, ...] = (0, 0, 0)) -> OptionsTable:
    return OptionsTable(tuple({**SGD, "lr": rate} for rate in rates), bytes(group_of_slot))


Slab = npt.NDArray[np.uint8]


class Run(SocklessServer):
    """A run whose workers have pushed nothing yet, and what its data sockets answer."""

    def __init__(
        self, policy: str = "asp", workers: int = 1, layout: Layout = LAYOUT, **settings: Any
    ) -> None:
        super().__init__(policy, workers=workers, **settings)
        for rank in self.members.ranks:
            self.hello(rank, layout)
        self.init()

    def give(self, worker: int, number: int, options: OptionsTable | bytes) -> list[Message]:
        """The answers of all shards to these options."""
        payload = options if isinstance(options, bytes) else options.pack()
        msg = GroupOptions(worker, self.incarnation(worker), number)
        return [self._answers(plane, msg, payload)[0] for plane in self.planes]

    def push_by(self, worker: int, step: int, number: int) -> list[str]:
        """Pushes ones in all chunks, by the options of this number; the codes of refusals."""
        answers: list[Message] = []
        for plane in reversed(self.planes):
            assert plane.model is not None
            for chunk in reversed(plane.model.own):
                ones = np.ones(chunk.values, "<f4" if chunk.dtype == "f32" else "<f8")
                msg = Push(worker, self.incarnation(worker), step, chunk.index, chunk.dtype, 1,
                           table=number)  # fmt: skip
                answers += self._answers(plane, msg, ones.tobytes())
        return [answer.code for answer in answers if isinstance(answer, Error)]

    def _answers(self, plane: Any, message: Message, payload: bytes) -> list[Message]:
        before = len(self.sent)
        hand(plane, message, payload)
        plane.settle()
        return self.sent[before:]

    def slab(self) -> Slab:
        """All values, as the bytes of a slab."""
        assert self.plane.model is not None
        slab = np.zeros(self.plane.model.layout.nbytes, np.uint8)
        for plane in self.planes:
            assert plane.model is not None
            for chunk in plane.model.own:
                plane.model.shard.pull(chunk.index, None, slab[chunk.start : chunk.stop])
        return slab

    def values(self) -> list[float]:
        """The first value of each slot."""
        found: list[float] = []
        for plane in self.planes:
            assert plane.model is not None
            for chunk in plane.model.own:
                values = np.zeros(chunk.values, "<f4" if chunk.dtype == "f32" else "<f8")
                plane.model.shard.pull(chunk.index, None, values)
                found += values[[0, -1]].tolist() if chunk.index == 0 else values[:1].tolist()
        return found


def code(answers: list[Message]) -> set[str]:
    return {answer.code if isinstance(answer, Error) else answer.verb for answer in answers}


@pytest.mark.parametrize("shards", [1, 2])
def test_each_slot_is_updated_by_the_options_of_its_group(shards: int) -> None:
    run = Run(shards=shards, lr=1.0)
    assert run.push_by(1, 1, 0) == []
    assert run.values() == [-1.0, -1.0, -1.0]
    answers = run.give(1, 1, table(0.5, 0.25, group_of_slot=(0, 1, 0)))
    assert answers == [OptionsSet(1, 1)] * shards
    assert run.push_by(1, 2, 1) == []
    assert run.values() == [-1.5, -1.25, -1.5]


def test_a_push_by_options_that_have_not_come_changes_nothing() -> None:
    run = Run(lr=1.0)
    assert run.push_by(1, 1, 1) == ["missing_options"] * 2
    run.give(1, 2, table(0.5))
    for number in (0, 1, 3):
        assert run.push_by(1, 1, number) == ["missing_options"] * 2
    assert run.values() == [0.0, 0.0, 0.0]
    assert run.push_by(1, 1, 2) == []
    assert run.values() == [-0.5, -0.5, -0.5]


def test_a_step_that_was_taken_is_answered_again_whatever_the_options_are_by_now() -> None:
    run = Run(lr=1.0)
    run.give(1, 1, table(0.5))
    run.push_by(1, 1, 1)
    run.give(1, 2, table(0.25))
    assert run.push_by(1, 1, 1) == []
    assert run.values() == [-0.5, -0.5, -0.5]


def test_options_that_come_again_or_late_change_nothing() -> None:
    run = Run(lr=1.0)
    run.give(1, 1, table(0.5))
    assert code(run.give(1, 2, table(0.25))) == {"options_set"}
    assert code(run.give(1, 2, table(0.25))) == {"options_set"}
    assert code(run.give(1, 1, table(0.5))) == {"superseded"}
    assert code(run.give(1, 2, table(0.125))) == {"bad_options"}
    assert run.push_by(1, 1, 2) == []
    assert run.values() == [-0.25, -0.25, -0.25]


def test_a_worker_that_joins_again_begins_with_the_servers_own_options() -> None:
    run = Run(lr=1.0, workers=2)
    run.give(1, 3, table(0.5))
    run.evict(1)
    first_step = run.hello(1, LAYOUT).first_step
    assert run.push_by(1, first_step, 3) == ["missing_options"] * 2
    assert run.push_by(1, first_step, 0) == []
    assert run.values() == [-1.0, -1.0, -1.0]
    assert code(run.give(1, 1, table(0.5))) == {"options_set"}


@pytest.mark.parametrize(
    ("settings", "changed", "told"),
    [
        ({}, {"momentum": 0.9}, "started without momentum"),
        ({}, {"lr": -1.0}, "lr: expected a finite number of at least 0"),
        ({"momentum": 0.5}, {"nesterov": True}, "more than 0 with nesterov"),
        ({}, {"clamp": (1.0, 0.0)}, "clamp: expected a range"),
        ({}, {"max_norm": -1.0}, "max_norm: expected a number of at least 0"),
        ({"delay_compensation": "constant"}, {"maximize": True}, "all groups go the same way"),
    ],
)
def test_options_that_the_optimizer_cannot_have_are_refused(
    settings: dict[str, Any], changed: dict[str, Any], told: str
) -> None:
    run = Run(**settings)
    (answer,) = run.give(1, 1, OptionsTable(({**SGD, **changed},), bytes(3)))
    assert isinstance(answer, Error)
    assert answer.code == "bad_options"
    assert told in answer.text
    assert run.push_by(1, 1, 0) == []


def test_a_payload_that_is_no_table_is_refused() -> None:
    assert code(Run().give(1, 1, b"\x80")) == {"bad_payload"}


def test_each_table_is_one_event_and_the_newest_is_in_the_summary() -> None:
    run = Run("bsp", workers=2)
    for number, options in enumerate((table(0.5, group_of_slot=(0, 0, 0)), table(0.25)), start=1):
        for worker in (1, 2):
            run.give(worker, number, options)
    given = run.events.named("options")
    assert [event["groups"][0]["lr"] for event in given] == [0.5, 0.25]
    assert [event.get("group_of_slot") for event in given] == [[0, 0, 0], None]
    assert run.coordinator.state()["groups"] == [{**SGD, "lr": 0.25, "slots": 3}]
    json.dumps(given, allow_nan=False)


def test_an_open_range_can_be_written_as_json() -> None:
    run = Run()
    run.give(1, 1, OptionsTable(({**SGD, "clamp": (0.0, float("inf"))},), bytes(3)))
    assert run.metrics.summary()["groups"][0]["clamp"] == [0.0, "inf"]


@pytest.mark.parametrize("shards", [1, 2])
def test_rows_are_limited_where_they_lie_in_one_chunk_and_refused_elsewhere(shards: int) -> None:
    """Whole rows of the first slot lie in several chunks; the second one's are too long."""
    layout = Layout([Slot("w", "f32", (100, 500)), Slot("long", "f32", (2, 20_000)),
                     Slot("mean", "f32", (3, 50_000), "buffer")])  # fmt: skip
    run = Run(shards=shards, layout=layout, lr=1.0)
    groups = (SGD, {**SGD, "max_norm": 2.0})
    answers = run.give(1, 1, OptionsTable(groups, bytes([1, 1, 1])))
    assert "bad_options" in code(answers)
    assert all("max_norm: rows of slot 1 lie in two chunks" in answer.text
               for answer in answers if isinstance(answer, Error))  # fmt: skip
    assert code(run.give(1, 2, OptionsTable(groups, bytes([1, 0, 1])))) == {"options_set"}
    assert run.push_by(1, 1, 2) == []
    values = run.slab()[: layout.offsets[2]].view("<f4")
    norms = np.linalg.norm(values[: 100 * 500].reshape(100, 500), axis=1)
    assert norms.tolist() == pytest.approx([2.0] * 100)
    assert (values[100 * 500 :][:40_000] == -0.5).all()


def test_workers_whose_options_differ_under_bsp_are_told_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    run = Run("bsp", workers=2, lr_scaling="none")
    with caplog.at_level(logging.WARNING):
        for step, rates in enumerate([(0.5, 0.5), (0.5, 0.25), (0.25, 0.5)], start=1):
            for worker, rate in zip((2, 1), rates, strict=True):
                run.give(worker, step, table(rate))
                assert run.push_by(worker, step, step) == []
    assert run.events.named("options_differ") == [{"step": 2, "workers": [1, 2]}]
    assert len(caplog.records) == 1
    # The options of worker 1, the lowest rank, count: 0.5, then 0.25, then 0.5.
    assert run.values() == [-1.25, -1.25, -1.25]


def test_a_worker_without_options_differs_from_one_with_some() -> None:
    run = Run("bsp", workers=2)
    run.give(1, 1, table(0.5))
    run.push_by(1, 1, 1)
    run.push_by(2, 1, 0)
    assert run.events.named("options_differ") == [{"step": 1, "workers": [1, 2]}]


def test_under_asp_each_goes_by_its_own_options_and_nobody_is_told() -> None:
    run = Run("asp", workers=2)
    for worker, rate in ((1, 0.5), (2, 0.25)):
        run.give(worker, 1, table(rate))
        run.push_by(worker, 1, 1)
    assert run.values() == [-0.75, -0.75, -0.75]
    assert run.events.named("options_differ") == []


def test_an_observer_gives_no_options() -> None:
    run = Run()
    incarnation = run.hello(0, LAYOUT).incarnation
    hand(run.plane, GroupOptions(0, incarnation, 1), table(0.5).pack())
    answer = run.sent[-1]
    assert isinstance(answer, Error)
    assert answer.code == "unknown_worker"
    assert not any(isinstance(message, Ok) for message in run.sent)
