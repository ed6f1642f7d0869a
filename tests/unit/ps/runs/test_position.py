"""How far a run is: what a checkpoint has of it, and what another run makes of that."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leash.ps.errors import UsageError
from leash.ps.runs.position import LeasePosition, Position, SharePosition

SHARES = {1: SharePosition(2, 20, 50), 2: SharePosition(3, 0, 50)}
LEASES = LeasePosition(100, 2, {3: [(10, 20), (30, 100)], 4: []})

counts = st.integers(0, 2**32 - 1)
epochs = st.integers(0, 100_000)


@st.composite
def lease_positions(draw: st.DrawFn) -> LeasePosition:
    """Of a run that is in the midst of some epochs, each with ranges that touch no other."""
    samples, completed = draw(st.integers(1, 1000)), draw(st.integers(0, 1000))
    begun = draw(st.sets(st.integers(completed + 1, completed + 5)))
    free = {}
    for epoch in sorted(begun):
        ends = sorted(draw(st.sets(st.integers(0, samples), max_size=8)))
        free[epoch] = list(zip(ends[::2], ends[1::2], strict=False))
    return LeasePosition(samples, completed, free)


positions = st.builds(
    Position,
    seed=st.integers(0, 2**63 - 1),
    epoch=epochs,
    shares=st.dictionaries(counts, st.builds(SharePosition, counts, counts, counts), max_size=4),
    leases=st.none() | lease_positions(),
    anew=st.lists(st.text(max_size=20), max_size=3),
)


@given(positions)
def test_a_position_is_read_as_it_was_written(position: Position) -> None:
    assert Position.from_json(position.as_json()) == position


def told(**changes: Any) -> str:
    """What a checkpoint has of a position, with other entries."""
    return json.dumps({**json.loads(Position(5, 2, SHARES, LEASES).as_json()), **changes})


def told_leases(**changes: Any) -> str:
    leases = json.loads(Position(5, 2, {}, LEASES).as_json())["leases"]
    return told(leases={**leases, **changes})


def test_the_texts_that_are_changed_below_are_positions_themselves() -> None:
    assert Position.from_json(told()) == Position(5, 2, SHARES, LEASES)
    assert Position.from_json(told_leases()) == Position.from_json(told())


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "null", "3", "{}",
        told(epoch=-1), told(epoch=100_001), told(epoch="2"), told(epoch=2.0), told(epoch=True),
        told(epoch=None), told(seed=None), told(seed="x"), told(anew=3),
        told(shares=[]), told(shares={"one": [0, 0, 0]}), told(shares={"-1": [0, 0, 0]}),
        told(shares={"1": [0, 0, 0, 0]}), told(shares={"1": [0, -1, 0]}), told(shares={"1": 3}),
        told(leases=3), told(leases={"samples": 3}),
        told_leases(samples=-1), told_leases(completed=100_001), told_leases(free=[]),
        told_leases(free={"x": []}), told_leases(free={"3": [[0]]}), told_leases(free={"3": [0]}),
    ],
)  # fmt: skip
def test_a_text_that_is_no_position_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Position.from_json(text)


@pytest.mark.parametrize(
    "ranges",
    [
        [[10, 5]], [[5, 5]], [[0, 101]], [[-1, 5]], [[0, 5], [3, 8]], [[0, 5], [5, 8]],
        [[50, 60], [0, 5]],
    ],
)  # fmt: skip
def test_free_ranges_that_no_run_leaves_are_a_value_error(ranges: list[list[int]]) -> None:
    """Empty ones, some beyond the epoch, some that touch another or stand before it."""
    with pytest.raises(ValueError, match=r"range of free positions|expected a count"):
        Position.from_json(told_leases(free={"3": ranges}))


@pytest.mark.parametrize("epoch", ["0", "1", "2"])
def test_a_completed_epoch_has_nothing_left(epoch: str) -> None:
    with pytest.raises(ValueError, match="completed, and has samples left"):
        Position.from_json(told_leases(free={epoch: [[0, 5]]}))


# For another run.


def test_a_run_of_the_same_ranks_goes_on_in_the_midst_of_their_shares() -> None:
    position = Position(5, 2, SHARES)
    assert position.for_ranks([2, 1], has_leases=False) == position


@pytest.mark.parametrize("ranks", [[1], [1, 3], [1, 2, 3]])
def test_other_ranks_divide_the_samples_otherwise_so_they_begin_with_a_whole_epoch(
    ranks: list[int],
) -> None:
    went_on = Position(5, 2, SHARES).for_ranks(ranks, has_leases=False)
    assert went_on == Position(5, 2, {rank: SharePosition(2) for rank in ranks})


def test_leases_go_on_whoever_takes_part() -> None:
    position = Position(5, 2, {}, LEASES)
    for ranks in ([1], [1, 2], [7, 8, 9]):
        assert position.for_ranks(ranks, has_leases=True) == position


def test_who_leases_where_there_were_shares_begins_with_a_whole_epoch_of_any_size() -> None:
    went_on = Position(5, 2, SHARES).for_ranks([1, 2], has_leases=True)
    assert went_on == Position(5, 2, {}, LeasePosition(0, 2, {}))


def test_who_has_shares_where_there_were_leases_begins_with_a_whole_epoch() -> None:
    went_on = Position(5, 2, {}, LEASES).for_ranks([1, 2], has_leases=False)
    assert went_on == Position(5, 2, {1: SharePosition(2), 2: SharePosition(2)})


def test_a_run_keeps_its_seed_and_what_begins_anew() -> None:
    position = Position(5, 2, SHARES, None, ["the workers' own optimizers"])
    for has_leases in (False, True):
        went_on = position.for_ranks([3], has_leases=has_leases)
        assert (went_on.seed, went_on.epoch, went_on.anew) == (5, 2, position.anew)


@pytest.mark.parametrize("position", [Position(5, 2, SHARES), Position(5, 2, {}, LEASES)])
def test_samples_that_are_shuffled_by_another_seed_are_refused_with_the_seed_to_give(
    position: Position,
) -> None:
    position.require_seed(5)
    with pytest.raises(UsageError, match=r"^--seed 6: .* give --seed 5$"):
        position.require_seed(6)


def test_loops_that_shuffle_for_themselves_may_have_any_seed_and_number_of_epochs() -> None:
    position = Position(5, 2)
    position.require_seed(6)
    position.require_epochs(1)


@pytest.mark.parametrize("position", [Position(5, 2, SHARES), Position(5, 2, {}, LEASES)])
def test_a_run_that_has_trained_all_epochs_needs_more_of_them(position: Position) -> None:
    position.require_epochs(3)
    position.require_epochs(None)
    with pytest.raises(UsageError, match=r"^--epochs 2: .* has completed 2; .* --epochs 4$"):
        position.require_epochs(2)
    with pytest.raises(UsageError, match=r"^--epochs 1: .* --epochs 3$"):
        position.require_epochs(1)
