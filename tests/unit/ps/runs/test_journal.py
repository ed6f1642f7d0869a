"""What a journal says, a later server knows: whatever was noted before it was killed."""

import json
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leash.ps.errors import UsageError
from leash.ps.policy import choose_rule
from leash.ps.runs.disk import THIS_HOST
from leash.ps.runs.journal import Journal, Remembered, begin_journal, read_journal
from leash.ps.runs.position import SharePosition, Trained

RULES = {
    "bsp": choose_rule("bsp", None),
    "ssp": choose_rule("ssp", 3),
    "in versions": choose_rule("ssp", 2, None, None, "versions"),
    "dssp": choose_rule("dssp", 1, 4),
    "backup": choose_rule("backup", None, None, 2),
    "drop": choose_rule("drop", None, None, None, "clocks", 5),
}


def opened(path: Path) -> Journal:
    return Journal(THIS_HOST.append(path))


def test_there_is_nothing_to_remember_where_there_is_no_journal(tmp_path: Path) -> None:
    assert read_journal(tmp_path / "journal.jsonl", THIS_HOST) == Remembered()


@pytest.mark.parametrize("name", RULES)
def test_all_that_was_noted_is_there_before_the_file_is_closed(tmp_path: Path, name: str) -> None:
    path = tmp_path / "journal.jsonl"
    for generation in (1, 2):
        journal = opened(path)
        journal.begin(generation)
        journal.joined(generation, 1000)
        journal.rule(RULES["ssp"])
        journal.rule(RULES[name])
        journal.force()
    journal.joined(4, 1002, place="gpu-3/0")
    journal.left(1, 1000, "done")
    journal.left(2, 1001, "evicted")
    journal.trained(Trained(5.2, 100, 800))
    journal.trained(Trained(10.2, 200, 1600))
    remembered = read_journal(path, THIS_HOST)
    states = {1: "done", 2: "evicted", 4: "live"}
    expected = Remembered(2, states, {4: "gpu-3/0"}, RULES[name])
    expected.trained, expected.was_set = Trained(10.2, 200, 1600), True
    assert remembered == expected
    assert remembered.done == [1]
    journal.close()


def test_a_rule_that_was_set_may_be_unknown_to_workers_until_they_go_on_with_another_server(
    tmp_path: Path,
) -> None:
    path = tmp_path / "journal.jsonl"
    journal = opened(path)
    journal.begin(1)
    journal.rule(RULES["bsp"])
    journal.begin(2)  # which died before its workers went on
    assert read_journal(path, THIS_HOST).was_set
    journal.begin(3)
    journal.healed(7, 0)
    assert not read_journal(path, THIS_HOST).was_set
    journal.close()


