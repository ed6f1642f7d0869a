"""Has a server write a checkpoint, and brings it to this machine, whole or not at all."""

import os
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from leash.ps.errors import CheckpointError, LeashError, ServerUnreachableError, UsageError
from leash.ps.runs.checkpoint import check_checkpoint
from leash.ps.runs.checkpoint_file import unfinished
from leash.ps.wire.control import ControlChannel
from leash.ps.wire.messages import U63_MAX, CheckpointPiece, Read, Save, Saved

ASK_AGAIN_S: Final = 0.05  # between two questions whether the checkpoint is written
WRITTEN_S: Final = 600.0  # a server may take so long to come to the end of a step, and to write
SILENCE_S: Final = 60.0  # it may be silent for so long, as while it writes


def download_checkpoint(
    channel: ControlChannel,
    path: Path,
    *,
    on_piece: Callable[[int, int], None] = lambda _, __: None,
    pause: Callable[[float], None] = time.sleep,
    now: Callable[[], float] = time.monotonic,
    draw: Callable[[int], int] = secrets.randbelow,
) -> dict[str, str]:
    """Asks for a checkpoint of the run as it is now, and writes it to `path`, atomically.

    Args:
        channel: to the server.
        path: of the file to write; an older one is replaced.
        on_piece: called after each piece with the bytes that have come, and their number in all.
        pause: waits so many seconds before the server is asked again.
        now: seconds on a clock that never goes back.
        draw: a random number from 0 up to one below its argument.

    Returns:
        The metadata of the checkpoint.

    Raises:
        UsageError: `path` is a folder, or lies in one that cannot be made.
        NotReadyError: the model has no values yet, or the server could not write its file.
        CheckpointError: what came is not what the server has written.
        LeashError: the server is gone, or the file cannot be written here.
    """
    if path.is_dir():
        raise UsageError(f"{path}: this is a folder; give the name of a file, such as "
                         f"{path / 'checkpoint.safetensors'}")  # fmt: skip
    _make_parent(path)
    try:
        with unfinished(path).open("wb") as file:
            number, nbytes = _have_written(channel, pause, now, draw)
            offset = 0
            while offset < nbytes:
                piece, payload = channel.request(
                    Read(number, offset), CheckpointPiece, timeout_s=SILENCE_S
                )
                if piece.number != number or piece.offset != offset or not payload:
                    raise CheckpointError(f"{path}: the server sent another piece than {offset}")
                file.write(payload)
                offset += len(payload)
                on_piece(offset, nbytes)
            file.flush()
            os.fsync(file.fileno())
        metadata = check_checkpoint(unfinished(path))
        unfinished(path).replace(path)
    except OSError as error:
        raise LeashError(f"{path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):  # where nothing can be written, there may be nothing to unlink
            unfinished(path).unlink(missing_ok=True)
    return metadata


def _make_parent(path: Path) -> None:
    """Makes the folder in which a file is to lie. Raises UsageError if that cannot be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{path}: cannot make its folder: {error.strerror}") from error


def _have_written(
    channel: ControlChannel,
    pause: Callable[[float], None],
    now: Callable[[], float],
    draw: Callable[[int], int],
) -> tuple[int, int]:
    """Has the server write a checkpoint; gives the number to read it by, and its size in bytes."""
    number, began_s = 1 + draw(U63_MAX), now()
    while True:
        saved, _ = channel.request(Save(number), Saved, timeout_s=SILENCE_S)
        if saved.ready:
            return number, saved.nbytes
        if now() - began_s > WRITTEN_S:
            raise ServerUnreachableError(
                f"the server has written no checkpoint for {WRITTEN_S:.0f} s: its workers do not "
                "come to the end of a step"
            )
        pause(ASK_AGAIN_S)
