"""Messages that a server has to refuse: what a broken or hostile program might send."""

from dataclasses import replace
from typing import Any, Final

import msgpack

from leash.ps.wire.frames import encode
from leash.ps.wire.layout import Chunk, Layout, Slot
from leash.ps.wire.messages import (
    Attach,
    Beat,
    Beaten,
    Bye,
    Dismiss,
    GroupOptions,
    Hello,
    Init,
    Lease,
    Message,
    Offer,
    Publish,
    Pull,
    Push,
    PushPull,
    Read,
    Remember,
    Report,
    Save,
    Set,
    Status,
    Stop,
)
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


def strange_request(
    layout: Layout, worker: int, incarnation: int, choice: float, number: float
) -> Frames:
    """Makes a message that the control socket has to refuse.

    Args:
        layout: of the run's model.
        worker: a live rank.
        incarnation: of its process.
        choice: which message, from 0 to 1.
        number: for what the message leaves open, from 0 to 1.
    """
    far = incarnation + 1 + int(1000 * number)
    other = Layout([Slot("other", "f32", (3,))])
    lease = Lease(worker, incarnation, 1 << 40, 5, 1, 1, 0.0)
    report = Report(worker, incarnation, "evaluation", 1, 1, 1, 0.0, 0.0, 0.0, 0.0)
    requests: tuple[tuple[Message, bytes | None], ...] = (
        (Beat(worker, far), None),
        (Beat(worker, incarnation - 1), None),
        (Beat(99, incarnation), None),
        (Beat(0, incarnation), None),
        (lease, None),
        (replace(lease, number=0), None),
        (replace(lease, incarnation=far), None),
        (replace(lease, worker=0), None),
        (report, None),
        (replace(report, kind="gossip"), None),
        (replace(report, kind="epoch", incarnation=far), None),
        (Bye(worker, incarnation, "bored"), None),
        (Bye(worker, far, "done"), None),
        (Bye(99, incarnation, "done"), None),
        (Set("anarchy"), None),
        (Set("ssp"), None),
        (Set("bsp", staleness=3, staleness_max=1), None),
        (Set("backup", backup_workers=64), None),
        (Hello("king", worker, "stranger"), layout.pack()),
        (Hello("worker", 99, "stranger"), layout.pack()),
        (Hello("worker", 0, "stranger"), layout.pack()),
        (Hello("worker", worker, "stranger"), None),
        (Hello("worker", worker, "stranger"), other.pack()),
        (Hello("worker", worker, "stranger"), b"\xc1"),
        (Hello("worker", worker, "stranger", ["morse"]), layout.pack()),
        (PushPull(worker, incarnation, 1, 0, "f32", 1), b"\1" * 8),
        (Beaten(True, [], False, True, 0, False, ""), None),
        (Status(), b"what for"),
    )  # fmt: skip
    message, payload = requests[int(choice * len(requests))]
    return [encode(message)] if payload is None else [encode(message), payload]


def request_in_the_name_of(
    layout: Layout, worker: int, incarnation: int, choice: float, number: float
) -> tuple[Header, Frames]:
    """Makes a control message that would be honoured if its sender were the one to send it.

    Args:
        layout: of the run's model.
        worker: a rank.
        incarnation: of its process.
        choice: which message, from 0 to 1.
        number: for what the message leaves open, from 0 to 1.

    Returns:
        Its header, and its frames.
    """
    drawn = 1 + int(1e9 * number)
    requests: tuple[tuple[Message, bytes | None], ...] = (
        (Beat(worker, incarnation, "waiting"), None),
        (Lease(worker, incarnation, 1, 5, 1, 1, 0.0), None),
        (Report(worker, incarnation, "training", 1, 1, 1, 0.0, 0.0, 0.0, 0.0), None),
        (Bye(worker, incarnation, "done"), None),
        (Bye(worker, incarnation, "failed"), None),
        (Remember(worker, incarnation, 0, 0, 0, 0), None),
        (Hello("worker", worker, "another", number=drawn), layout.pack()),
        (Set("asp"), None),
        (Save(drawn), None),
        (Read(drawn, 0), None),
        (Stop("a stranger"), None),
        (Dismiss(worker), None),
        (Status(), None),
    )  # fmt: skip
    return _packed(*requests[int(choice * len(requests))])


def push_in_the_name_of(
    worker: int, incarnation: int, step: int, chunk: Chunk, choice: float
) -> tuple[Header, Frames]:
    """Makes a data message that would be honoured if its sender were the one to send it.

    Args:
        worker: a rank.
        incarnation: of its process.
        step: its next one.
        chunk: that it is about.
        choice: which message, from 0 to 1.

    Returns:
        Its header, and its frames.
    """
    values, nonce = b"\x01" * chunk.nbytes, "00" * 16
    table = msgpack.packb({"groups": [], "group_of_slot": b""})
    requests: tuple[tuple[Message, bytes | None], ...] = (
        (PushPull(worker, incarnation, step, chunk.index, chunk.dtype, 1), values),
        (PushPull(0, incarnation, step, chunk.index, chunk.dtype, 1), values),
        (Push(worker, incarnation, step, chunk.index, chunk.dtype, 1), values),
        (Pull(worker, incarnation, chunk.index, chunk.dtype), None),
        (Init(worker, incarnation, chunk.index, chunk.dtype), values),
        (Publish(worker, incarnation, 1 << 40, chunk.index, chunk.dtype), values),
        (Offer(worker, incarnation, chunk.index, chunk.dtype, 1, 1, 1), values),
        (Attach(worker, incarnation, 1, 0, 4096, nonce, 1 << 40), None),
        (GroupOptions(worker, incarnation, 1 << 40), table),
    )
    return _packed(*requests[int(choice * len(requests))])


def _packed(message: Message, payload: bytes | None) -> tuple[Header, Frames]:
    header = encode(message)
    return msgpack.unpackb(header), [header] if payload is None else [header, payload]


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
