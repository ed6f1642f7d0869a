"""Writes what happens in a simulated run: one line for each event.

::

      0.012345  worker 3  ▸ 1  push_pull step 4 chunk 1 samples 3 +128    goes to shard 1, 128 bytes
      0.013345  server         partition[0] at 0.013345 s: 2 (1, 0, 0.5)   a fault
      0.014345  worker 3  ◂ 1  params step 4 chunk 1 version 7 +128        has arrived from there
"""

from typing import Any, Final

import msgpack

from simulation.machines.network import Frames

LEFT_OUT: Final = (
    "v", "t", "worker", "incarnation", "settings", "name", "codecs", "data_ports", "pid", "fd",
)  # fmt: skip


class Trace:
    """The lines of one run."""

    def __init__(self) -> None:
        self.lines: Final[list[str]] = []
        self.now_s = 0.0

    def tell(self, now_s: float, who: str, text: str) -> None:
        """Adds a line."""
        self.lines.append(f"{now_s:10.6f}  {who:9s}  {text}")

    def message(self, now_s: float, who: str, arrow: str, port: str, frames: Frames) -> None:
        """Adds the line of a message that is sent or arrives."""
        nbytes = sum(map(len, frames[1:]))
        payload = f" +{nbytes}" if len(frames) > 1 else ""
        self.tell(now_s, who, f"{arrow} {port:7s} {described(frames[0])}{payload}")


def described(header: bytes) -> str:
    """A header in words."""
    try:
        fields: dict[str, Any] = msgpack.unpackb(header)
        told = [f"{name} {value}" for name, value in fields.items() if name not in LEFT_OUT]
        return " ".join([str(fields["t"]), *told])
    except Exception:
        return f"not a header: {header[:24].hex()}"
