"""The states of a model's chunks, as a checkpoint has them, for the same chunks and for others."""

import json
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from leash.ps.runs.chunk_states import ChunkClocks, ChunkState, SavedChunks
from leash.ps.wire.layout import Layout, Slot
from leash.ps.wire.messages import U63_MAX

KIB = 1024
# Cut every KiB: v and a part of w, twice w alone, d; then the buffer.
LAYOUT = Layout(
    [
        Slot("v", "f32", (100,)),
        Slot("w", "f32", (600,)),
        Slot("d", "f64", (3,)),
        Slot("mean", "f32", (5,), "buffer"),
    ]
)
SLOTS_OF_CHUNKS = [["v", "w"], ["w"], ["w"], ["d"], []]
WORKERS = (1, 2, 7)

counts = st.integers(0, U63_MAX)


@st.composite
def saved_chunks(draw: st.DrawFn) -> SavedChunks:
    states = []
    for slots in SLOTS_OF_CHUNKS:
        by_worker = draw(st.dictionaries(st.sampled_from(WORKERS), counts))
        clocks = ChunkClocks(min(by_worker.values(), default=draw(counts)), by_worker)
        states.append(ChunkState(draw(counts), clocks, [draw(counts) for _ in slots]))
    return SavedChunks(KIB, states)


def test_the_model_is_cut_as_these_tests_take_it() -> None:
    names = [slot.name for slot in LAYOUT.slots]
    pieces = [
        [names[piece.slot] for piece in LAYOUT.pieces(chunk)] if chunk.kind == "parameter" else []
        for chunk in LAYOUT.cut(KIB)
    ]
    assert pieces == SLOTS_OF_CHUNKS


@given(saved_chunks())
def test_all_states_are_read_as_they_were_written(saved: SavedChunks) -> None:
    assert SavedChunks.of({"chunks": saved.as_json()}, LAYOUT, 99 * KIB) == saved


@given(saved_chunks())
def test_a_model_has_the_largest_version_of_its_chunks(saved: SavedChunks) -> None:
    assert saved.version == max(state.version for state in saved.states)


@given(saved_chunks())
def test_chunks_at_different_steps_go_on_after_the_largest_clock(saved: SavedChunks) -> None:
    assume(len({state.clocks.least for state in saved.states}) > 1)
    clocks = [c for state in saved.states for c in state.clocks.by_worker.values()]
    assert saved.step == max([*clocks, *(state.clocks.least for state in saved.states)])


def test_chunks_at_the_same_step_go_on_after_it_whoever_has_pushed_the_next_one() -> None:
    """Under bsp that push waits for the others, and its worker pushes it again."""
    one, other = ChunkClocks(7, {1: 8, 2: 7}), ChunkClocks(7, {1: 7, 2: 7})
    saved = SavedChunks(KIB, [ChunkState(7, clocks, []) for clocks in (one, other)])
    assert (saved.step, saved.is_between_steps) == (7, True)


@given(saved_chunks())
def test_the_same_chunks_get_their_own_versions_and_counts(saved: SavedChunks) -> None:
    expected = [(state.version, state.updates) for state in saved.states]
    assert saved.for_model(LAYOUT, KIB) == expected


@given(saved_chunks(), st.sampled_from([2 * KIB, 64 * KIB]))
def test_other_chunks_get_the_largest_version_and_the_largest_counts_of_their_slots(
    saved: SavedChunks, nbytes: int
) -> None:
    largest: dict[str, int] = {}
    for slots, state in zip(SLOTS_OF_CHUNKS, saved.states, strict=True):
        for slot, number in zip(slots, state.updates, strict=True):
            largest[slot] = max(number, largest.get(slot, 0))
    version = max(state.version for state in saved.states)
    slots_of_chunks = {2 * KIB: [["v", "w"], ["w"], ["d"], []], 64 * KIB: [["v", "w"], ["d"], []]}
    expected = [(version, [largest[slot] for slot in slots]) for slots in slots_of_chunks[nbytes]]
    assert saved.for_model(LAYOUT, nbytes) == expected


@pytest.mark.parametrize(
    ("least", "is_between"), [([7] * 5, True), ([0] * 5, True), ([7, 7, 7, 7, 8], False)]
)
def test_chunks_are_between_two_steps_if_all_are_at_the_same(
    least: list[int], is_between: bool
) -> None:
    states = [ChunkState(9, ChunkClocks(step, {}), []) for step in least]
    assert SavedChunks(KIB, states).is_between_steps == is_between


SAVED = SavedChunks(
    KIB, [ChunkState(4, ChunkClocks(2, {1: 2, 2: 3}), [4] * len(s)) for s in SLOTS_OF_CHUNKS]
)


def told(**changes: Any) -> dict[str, str]:
    return {"chunks": json.dumps({**json.loads(SAVED.as_json()), **changes})}


def test_the_states_that_are_changed_below_are_readable_themselves() -> None:
    assert SavedChunks.of(told(), LAYOUT, KIB) == SAVED


@pytest.mark.parametrize(
    "metadata",
    [
        {"chunks": ""}, {"chunks": "[]"}, {"chunks": "{}"}, {"chunks": "null"},
        told(nbytes=0), told(nbytes=1023), told(nbytes="x"), told(nbytes=64 * KIB),
        told(versions=[4] * 4), told(versions=[4, 4, 4, 4, -1]), told(versions=[4, 4, 4, 4, "x"]),
        told(versions=[4, 4, 4, 4, 1 << 63]),
        told(least_clocks=[2] * 6), told(least_clocks=[2, 2, 2, 2, -1]), told(least_clocks=2),
        told(clocks={"1": [2] * 4}), told(clocks={"one": [2] * 5}), told(clocks={"1": [-2] * 5}),
        told(clocks=[]),
        told(updates=[[4]] * 5), told(updates=[[4, 4], [4], [4], [4], [4]]),
        told(updates=[[4, -1], [4], [4], [4], []]), told(updates=[4] * 5),
    ],
)  # fmt: skip
def test_states_that_are_not_those_of_the_models_chunks_are_refused(
    metadata: dict[str, str],
) -> None:
    with pytest.raises((ValueError, KeyError, TypeError, AttributeError)):
        SavedChunks.of(metadata, LAYOUT, KIB)


# Files of format 1.


def of_format_1(**metadata: str) -> SavedChunks:
    return SavedChunks.of(metadata, LAYOUT, KIB)


def test_a_file_of_format_1_has_one_version_for_all_chunks_and_one_count_for_each_slot() -> None:
    read = of_format_1(version="9", updates="5 6 7 0")
    counts_of = {"v": 5, "w": 6, "d": 7}
    expected = [(9, [counts_of[slot] for slot in slots]) for slots in SLOTS_OF_CHUNKS]
    assert read.for_model(LAYOUT, KIB) == expected
    assert (read.version, read.step, read.is_between_steps) == (9, 0, True)


def test_one_without_counts_has_as_many_updates_as_its_version_says() -> None:
    assert of_format_1(version="9").for_model(LAYOUT, KIB) == [
        (9, [9] * len(slots)) for slots in SLOTS_OF_CHUNKS
    ]


@pytest.mark.parametrize("updates", ["", "5 6 7", "5 6 7 0 1", "5 6 7 x", "5 6 7 -1"])
def test_counts_that_are_not_those_of_the_slots_are_refused(updates: str) -> None:
    with pytest.raises(ValueError, match=r"count|invalid literal"):
        of_format_1(version="9", updates=updates)
