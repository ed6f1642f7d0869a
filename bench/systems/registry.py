"""The systems and limits that are compared, as tables."""

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final

from leash._extras import is_installed
from leash.bench.harness.crew import Join
from leash.bench.harness.trial import Trial
from leash.bench.systems import ddp, gloo, lane_echo, leash, limits, ray, rpc, zmq_echo
from leash.ps.wire.sockets import host_and_port, why_plain


@dataclass(frozen=True, slots=True)
class System:
    """A system that is compared: how it serves, and how a worker joins."""

    serve: Callable[[Trial], AbstractContextManager[str]]  # gives the address at which workers join
    join: Join  # runs in a worker's process
    needs: str = ""  # the package that it needs
    has_lane: bool = False  # whether it needs the functions of libzmq
    is_leash: bool = False  # whether it has transports, codecs and shards
    # The server's TCP ports, all of which a worker looks for at the host that it is told, so that a
    # relay may stand between them. None where processes tell one another, or use no TCP.
    ports: Callable[[str], list[int]] | None = None
    has_daemons: bool = False  # whether it starts programs that are not for callgrind to follow
    codecs: str = ""  # that are measured by default, instead of all
    fewest: int = 1  # workers that it takes
    most: int = sys.maxsize
    all_at_once: bool = False  # whether a worker's exchange ends only with those of all others

    def why_missing(self) -> str | None:
        """Why it cannot be measured here; None if it can."""
        if self.needs and not is_installed(self.needs):
            return f"{self.needs} is not installed: pip install {self.needs}"
        return why_plain() if self.has_lane else None

    def takes(self, workers: int) -> bool:
        """Whether it can be measured with so many workers."""
        return self.fewest <= workers <= self.most


def _one_port(address: str) -> list[int]:
    return [host_and_port(address)[1]]


SYSTEMS: Final = {
    "leash": System(leash.serve, leash.join, is_leash=True, ports=leash.ports),
    "leash_keys": System(
        leash.serve_keyed, leash.join_keyed, is_leash=True, ports=leash.ports_keyed, codecs="f32"
    ),
    "gloo": System(gloo.serve, gloo.join, needs="torch"),
    "ddp": System(ddp.meet, ddp.join, needs="torch", fewest=2, all_at_once=True),
    "rpc": System(rpc.serve, rpc.join, needs="torch"),
    "ray": System(ray.serve, ray.join, needs="ray", has_daemons=True),
    "lane_echo": System(lane_echo.serve, lane_echo.join, has_lane=True, ports=_one_port),
    "zmq_echo": System(zmq_echo.serve, zmq_echo.join, ports=_one_port),
}
LIMITS: Final = {
    "memcpy": System(limits.nobody, limits.memcpy, most=1),
    "fused_sgd": System(limits.nobody, limits.fused_sgd, most=1),
    "tcp_one_way": System(limits.serve_tcp, limits.tcp_one_way, most=1, ports=_one_port),
}
