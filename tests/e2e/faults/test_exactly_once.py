"""Nothing twice, nothing lost: integers pushed by several workers, messages repeated at random.

Every push of a worker is a one-hot vector times -1, and the server's rate is 1, so the parameters
count pushes, exactly. The messages go over plain sockets, so that they can be repeated at will.
"""

import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import zmq

from leash.ps.wire import intake
from leash.ps.wire.frames import REPLIES, decode, encode
from leash.ps.wire.layout import Layout, Slot
from leash.ps.wire.messages import Echo, Echoed, Params, PushPull
from leash.worker.client import Client, data_driver
from support.servers import serving

VALUES = 64
STEPS = 60
WORKERS = 4  # a power of two: the mean of integers is exact
LAYOUT = Layout([Slot("other", "f32", (1,)), Slot("counts", "f64", (VALUES,))])
CHUNK = 1  # that of the counts: with two shards, shard 1's


def one_hot(worker: int, step: int) -> bytes:
    gradient = np.zeros(VALUES, "<f8")
    gradient[place(worker, step)] = -1
    return gradient.tobytes()


def place(worker: int, step: int) -> int:
    return (worker * 31 + step * 7) % VALUES


class RepeatingWorker:
    """Pushes its steps; before each new one it may repeat any message that it has sent."""

    def __init__(self, address: str, rank: int) -> None:
        self.client = Client(address, LAYOUT, rank=rank)
        self.client.begin(np.zeros(LAYOUT.nbytes, np.uint8))
        self.rank = rank
        self.random = random.Random(rank)
        self.socket = zmq.Context.instance().socket(zmq.DEALER)
        host = address.rpartition(":")[0]
        self.socket.connect(f"{host}:{self.client.welcome.data_ports[-1]}")
        self.sent = self.answers = self.repeats = 0  # messages, answers to steps, messages again

    def run(self) -> int:
        """Returns how many messages were repeated."""
        for step in range(1, STEPS + 1):
            self.send(step)
            # At once again, while the first may still be waiting for its reply.
            for _ in range(self.random.choice([0, 0, 1, 2])):
                self.repeat(step)
            self.receive(step)
            if step > 1 and self.random.random() < 0.3:
                self.repeat(self.random.randrange(1, step))
        # Of copies that wait together only the newest is answered; all are, before this is.
        self.socket.send_multipart([encode(Echo()), b""])
        while self.answer():
            continue
        assert self.sent - self.repeats <= self.answers <= self.sent
        self.socket.close(linger=0)
        return self.repeats

    def counts(self) -> np.ndarray:
        """What the server has counted."""
        parameters = np.zeros(LAYOUT.nbytes, np.uint8)
        self.client.pull(parameters)
        return parameters[LAYOUT.offsets[CHUNK] :].view("<f8")

    def send(self, step: int) -> None:
        self.sent += 1
        push = PushPull(self.rank, self.client.welcome.incarnation, step, CHUNK, "f64", 1)
        self.socket.send_multipart([encode(push), one_hot(self.rank, step)])

    def repeat(self, step: int) -> None:
        self.repeats += 1
        self.send(step)

    def receive(self, step: int) -> None:
        """Reads until the answer to this step; answers to repeated messages come in between."""
        while self.answer() != step:
            continue

    def answer(self) -> int:
        """Reads one answer; returns its step, or 0 for that to an echo."""
        assert self.socket.poll(10_000), f"worker {self.rank} waits for an answer"
        header, *payload = self.socket.recv_multipart()
        message = decode(header, REPLIES)
        if isinstance(message, Echoed):
            return 0
        self.answers += 1
        assert isinstance(message, Params), message
        assert len(payload) == 1
        return message.step


@pytest.mark.parametrize("is_plain", [False, True])
@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("policy", ["bsp", "ssp", "asp"])
def test_every_push_counts_once_however_often_it_is_sent(
    policy: str, shards: int, is_plain: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through lanes in C++, and by pyzmq where it does not show libzmq's functions."""
    if is_plain:  # in this process, which serves shard 0
        for user_of_libzmq in (intake, data_driver):
            monkeypatch.setattr(user_of_libzmq, "why_plain", lambda: "not found")
    settings = {"workers": WORKERS, "policy": policy, "lr": 1.0, "chunk_kib": 64, "shards": shards}
    with serving(**settings) as running:
        with ThreadPoolExecutor(WORKERS) as pool:
            workers = list(
                pool.map(lambda r: RepeatingWorker(running.address, r), range(1, WORKERS + 1))
            )
            repeats = sum(pool.map(RepeatingWorker.run, workers))
        counts = workers[0].counts()
        for worker in workers:
            worker.client.close()
        assert running.join() == 0
    expected = np.zeros(VALUES)
    for rank in range(1, WORKERS + 1):
        for step in range(1, STEPS + 1):
            expected[place(rank, step)] += 1
    assert repeats > WORKERS * STEPS // 4
    assert running.settled().data.duplicates == repeats
    np.testing.assert_array_equal(counts, expected)
