"""What a worker offers a server that was started again."""

import numpy as np

from leash.ps.wire.frames import DATA, decode
from leash.ps.wire.layout import Layout, Slot
from leash.ps.wire.messages import Offer
from leash.worker.client.memory import Slab
from leash.worker.client.remembered import Counted, Remembered

CHUNKS = Layout([Slot("weights", "f32", (4,))]).cut(1024)
KEPT: Slab = np.full(16, 7, np.uint8)
NEWEST = [(12, 5)]  # of its one chunk: version 12, the answer to step 5


def as_it_is(kept: Slab) -> tuple[Slab, list[tuple[int, int]]]:
    """Says that no answer to an open step has come."""
    return kept, NEWEST


def counts(counted: Counted) -> tuple[int, ...]:
    newest = counted.newest_lease, counted.holder
    return counted.epochs, counted.of_epoch, counted.of_lease, *newest


def test_a_worker_that_keeps_nothing_offers_nothing() -> None:
    remembered = Remembered()
    remembered.note(as_it_is)
    assert not remembered.is_kept
    assert remembered.answered is None
    assert remembered.values is None


def test_it_offers_what_it_kept_with_the_generation_of_the_server_that_gave_it() -> None:
    remembered = Remembered()
    remembered.has_now(generation=3)
    remembered.keep(lambda: KEPT)
    remembered.note(as_it_is)
    assert remembered.is_kept
    assert remembered.values is KEPT
    assert remembered.answered is not None
    (header,) = remembered.answered.offers(CHUNKS, 2, 9)
    assert decode(header, DATA) == Offer(2, 9, 0, "f32", 3, 12, 5)


def test_what_it_offers_stays_the_same_until_a_server_has_given_newer_values() -> None:
    remembered = Remembered()
    remembered.keep(lambda: KEPT)
    remembered.note(as_it_is)
    before = remembered.answered
    remembered.note(lambda _: (np.zeros(16, np.uint8), [(99, 9)]))
    assert remembered.answered is before

    remembered.lost = 1
    remembered.has_now(generation=4)
    assert remembered.values is None
    assert remembered.lost == 0
    remembered.note(as_it_is)
    assert remembered.answered is not None
    assert remembered.answered.generation == 4


def test_newer_values_end_a_lease_and_not_an_epoch() -> None:
    remembered = Remembered()
    remembered.counted.lease(8, 1000)
    remembered.counted.epoch(2)
    remembered.counted.step(30)
    assert counts(remembered.counted) == (2, 30, 30, 8, 1000)
    remembered.has_now(generation=1)
    assert counts(remembered.counted) == (2, 30, 0, 0, 0)


def test_a_worker_that_has_left_holds_nothing_of_whom_it_kept_for() -> None:
    remembered = Remembered()
    remembered.keep(lambda: KEPT)
    remembered.note(as_it_is)
    remembered.forget()
    assert remembered.answered is None
    assert not remembered.is_kept
