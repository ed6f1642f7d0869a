"""A data connection that breaks again and again: nothing is lost, nothing is applied twice."""

import random
import threading

import numpy as np
import pytest

from leash.ps.wire.layout import Layout, Slot
from leash.worker.client import Client
from support.relays import Relay
from support.servers import serving

STEPS = 150
CHUNKS = 8
VALUES = CHUNKS * 16 * 1024  # of 64 KiB chunks


@pytest.mark.parametrize(
    ("policy", "shards", "transport"),
    [("bsp", 1, "shm"), ("asp", 1, "shm"), ("asp", 2, "shm"), ("asp", 2, "tcp")],
)
def test_every_step_counts_once_though_its_connection_breaks(
    policy: str, shards: int, transport: str
) -> None:
    layout = Layout([Slot("w", "f32", (VALUES,))])
    gradients, parameters = (np.zeros(layout.nbytes, np.uint8) for _ in range(2))
    gradients.view("<f4")[:] = -1
    chance = random.Random(policy)
    with serving(policy=policy, lr=1.0, chunk_kib=64, window=4, shards=shards) as running:
        ports = running.server.shards.ports
        relays = [Relay(port) for port in ports]
        ports[:] = [relay.port for relay in relays]
        client = Client(running.address, layout, rank=1, transport=transport)
        cuts = 0
        try:
            client.begin(parameters)
            for _ in range(STEPS):
                timer = threading.Timer(chance.uniform(0, 0.004), chance.choice(relays).cut)
                if chance.random() < 0.15:
                    cuts += 1
                    timer.start()
                client.push_pull(gradients, parameters, samples=1)
                timer.cancel()
        finally:
            client.close()
            for relay in relays:
                relay.close()
        assert running.join() == 0
    assert cuts > 10
    np.testing.assert_array_equal(parameters.view("<f4"), STEPS)
