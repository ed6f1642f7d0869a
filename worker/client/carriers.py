"""What ties a client to its machine: its sockets and threads, its seat, and who tells it to go."""

import os
from collections.abc import Sequence
from typing import Final

import zmq

from leash._log import Say
from leash.ps._core import StepEngine
from leash.ps.options.addresses import split_address
from leash.ps.wire.control import ControlChannel
from leash.ps.wire.keys import ClientKey
from leash.ps.wire.layout import Chunk
from leash.worker.client.control.departure import Departure
from leash.worker.client.control.doing import Doing
from leash.worker.client.control.liveness import Liveness
from leash.worker.client.control.membership import Membership
from leash.worker.client.control.seat import Seat, take_seat
from leash.worker.client.control.session import Beats
from leash.worker.client.control.waiting import Outage
from leash.worker.client.data_driver import RECONNECT_S, DataDriver, DataLane
from leash.worker.client.memory import SlabMemory


class Carriers:
    """Makes what carries the messages of one client. A simulated machine has others.

    Attributes:
        context: of all sockets but those of the beats.
    """

    def __init__(self, address: str, key: ClientKey | None, patience_s: float, say: Say) -> None:
        """Opens nothing yet.

        Args:
            address: of the control socket, tcp://HOST:PORT.
            key: for a server that has keys.
            patience_s: for how long a worker that takes part keeps trying; may be infinite.
            say: shows a line.
        """
        self.context: Final[zmq.Context[zmq.Socket[bytes]]] = zmq.Context()
        self._address: Final = address
        self._key: Final = key
        self._patience_s: Final = patience_s
        self._say: Final = say
        self._outage: Final = Outage(say, address, patience_s)

    def make_departure(
        self, grace_s: float, preempt_file: str | os.PathLike[str] | None
    ) -> Departure:
        """Makes what knows whether this worker was told to go.

        Args:
            grace_s: how long it may take.
            preempt_file: it is to go once this file is there; None for none.
        """
        return Departure(grace_s, preempt_file)

    def take_seat(self) -> Seat:
        """Takes a place on this host that no other live process of the run has."""
        return take_seat(self._address)

    def open_control(self) -> ControlChannel:
        """Makes the control connection of the thread that trains."""
        return ControlChannel(self._address, self.context, self._outage.note, self._key)

    def open_liveness(self, beats: Beats, departure: Departure, doing: Doing) -> Liveness:
        """Makes the thread that beats for one incarnation.

        Args:
            beats: says what is to be sent, and when.
            departure: hears that this worker is to go.
            doing: knows what the training thread does.
        """
        return Liveness(self._address, beats, self._outage, self._say, doing, self._key, departure)

    def open_lane(
        self, member: Membership, engine: StepEngine, chunks: Sequence[Chunk],
        memory: SlabMemory, *, has_pulled: bool,
    ) -> DataLane:  # fmt: skip
        """Connects a step engine with all shards.

        Args:
            member: this process's part in the run, which has said hello.
            engine: says what to send.
            chunks: the layout's.
            memory: that the shards are, or were, asked to map.
            has_pulled: whether this process has reached every shard before.
        """
        host, _ = split_address(self._address)
        liveness = member.liveness

        def patience_s() -> float:
            """A port that has never been open, while the server answers, is none."""
            is_closed = not has_pulled and not liveness.is_silent
            return min(RECONNECT_S, self._patience_s) if is_closed else self._patience_s

        return DataDriver(
            self.context, host, member.welcome, engine, chunks, member.check, patience_s,
            self._outage.note, lambda: liveness.outages, self._key, memory,
        )  # fmt: skip

    def close(self) -> None:
        """Closes all sockets at once."""
        self.context.destroy(linger=0)
