"""A checkpoint that a server writes and sends: whole at its place, or not there at all."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from leash.ps.errors import (
    CheckpointError,
    HeaderError,
    LeashError,
    NotReadyError,
    ServerUnreachableError,
    UsageError,
)
from leash.ps.options.server import ServerOptions
from leash.ps.policy import choose_rule
from leash.ps.runs.checkpoint import save_checkpoint
from leash.ps.runs.download import ASK_AGAIN_S, download_checkpoint
from leash.ps.runs.position import Position
from leash.ps.shard.model import ServedModel
from leash.ps.wire.layout import Layout, Slot
from leash.ps.wire.messages import CheckpointPiece, Message, Read, Save, Saved

BEFORE = b"what was there before"


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A whole checkpoint."""
    layout, options = Layout([Slot("w", "f32", (300,))]), ServerOptions(chunk_kib=64)
    model = ServedModel(layout, options.chunk_nbytes, options, choose_rule("asp", None))
    model.shard.init(0, np.arange(300, dtype=np.float32).tobytes())
    path = tmp_path_factory.mktemp("whole") / "m.safetensors"
    save_checkpoint(model, path, Position(5, 2))
    return path.read_bytes()


class FakeChannel:
    """A server that is asked a few times before its file is written, and sends it in pieces."""

    def __init__(self, content: bytes, *, asked: int = 3, piece_nbytes: int = 500) -> None:
        self.content = content
        self.asked = asked
        self.piece_nbytes = piece_nbytes
        self.numbers: set[int] = set()
        self.answer: Callable[
            [Read, CheckpointPiece, bytes], tuple[CheckpointPiece, bytes | None]
        ] = lambda read, piece, payload: (piece, payload)

    def request(self, message: Message, expected: type[Message], **_: Any) -> Any:
        assert isinstance(message, (Save, Read))
        self.numbers.add(message.number)
        if isinstance(message, Save):
            assert expected is Saved
            self.asked -= 1
            ready = self.asked <= 0
            return Saved(message.number, ready, len(self.content) if ready else 0), None
        assert expected is CheckpointPiece
        payload = self.content[message.offset : message.offset + self.piece_nbytes]
        return self.answer(message, CheckpointPiece(message.number, message.offset), payload)


def download(channel: FakeChannel, path: Path, **more: Any) -> dict[str, str]:
    plain = {"pause": lambda _: None, **more}
    return download_checkpoint(channel, path, **plain)  # type: ignore[arg-type]


@pytest.mark.parametrize("piece_nbytes", [1, 499, 500, 1 << 18])
def test_what_the_server_has_written_is_at_its_place_byte_by_byte(
    content: bytes, tmp_path: Path, piece_nbytes: int
) -> None:
    channel, path = FakeChannel(content, piece_nbytes=piece_nbytes), tmp_path / "deep" / "m"
    metadata = download(channel, path)
    assert path.read_bytes() == content
    assert [file.name for file in path.parent.iterdir()] == ["m"]
    assert Position.from_json(metadata["position"]) == Position(5, 2)
    assert len(channel.numbers) == 1  # all requests are about the same one
    assert min(channel.numbers) > 0


