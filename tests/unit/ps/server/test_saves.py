"""Checkpoints for those who ask for one: who waits, who gets which file, and for how long."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from leash.ps.errors import HeaderError, LeashError, NotReadyError, TooManyError
from leash.ps.runs.disk import THIS_HOST
from leash.ps.server.saves import IDLE_S, MOST, Saves
from leash.ps.wire.messages import PIECE_NBYTES
from support.sockless import StillClock

CONTENT = bytes(range(256)) * 3


@pytest.fixture
def clock() -> StillClock:
    return StillClock()


@pytest.fixture
def saves(clock: StillClock) -> Iterator[Saves]:
    made = Saves(clock)
    yield made
    made.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    written = tmp_path / "latest.safetensors"
    written.write_bytes(CONTENT)
    return written


def ask(saves: Saves, number: int) -> int | None:
    return saves.ask(number, has_values=True)


def serve(saves: Saves, path: Path) -> None:
    """A checkpoint is written for those who wait."""
    saves.serve(saves.take_up(), lambda: THIS_HOST.open(path))


def times_open(path: Path) -> int:
    """How many file descriptors of this process are of this file."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the listing's own is closed by now
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
    return found.count(str(path))


def test_whoever_asks_waits_until_a_file_is_written_and_hears_its_size(
    saves: Saves, path: Path
) -> None:
    assert not saves.awaited
    assert ask(saves, 17) is None
    assert ask(saves, 17) is None  # again
    assert saves.awaited
    serve(saves, path)
    assert not saves.awaited
    assert ask(saves, 17) == len(CONTENT)
    assert ask(saves, 17) == len(CONTENT)
    assert not saves.awaited  # to ask again whether it is there begins no other


def test_who_asks_later_waits_for_the_next_file(saves: Saves, path: Path) -> None:
    ask(saves, 1)
    serve(saves, path)
    assert ask(saves, 2) is None
    assert saves.awaited
    newer = path.with_name("newer.safetensors")
    newer.write_bytes(b"newer")
    serve(saves, newer)
    assert (ask(saves, 1), ask(saves, 2)) == (len(CONTENT), 5)


def test_who_asks_while_one_is_being_written_waits_for_the_next(saves: Saves, path: Path) -> None:
    ask(saves, 1)
    numbers = saves.take_up()
    assert not saves.awaited
    ask(saves, 2)
    assert saves.awaited
    saves.serve(numbers, lambda: THIS_HOST.open(path))
    assert (ask(saves, 1), ask(saves, 2)) == (len(CONTENT), None)


def test_whose_checkpoint_was_given_up_waits_for_another(saves: Saves, path: Path) -> None:
    ask(saves, 1)
    saves.put_back(saves.take_up())
    assert saves.awaited
    serve(saves, path)
    assert ask(saves, 1) == len(CONTENT)


def test_it_counts_those_who_have_read_one_to_its_end(saves: Saves, path: Path) -> None:
    for number in (1, 2):
        ask(saves, number)
    serve(saves, path)
    saves.read(1, len(CONTENT))
    saves.read(1, 0)
    assert saves.times_fetched == 1
    saves.read(2, 0)
    assert saves.times_fetched == 2


def test_a_file_is_read_to_its_end_in_pieces_and_each_as_often_as_one_likes(
    saves: Saves, tmp_path: Path
) -> None:
    path = tmp_path / "large.safetensors"
    content = os.urandom(2 * PIECE_NBYTES + 5)
    path.write_bytes(content)
    ask(saves, 1)
    serve(saves, path)
    came = b""
    while piece := saves.read(1, len(came)):
        assert saves.read(1, len(came)) == piece
        assert len(piece) == min(PIECE_NBYTES, len(content) - len(came))
        came += piece
    assert came == content
    assert saves.read(1, len(content)) == b""


def test_a_file_stays_as_it_was_while_newer_ones_take_its_place(saves: Saves, path: Path) -> None:
    ask(saves, 1)
    serve(saves, path)
    newer = path.with_name("newer")
    newer.write_bytes(b"newer")
    newer.replace(path)
    assert saves.read(1, 0) == CONTENT
    path.unlink()
    assert saves.read(1, 700) == CONTENT[700:]


@pytest.mark.parametrize("offset", [len(CONTENT) + 1, 1 << 62])
def test_beyond_its_end_nothing_is_read(saves: Saves, path: Path, offset: int) -> None:
    ask(saves, 1)
    serve(saves, path)
    with pytest.raises(HeaderError, match=f"at most {len(CONTENT)}, got {offset}"):
        saves.read(1, offset)


def test_what_nobody_has_asked_for_or_what_is_not_written_cannot_be_read(saves: Saves) -> None:
    ask(saves, 1)
    for number in (1, 2):
        with pytest.raises(HeaderError, match=f"no checkpoint {number} is here: ask for one"):
            saves.read(number, 0)


def test_too_many_at_the_same_time_are_refused(saves: Saves) -> None:
    for number in range(MOST):
        ask(saves, number)
    with pytest.raises(TooManyError, match=f"at most {MOST}"):
        ask(saves, MOST)
    assert ask(saves, 0) is None  # those before go on waiting


def test_one_that_was_read_to_its_end_makes_room_for_another(saves: Saves, path: Path) -> None:
    """Somebody who saves every few seconds never meets the limit."""
    for number in range(5 * MOST):
        assert ask(saves, number) is None
        serve(saves, path)
        assert saves.read(number, 0) == CONTENT
        assert saves.read(number, 0) == CONTENT  # its answer was lost
    assert times_open(path) == MOST


def test_one_that_nobody_reads_any_more_is_let_go(
    saves: Saves, path: Path, clock: StillClock
) -> None:
    for number in range(MOST):
        ask(saves, number)
    serve(saves, path)
    clock.skip(IDLE_S - 1)
    saves.read(3, 0)
    ask(saves, 4)
    clock.skip(2)
    assert ask(saves, 99) is None
    for number in range(MOST):
        if number in (3, 4):
            assert saves.read(number, 0) == CONTENT
        else:
            with pytest.raises(HeaderError):
                saves.read(number, 0)
    assert times_open(path) == 2


def test_why_there_is_no_file_is_told_once_to_each_who_waited(saves: Saves, path: Path) -> None:
    ask(saves, 1)
    serve(saves, path)
    ask(saves, 2)
    ask(saves, 3)
    saves.fail(
        saves.take_up(), LeashError("no checkpoint latest.safetensors: No space left on device")
    )
    assert not saves.awaited
    for number in (2, 3):
        with pytest.raises(NotReadyError, match=r"^save: no checkpoint .* No space left"):
            ask(saves, number)
    assert ask(saves, 1) == len(CONTENT)  # who has one keeps it
    assert ask(saves, 2) is None  # and who asks once more waits for the next one
    serve(saves, path)
    assert ask(saves, 2) == len(CONTENT)


def test_who_asks_where_there_is_nothing_to_write_does_not_wait(clock: StillClock) -> None:
    saves = Saves(clock)
    with pytest.raises(NotReadyError, match="no values yet"):
        saves.ask(1, has_values=False)
    with pytest.raises(HeaderError, match="no run directory"):
        Saves(clock, is_possible=False).ask(1, has_values=True)
    assert not saves.awaited


def test_all_files_are_closed_in_the_end(clock: StillClock, path: Path) -> None:
    saves = Saves(clock)
    ask(saves, 1)
    ask(saves, 2)
    serve(saves, path)
    assert times_open(path) == 2
    saves.close()
    assert times_open(path) == 0
