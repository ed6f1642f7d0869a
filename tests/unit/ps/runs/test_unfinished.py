"""What a run has not trained, in words."""

from hypothesis import given
from hypothesis import strategies as st

from leash.ps.runs.unfinished import NAMED_PARTS, Unfinished, unfinished_text
from leash.ps.words import ranges


@given(st.sets(st.integers(1, 60)))
def test_ranges_stand_for_the_numbers_that_they_were_made_of(numbers: set[int]) -> None:
    text = ranges(sorted(numbers))
    written = [part.split("-") for part in text.split(", ")] if text else []
    assert [n for part in written for n in range(int(part[0]), int(part[-1]) + 1)] == sorted(
        numbers
    )


def test_numbers_that_follow_one_another_are_written_as_one_range() -> None:
    assert ranges([1, 3, 4, 5, 9, 10]) == "1, 3-5, 9-10"


def test_each_part_says_whose_it_is_and_how_much() -> None:
    parts = [
        Unfinished(2, "evicted", "2-5", 43650), Unfinished(3, "failed", "5", 7),
        Unfinished(4, "stopped", "", None), Unfinished(None, "", "3-4", 1200),
    ]  # fmt: skip
    assert unfinished_text([part.as_dict() for part in parts]) == (
        "worker 2 (evicted): epochs 2-5 of its share, 43650 samples; "
        "worker 3 (failed): epoch 5 of its share, 7 samples; "
        "worker 4 (stopped): all that it had still to do; "
        "epochs 3-4, 1200 samples that nobody was left to train on"
    )


def test_workers_of_whom_the_same_is_missing_share_a_clause() -> None:
    parts = [Unfinished(rank, "failed", "", None).as_dict() for rank in (3, 1, 2)]
    parts += [Unfinished(rank, "evicted", "5", 7).as_dict() for rank in (4, 6)]
    assert unfinished_text(parts) == (
        "workers 1-3 (failed): all that they had still to do; "
        "workers 4, 6 (evicted): epoch 5 of their shares, 7 samples each"
    )


def test_many_parts_are_counted() -> None:
    parts = [Unfinished(rank, "evicted", "1", rank).as_dict() for rank in range(1, NAMED_PARTS + 4)]
    assert unfinished_text(parts).endswith("; and 3 more")
