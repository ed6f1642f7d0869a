"""The systems and limits that are compared, as tables."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final

from leash.bench.harness.crew import Join
from leash.bench.harness.trial import Trial
from leash.bench.systems import gloo, leash, limits, ray, rpc, zmq_echo


@dataclass(frozen=True, slots=True)
class System:
    """A system that is compared: how it serves, and how a worker joins."""

    serve: Callable[[Trial], AbstractContextManager[str]]  # gives the address at which workers join
    join: Join  # runs in a worker's process
    needs: str = ""  # the package that it needs
    is_leash: bool = False  # whether it has transports, codecs and shards
    codecs: str = ""  # that are measured by default, instead of all
    only_one: bool = False  # whether it takes one worker only


SYSTEMS: Final = {
    "leash": System(leash.serve, leash.join, is_leash=True),
    "leash_keys": System(leash.serve_keyed, leash.join_keyed, is_leash=True, codecs="f32"),
    "gloo": System(gloo.serve, gloo.join, needs="torch"),
    "rpc": System(rpc.serve, rpc.join, needs="torch"),
    "ray": System(ray.serve, ray.join, needs="ray"),
    "zmq_echo": System(zmq_echo.serve, zmq_echo.join),
}
LIMITS: Final = {
    "memcpy": System(limits.nobody, limits.memcpy, only_one=True),
    "fused_sgd": System(limits.nobody, limits.fused_sgd, only_one=True),
    "tcp_one_way": System(limits.serve_tcp, limits.tcp_one_way, only_one=True),
}