def test_an_older_file_is_replaced(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(BEFORE)
    download(FakeChannel(content), path)
    assert path.read_bytes() == content


def test_two_downloads_are_two_checkpoints(content: bytes, tmp_path: Path) -> None:
    channel = FakeChannel(content)
    for _ in range(2):
        download(channel, tmp_path / "m.safetensors")
    assert len(channel.numbers) == 2


def test_whoever_waits_asks_again_and_then_sees_how_much_has_come(
    content: bytes, tmp_path: Path
) -> None:
    paused: list[float] = []
    came: list[tuple[int, int]] = []
    download(
        FakeChannel(content, asked=4), tmp_path / "m", pause=paused.append,
        on_piece=lambda *so_far: came.append(so_far),
    )  # fmt: skip
    assert paused == [ASK_AGAIN_S] * 3
    ends = [*range(500, len(content), 500), len(content)]
    assert came == [(end, len(content)) for end in ends]


def refuse(error: BaseException) -> Callable[..., Any]:
    def answer(*_: object, **__: object) -> None:
        raise error

    return answer


WRONG: dict[str, Callable[[Read, CheckpointPiece, bytes], tuple[CheckpointPiece, bytes | None]]] = {
    "of another checkpoint": lambda _, p, payload: (
        CheckpointPiece(p.number + 1, p.offset),
        payload,
    ),
    "from another place": lambda _, p, payload: (CheckpointPiece(p.number, p.offset + 1), payload),
    "empty": lambda _, p, __: (p, b""),
    "without bytes": lambda _, p, __: (p, None),
}


def assert_unchanged(folder: Path) -> None:
    """The file of before is there, and nothing beside it."""
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == {"m": BEFORE}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
def test_a_piece_that_was_not_asked_for_leaves_the_file_of_before(
    content: bytes, tmp_path: Path, wrong: Any
) -> None:
    path, channel = tmp_path / "m", FakeChannel(content)
    path.write_bytes(BEFORE)
    channel.answer = lambda r, p, payload: (wrong if r.offset == 500 else _as_asked)(r, p, payload)
    with pytest.raises(CheckpointError, match="another piece than 500"):
        download(channel, path)
    assert_unchanged(tmp_path)


def _as_asked(_: Read, piece: CheckpointPiece, payload: bytes) -> tuple[CheckpointPiece, bytes]:
    return piece, payload


@pytest.mark.parametrize("place", [0, 8, 300, 1000, -1])
def test_what_was_damaged_on_the_way_leaves_the_file_of_before(
    content: bytes, tmp_path: Path, place: int
) -> None:
    path, damaged = tmp_path / "m", bytearray(content)
    path.write_bytes(BEFORE)
    damaged[place] ^= 1
    with pytest.raises(CheckpointError) as raised:
        download(FakeChannel(bytes(damaged)), path)
    assert "\n" not in str(raised.value)
    assert_unchanged(tmp_path)


@pytest.mark.parametrize(
    "error",
    [
        HeaderError("read.number: no checkpoint 3 is here"), ServerUnreachableError("gone"),
        NotReadyError("no values yet"), KeyboardInterrupt(),
    ],
)  # fmt: skip
@pytest.mark.parametrize("what", ["save", "read"])
def test_whatever_breaks_it_off_leaves_the_file_of_before(
    content: bytes, tmp_path: Path, error: BaseException, what: str
) -> None:
    path, channel = tmp_path / "m", FakeChannel(content)
    path.write_bytes(BEFORE)
    if what == "read":
        channel.answer = refuse(error)
    else:
        channel.request = refuse(error)  # type: ignore[method-assign]
    with pytest.raises(type(error)) as raised:
        download(channel, path)
    assert raised.value is error
    assert_unchanged(tmp_path)


def test_a_folder_is_named_and_a_file_in_it_is_proposed(content: bytes, tmp_path: Path) -> None:
    channel = FakeChannel(content)
    with pytest.raises(UsageError) as raised:
        download(channel, tmp_path)
    assert str(raised.value) == (
        f"{tmp_path}: this is a folder; give the name of a file, such as "
        f"{tmp_path / 'checkpoint.safetensors'}"
    )
    assert not channel.numbers  # the server was not troubled


def test_a_folder_that_cannot_be_made_is_a_wrong_argument_and_nothing_is_asked_of_the_server(
    content: bytes, tmp_path: Path
) -> None:
    (tmp_path / "m").write_bytes(BEFORE)
    channel = FakeChannel(content)
    with pytest.raises(UsageError, match=r"m/inside: cannot make its folder: File exists$"):
        download(channel, tmp_path / "m" / "inside")
    assert not channel.numbers
    assert_unchanged(tmp_path)


def test_a_disk_that_is_full_is_one_line_and_leaves_the_file_of_before(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m"
    path.write_bytes(BEFORE)

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(LeashError) as raised:
        download(FakeChannel(content), path)
    assert str(raised.value) == f"{path}: No space left on device"
    assert_unchanged(tmp_path)


def test_a_server_that_never_comes_to_write_is_given_up(content: bytes, tmp_path: Path) -> None:
    now_s = 0.0

    def pass_a_minute(_: float) -> None:
        nonlocal now_s
        now_s += 60

    channel = FakeChannel(content, asked=1 << 30)
    with pytest.raises(ServerUnreachableError, match="no checkpoint for 600 s"):
        download(channel, tmp_path / "m", pause=pass_a_minute, now=lambda: now_s)
    assert list(tmp_path.iterdir()) == []