def test_a_later_process_of_a_rank_takes_the_place_of_an_earlier_one(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = opened(path)
    journal.left(1, 1000, "done")
    journal.joined(1, 1001)
    assert read_journal(path, THIS_HOST).done == []
    journal.close()


@given(kept=st.integers(0, 400))
def test_a_journal_that_was_cut_off_anywhere_tells_what_was_whole(
    tmp_path_factory: pytest.TempPathFactory, kept: int
) -> None:
    path = tmp_path_factory.mktemp("run") / "journal.jsonl"
    journal = opened(path)
    journal.begin(1)
    for worker in range(1, 6):
        journal.joined(worker, worker)
    journal.close()
    content = path.read_bytes()[:kept]
    path.write_bytes(content)
    whole = content.lstrip(b"\n").count(b"\n")
    remembered = read_journal(path, THIS_HOST)
    assert remembered.generation == min(whole, 1)
    assert sorted(remembered.states) == list(range(1, max(1, whole)))


@given(kept=st.integers(0, 400))
def test_a_server_goes_on_after_a_line_that_was_cut_off_and_so_does_the_next(
    tmp_path_factory: pytest.TempPathFactory, kept: int
) -> None:
    path = tmp_path_factory.mktemp("run") / "journal.jsonl"
    journal = opened(path)
    journal.begin(1)
    for worker in range(1, 6):
        journal.joined(worker, worker)
    journal.close()
    path.write_bytes(path.read_bytes()[:kept])
    before = read_journal(path, THIS_HOST).states
    for generation in (2, 3):
        journal = opened(path)
        journal.begin(generation)
        journal.joined(10 + generation, 1)
        journal.close()
        remembered = read_journal(path, THIS_HOST)
        assert remembered.generation == generation
        before = {**before, 10 + generation: "live"}
        # A line that lacked nothing but its end is whole once the next server has begun.
        assert before.items() <= remembered.states.items()
        assert len(remembered.states) <= len(before) + 1


@pytest.mark.parametrize(
    "line",
    [
        "{", "[]", "3", "{}", '{"what": "won"}', '{"what": "joined"}', '{"what": "joined", '
        '"worker": "x"}', '{"what": "rule", "set": ["bsp"]}', '{"what": "rule", "set": '
        '["none", 0, 0, 0, "clocks"]}', "\udcff",
    ],
)  # fmt: skip
def test_a_line_that_is_none_is_named_with_the_mend(tmp_path: Path, line: str) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(
        b'{"what": "generation", "number": 1}\n' + line.encode(errors="surrogateescape") + b"\n"
        b'{"what": "started"}\n'
    )
    with pytest.raises(UsageError, match=r"line 2: not a journal's: .*--fresh$"):
        read_journal(path, THIS_HOST)


class Full:
    """A file of a disk that is full at first. Implements leash.ps.runs.disk.ForcedFile."""

    def __init__(self) -> None:
        self.room = 0
        self.content = b""

    def write(self, piece: Any, /) -> int:
        if not self.room:
            raise OSError(28, "No space left on device")
        taken = bytes(piece)[: self.room]
        self.room -= len(taken)
        self.content += taken
        return len(taken)

    def flush(self) -> None:
        """Nothing stays behind."""

    force_soon = close = flush


def test_lines_wait_for_a_full_disk_and_are_whole_once_it_takes_them() -> None:
    file, heard = Full(), []  # type: Full, list[str | None]
    journal = Journal(file)
    journal.on_trouble = lambda error: heard.append(error.strerror if error else None)
    for worker in (1, 2, 3):
        journal.joined(worker, 1000)
    assert set(heard) == {"No space left on device"}
    for room in (10, 10**6):  # the first line in part
        file.room = room
        journal.force()
    assert heard[-1] is None
    assert [json.loads(line)["worker"] for line in file.content.splitlines()] == [1, 2, 3]


class FullDisk:
    """A disk with one journal, which takes so many bytes at each attempt to begin it."""

    def __init__(self, before: bytes, *rooms: int) -> None:
        self.file = Full()
        self.file.content = before
        self._rooms = iter(rooms)

    def exists(self, _: Path) -> bool:
        return True

    def open(self, _: Path) -> Any:
        content = self.file.content
        return SimpleNamespace(
            nbytes=len(content), read=lambda *_: content, close=lambda: None
        )  # fmt: skip

    def append(self, _: Path) -> Full:
        self.file.room = next(self._rooms)
        return self.file


@given(rooms=st.lists(st.integers(0, 80), max_size=6), cut_off=st.integers(0, 12))
def test_a_server_begins_once_the_disk_takes_its_first_line_however_little_it_took_before(
    rooms: list[int], cut_off: int
) -> None:
    before = b'\n{"what": "generation", "number": 1}\n{"what": "started"}\n'
    disk = FullDisk(before[: len(before) - cut_off], *rooms, 10**6)
    lines = b'{"what": "epoch", "worker": 1, "epoch": 2}\n' * 2
    memory = None
    while memory is None:
        with suppress(OSError):
            memory = begin_journal(Path("journal"), disk, lines)  # type: ignore[arg-type]
    assert memory.remembered.shares == {1: SharePosition(2, 0, 0)}
    disk.file.room = 10**6
    memory.journal.joined(4, 1000)
    after = read_journal(Path("journal"), disk)  # type: ignore[arg-type]
    assert after.generation == memory.remembered.generation + 1
    assert after.shares == {1: SharePosition(2, 0, 0)}
    assert after.states == {4: "live"}


def test_what_a_disk_has_not_taken_is_told_in_whole_lines() -> None:
    file = Full()
    journal = Journal(file)
    journal.joined(1, 1000)
    file.room = 10  # of the first line
    journal.joined(2, 1000)
    assert file.content
    assert [json.loads(line)["worker"] for line in journal.unwritten.splitlines()] == [1, 2]
    file.room = 10**6
    journal.force()
    assert journal.unwritten == b""


def test_without_a_file_nothing_is_noted() -> None:
    journal = Journal(None)
    journal.begin(1)
    journal.joined(1, 1)
    journal.force()
    journal.close()


def test_where_shares_go_on_from_a_checkpoint_what_was_reported_after_it_is_forgotten(
    tmp_path: Path,
) -> None:
    path = tmp_path / "journal.jsonl"
    journal = opened(path)
    journal.begin(1)
    journal.plan(1, 100, 4)
    journal.epoch(1, 3)
    assert read_journal(path, THIS_HOST).shares == {1: SharePosition(3, 0, 100)}
    journal.shares_at({1: SharePosition(1, 40, 100)})
    journal.close()
    remembered = read_journal(path, THIS_HOST)
    assert remembered.shares == {1: SharePosition(1, 40, 100)}
    assert remembered.planned == {1: 4}


def test_a_server_waits_for_who_took_part_or_else_for_those_that_had_to(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = opened(path)
    journal.begin(1)
    for rank in (1, 2, 3):
        journal.joined(rank, 1000 + rank)
    journal.left(2, 1002, "evicted")
    journal.left(3, 1003, "done")
    assert read_journal(path, THIS_HOST).awaited == [1]
    journal.left(1, 1001, "evicted")
    journal.close()
    assert read_journal(path, THIS_HOST).awaited == [1, 2]
