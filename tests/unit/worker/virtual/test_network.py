"""The simulated network, against times worked out by hand."""

import pytest

from leash.ps.slowness.by_rank import parse_slow
from leash.worker.virtual.network import Connection, Frames, Network
from leash.worker.virtual.world import BEGINS_S, World

MEGABIT_S = 1e-3  # through a link of 1 Gbit/s
MEGABIT = bytes(125_000)


class Office:
    """Two machines, and when what was heard where."""

    def __init__(self, latency: str = "0.01") -> None:
        self.world = World()
        self.heard: list[tuple[str, float]] = []
        self._network = Network(self.world, parse_slow(latency, 2), 1.0, seed=1)

    def connect(self, rank: int, *, carries_data: bool = True) -> Connection:
        def take(connection: Connection, frames: Frames) -> None:
            self._note(f"server from {rank}")

        return self._network.connect(
            rank, take, lambda frames: self._note(f"machine {rank}"), carries_data=carries_data
        )

    def _note(self, where: str) -> None:
        self.heard.append((where, pytest.approx(self.world.now_s - BEGINS_S)))  # type: ignore[arg-type]

    def run(self, seconds: float = 100.0) -> list[tuple[str, float]]:
        fiber = self.world.spawn("waits", lambda: fiber.sleep(seconds))
        self.world.run()
        return self.heard


def test_a_message_takes_the_time_of_its_bytes_and_its_latency() -> None:
    office = Office()
    office.connect(1).send([b"", MEGABIT, MEGABIT])
    assert office.run() == [("server from 1", 0.01 + 2 * MEGABIT_S)]


def test_messages_of_all_machines_share_the_servers_link_each_way() -> None:
    office = Office()
    one, other = office.connect(1), office.connect(2)
    one.send([MEGABIT])
    other.send([MEGABIT])
    other.answer([MEGABIT])
    assert office.run() == [
        ("server from 1", 0.01 + MEGABIT_S),
        ("machine 2", 0.01 + MEGABIT_S),
        ("server from 2", 0.01 + 2 * MEGABIT_S),
    ]


def test_a_control_message_waits_behind_no_gradient() -> None:
    office = Office()
    office.connect(1).send([MEGABIT] * 1000)
    office.connect(1, carries_data=False).send([b"a sign of life"])
    assert office.run()[0] == ("server from 1", 0.01)


def test_each_machine_has_the_latency_of_its_rank_and_an_observer_that_of_the_first() -> None:
    office = Office("0.01,0.03")
    for rank in (0, 1, 2):
        office.connect(rank, carries_data=False).send([b"x"])
    assert sorted(office.run()) == [
        ("server from 0", 0.01), ("server from 1", 0.01), ("server from 2", 0.03),
    ]  # fmt: skip


def test_messages_of_one_connection_keep_their_order_whatever_their_latencies() -> None:
    office = Office("uniform:0.001,1")
    connection = office.connect(1)
    order: list[int] = []
    connection._take = lambda _, frames: order.append(len(frames[0]))  # type: ignore[misc]
    for n in range(50):
        connection.send([bytes(n)])
    office.run()
    assert order == list(range(50))
