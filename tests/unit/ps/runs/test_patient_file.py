"""Lines wait in memory while their disk is full, and what is lost is counted and told."""

from pathlib import Path

from leash.ps.runs.unwritten import BUFFER_NBYTES, LINES_AGAIN_S, WAITING_NBYTES, PatientFile
from support.sockless import StillClock, TightDisk


class Log:
    """A file of such a disk, and what it tells."""

    def __init__(self, path: Path, disk: TightDisk) -> None:
        self.path, self.disk, self.clock = path, disk, StillClock()
        self.troubles: list[str] = []
        self.file = PatientFile(
            path, disk, self.clock,
            lambda _, error: self.troubles.append(error.strerror if error else "over"),
            lambda lost: f"{lost} lost\n".encode(),
        )  # fmt: skip

    @property
    def lines(self) -> list[str]:
        return self.path.read_text("utf-8").splitlines()


def test_lines_wait_until_there_is_room_and_then_are_all_there(tmp_path: Path) -> None:
    log = Log(tmp_path / "log", TightDisk(room=7))
    for number in range(5):
        log.file.write(f"line {number}\n".encode())
    log.file.flush()
    assert log.path.read_bytes() == b"line 0\n"
    assert (log.troubles, log.file.missing) == (["No space left on device"], 5)
    log.disk.room = None
    log.file.flush()
    assert log.file.missing == 5  # not yet: it tries once a second
    log.clock.skip(LINES_AGAIN_S)
    log.file.flush()
    assert log.lines == [f"line {number}" for number in range(5)]
    assert (log.troubles[1:], log.file.missing, log.file.lost) == (["over"], 0, 0)
    log.file.close()


def test_a_line_that_was_written_in_part_is_completed(tmp_path: Path) -> None:
    log = Log(tmp_path / "log", TightDisk(room=3))
    log.file.write(b"first\n")
    log.file.flush()
    log.file.write(b"second\n")
    assert log.path.read_bytes() == b"fir"
    log.disk.room = None
    log.file.close()
    assert log.lines == ["first", "second"]


def test_what_does_not_fit_into_memory_is_counted_where_it_is_missing(tmp_path: Path) -> None:
    log = Log(tmp_path / "log", TightDisk(room=0))
    line = b"x" * 1023 + b"\n"
    fitting = WAITING_NBYTES // len(line)
    for _ in range(fitting + 5):
        log.file.write(line)
    assert (log.file.lost, log.file.missing) == (5, fitting + 5)
    log.disk.room = None
    log.clock.skip(LINES_AGAIN_S)
    log.file.write(b"after\n")
    log.file.close()
    assert log.lines[-2:] == ["5 lost", "after"]
    assert len(log.lines) == fitting + 2
    assert log.file.lost == 5
    assert log.troubles == ["No space left on device", "over"]


def test_what_waits_at_the_end_is_lost(tmp_path: Path) -> None:
    log = Log(tmp_path / "log", TightDisk(room=0))
    log.file.write(b"a\n")
    log.file.write(b"b\n")
    log.file.close()
    assert (log.file.lost, log.file.missing) == (2, 2)


def test_a_file_that_cannot_even_be_made_is_made_later(tmp_path: Path) -> None:
    disk = TightDisk()
    disk.can_create = False
    log = Log(tmp_path / "log", disk)
    log.file.write(b"a\n")
    assert log.troubles == ["Read-only file system"]
    disk.can_create = True
    log.clock.skip(LINES_AGAIN_S)
    log.file.flush()
    assert log.lines == ["a"]
    log.file.close()


def test_lines_are_collected_before_they_are_written(tmp_path: Path) -> None:
    log = Log(tmp_path / "log", TightDisk())
    line = b"y" * 99 + b"\n"
    for _ in range(BUFFER_NBYTES // len(line)):
        log.file.write(line)
    assert log.path.read_bytes() == b""
    log.file.write(line)
    assert len(log.path.read_bytes()) == (BUFFER_NBYTES // len(line) + 1) * len(line)
    log.file.close()
