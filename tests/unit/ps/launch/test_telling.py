import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from leash.ps.launch.telling import TellingScreen

Pipe = tuple[int, int]


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    yield reader, writer
    for fd in (reader, writer):
        os.close(fd)


def state(steps: int, room: int = 0) -> dict[str, Any]:
    return {"started": False, "missing": [1], "steps": steps, "nan": float("nan"), "x": "x" * room}


def told(reader: int) -> list[dict[str, Any]]:
    data = b""
    try:
        while piece := os.read(reader, 1 << 20):
            data += piece
    except BlockingIOError:
        pass
    return [json.loads(line) for line in data.splitlines()]


def make_screen(pipe: Pipe) -> TellingScreen:
    return TellingScreen(Console(file=io.StringIO()), pipe[1], Path("runs/one"))


def test_a_program_hears_where_the_files_are_and_how_the_run_stands(pipe: Pipe) -> None:
    screen = make_screen(pipe)
    screen.show(state(3))
    place, shown = told(pipe[0])
    assert place == {"run_dir": "runs/one"}
    assert (shown["state"]["steps"], shown["state"]["nan"]) == (3, None)


def test_one_that_does_not_read_misses_states_and_gets_whole_ones_later(pipe: Pipe) -> None:
    screen = make_screen(pipe)
    for steps in range(10):
        screen.show(state(steps, room=30_000))
    with pytest.raises(json.JSONDecodeError):
        told(pipe[0])  # its last line is not whole
    screen.show(state(99))
    rest = b""
    while not rest.endswith(b"\n"):
        rest += os.read(pipe[0], 1 << 20)
    assert json.loads(rest.splitlines()[-1])["state"]["steps"] == 99


def test_one_that_has_gone_ends_nothing() -> None:
    reader, writer = os.pipe()
    screen = make_screen((reader, writer))
    os.close(reader)
    screen.show(state(1))
    os.close(writer)
