"""Shares a worker's memory with all shards of its server, if they are on its host."""

import os
from typing import Final

import zmq

from leash.ps.errors import ProtocolError, SegmentError
from leash.ps.wire.messages import Attach, Attached
from leash.worker.client.channel import Answer
from leash.worker.client.exchange import Exchange
from leash.worker.client.memory import SlabMemory

NOT_THE_SAME: Final = "the server sees other memory there than this process"


def attach_segment(
    exchange: Exchange, memory: SlabMemory, worker: int, incarnation: int
) -> str | None:
    """Asks every shard to map `memory`; returns why that is not possible, or None if it is done.

    That a shard tells the nonce which it has read proves it: no name of a host, no address.
    """
    if memory.fd is None:
        return memory.why_private
    nonces: list[str] = []

    def on_reply(reply: Answer, _: zmq.Frame | None) -> None:
        if not isinstance(reply, Attached):
            raise ProtocolError(f"unexpected {reply.verb}")
        nonces.append(reply.nonce)

    attach = Attach(worker, incarnation, os.getpid(), memory.fd, memory.nbytes)
    for channel in exchange.channels:
        channel.put([(attach, None)])
    try:
        exchange.finish(on_reply)
    except SegmentError as error:
        return str(error)
    if any(nonce != memory.nonce for nonce in nonces):
        return NOT_THE_SAME
    for channel in exchange.channels:
        channel.keep_attached(attach)
    return None
