"""Messages that a shard has to refuse: what a broken or hostile program might send."""

from typing import Any, Final

import msgpack

from leash.ps.wire.frames import encode
from leash.ps.wire.messages import PushPull
from simulation.machines.network import Frames

Header = dict[str, Any]


def _changed(**fields: Any) -> Any:
    return lambda header, number: {**header, **fields}


def _without(name: str) -> Any:
    return lambda header, number: {key: value for key, value in header.items() if key != name}


# Each takes the header of an honest push_pull, and a random number from 0 to 1.
CHANGES: Final = (
    _changed(v=2),
    _changed(t="pull_push"),
    _changed(t="beat"),
    _changed(chunk=77),
    _changed(chunk=-1),
    _changed(chunk="0"),
    _changed(codec="f128"),
    _changed(codec="int8"),
    _changed(worker=0),
    _changed(worker=99),
    _changed(worker=1.0),
    _changed(samples=-1),
    _changed(samples=1 << 32),
    _changed(samples=True),
    _changed(chunks=0),
    _changed(chunks=3),
    _changed(slab=1),
    _changed(slab=2),
    _changed(nbytes=8),
    _changed(table=3),
    _changed(absent=b"\xff"),
    _changed(more=1),
    _without("worker"),
    _without("step"),
    _without("codec"),
    _without("samples"),
    lambda header, number: {**header, "incarnation": header["incarnation"] + 1},
    lambda header, number: {**header, "incarnation": header["incarnation"] - 1},
    lambda header, number: {**header, "step": header["step"] + 2 + int(8 * number)},
    lambda header, number: {**header, "step": 1 << 63},
)


def strange_message(honest: PushPull, payload_nbytes: int, choice: float, number: float) -> Frames:
    """Makes a message that is to be refused.

    Args:
        honest: a push with a payload, which would be taken.
        payload_nbytes: the size that its payload would have.
        choice: which message, from 0 to 1.
        number: for what the message leaves open, from 0 to 1.
    """
    payload = b"\x01" * payload_nbytes
    packed = encode(honest)
    header: Header = msgpack.unpackb(packed)
    place = int(choice * (len(CHANGES) + 4))
    if place < len(CHANGES):
        return [msgpack.packb(CHANGES[place](header, number)), payload]
    match place - len(CHANGES):
        case 0:
            return [packed, payload[:-1]]
        case 1:
            return [packed, payload, payload]
        case 2:
            return [packed[: int(number * len(packed))], payload]
        case _:
            return [packed + b"\xc0", payload]
