"""What a launcher, a follower and a keeper say to one another, and the files that they share.

::

    launcher ▸ follower   a line of JSON, a `Request`; then lines: `NUMBER SIGNAL` for the keeper,
                          an empty one, by which both see that the launcher is there, or `done`
    follower ▸ launcher   `leash-follower` in a line of its own; then `out N` with N bytes behind
                          it, of the worker's log, and at last `end STATUS`
    follower ▸ keeper     the launcher's lines
    keeper ▸ follower     a byte for each time that the log has grown; its end, if the worker has
                          ended

    FOLDER/               on the host, in its directory for temporary files; 0700
      log                 what the worker prints
      key                 of the worker, until it ends; 0600
      socket              where the keeper listens
      status              the worker's exit status, once it has ended
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

FOLLOWER_MODULE: Final = "leash.ps.hosts.follower"
FOLLOWER: Final = b"leash-follower\n"  # what comes before it a login has printed
DONE_WORD: Final = b"done"  # the launcher has all; the folder may go
OUT_WORD: Final = b"out"
END_WORD: Final = b"end"
READ_NBYTES: Final = 1 << 16  # at once
MAX_LINE_NBYTES: Final = 1 << 16
MAX_OUT_NBYTES: Final = 1 << 18
KILLED: Final = -9  # the status of a worker that has ended without a word
PRESENT_S: Final = 10.0  # a launcher that follows says so this often

LOG_NAME: Final = "log"
KEY: Final = "key"
SOCKET: Final = "socket"
STATUS: Final = "status"


@dataclass(frozen=True, slots=True)
class WorkerStart:
    """What a host has to know to start a worker."""

    words: list[str]  # of `leash worker`, or of a script
    is_script: bool
    directory: str  # where it begins, as a portable path
    threads: int
    variables: dict[str, str]  # to add to its environment
    server: str  # tcp://HOST:PORT
    patience_s: float
    grace_s: float
    key: str | None = field(default=None, repr=False)  # the text of its file

    def to_json(self) -> str:
        """Writes it as the one line that a keeper reads."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> "WorkerStart":
        """Reads what `to_json` has written."""
        return cls(**json.loads(line))


@dataclass(frozen=True, slots=True)
class Request:
    """The first line of a launcher to a follower."""

    folder: str  # its name in the host's directory for temporary files
    begin: int  # the first byte of the log to send
    start: WorkerStart | None  # None for a worker that was started before

    def to_line(self) -> bytes:
        """Writes it as a line."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> "Request":
        """Reads what `to_line` has written."""
        fields: dict[str, Any] = json.loads(line)
        start = fields.pop("start")
        return cls(**fields, start=None if start is None else WorkerStart(**start))


def status_in(folder: Path) -> int:
    """The exit status of a worker that has ended; KILLED if its keeper could not write it."""
    try:
        return int((folder / STATUS).read_text())
    except (OSError, ValueError):
        return KILLED
