"""Messages that are nearly right, a million of them in `make torture`: by strangers and by members.

Each is one that the server would honour, with something changed in it. It gets one answer, changes
not a byte of the parameters, and the server fails at none.
"""

import random
from typing import Any

import msgpack
import pytest

from leash.ps.wire.intake import Conduct, LaneIntake
from support.contract import CHUNK_NBYTES, LR, U32, U63, Worker, joined, valid_messages
from support.peers import Header, Peer, peers
from support.servers import serving

SHARE, ALL = 12_000, 1_000_000
BATCH = 200  # without an answer at the same time
FAR_AWAY = 2**40  # a step that no change of a few bits makes the next one
SETTINGS: dict[str, Any] = {
    "workers": 2, "policy": "asp", "lr": LR, "chunk_kib": 64, "evict_s": 10_000.0, "window": BATCH,
}  # fmt: skip
SPECIAL: tuple[Any, ...] = (
    0, 1, 2, 3, -1, 255, 256, U32 - 1, U32, U63 - 1, U63, 2**64 - 1, -(2**63), 0.0, float("nan"),
    1e308, "", "x" * 64, "x" * 65, "worker", "f32", "f64", "bf16", "f16", "int8", "topk", b"",
    b"\xff" * 100, None, True, False, [], [0] * 257, ["f32"] * 7, {}, {"a": 1}, [[[]]],
)  # fmt: skip


class Mutations:
    """Draws messages that are nearly right, as frames."""

    def __init__(self, seed: int, worker: Worker) -> None:
        self.dice = random.Random(seed)
        self.valid = valid_messages(worker)
        for verb in ("push", "push_pull"):
            self.valid[verb][0]["step"] = FAR_AWAY
        # A member may leave, and others may take its place: that would be no fault of the server's.
        for verb in ("hello", "bye"):
            self.valid[verb] = ({**self.valid[verb][0], "v": 2}, self.valid[verb][1])

    def draw(self) -> tuple[str, list[bytes]]:
        """A verb, and frames that begin with its header."""
        verb = self.dice.choice(list(self.valid))
        header, payloads = self.valid[verb]
        frames = [msgpack.packb(self._changed({"v": 1, **header})), *payloads]
        for _ in range(self.dice.choice([0, 0, 1, 1, 2])):
            self._spoil(frames)
        return verb, frames

    def _changed(self, header: Header) -> Header:
        header = dict(header)
        names = [name for name in header if name not in ("v", "step")]
        match self.dice.randrange(5):
            case 0:
                header[self.dice.choice(names)] = self.dice.choice(SPECIAL)
            case 1:
                del header[self.dice.choice(names)]
            case 2:
                header[self.dice.choice(["step ", "slab", "chunks", "nbytes", "absent", "t2"])] = (
                    self.dice.choice(SPECIAL)
                )
            case 3:
                items = list(header.items())
                self.dice.shuffle(items)
                header = dict(items)
        return header

    def _spoil(self, frames: list[bytes]) -> None:
        place = self.dice.randrange(len(frames))
        content = bytearray(frames[place])
        match self.dice.randrange(6):
            case 0 if content:
                content[self.dice.randrange(len(content))] ^= 1 << self.dice.randrange(8)
            case 1:
                del content[self.dice.randrange(len(content) + 1) :]
            case 2:
                content += self.dice.randbytes(self.dice.randrange(9))
            case 3 if len(content) > 1:
                begin = self.dice.randrange(len(content) - 1)
                content[begin : begin + 4] = self.dice.randbytes(4)
            case 4:
                frames.insert(place, self.dice.randbytes(self.dice.randrange(5)))
                return
            case _ if len(frames) > 1:
                del frames[1:]
                return
        frames[place] = bytes(content[: CHUNK_NBYTES + 4096])


def sent_and_answered(planes: tuple[Peer, Peer], messages: list[tuple[str, list[bytes]]]) -> int:
    """How many answers came."""
    control, data = planes
    for verb, frames in messages:
        peer = data if verb in ("init", "push_pull", "push", "pull", "options", "echo") else control
        peer.socket.send_multipart(frames)
        peer.due = getattr(peer, "due", 0) + 1  # type: ignore[attr-defined]
    answers = 0
    for peer in planes:
        for _ in range(getattr(peer, "due", 0)):
            answer, _ = peer.receive()
            assert answer["t"] in (
                "error", "ok", "beaten", "leased", "state", "params", "echoed", "options_set",
            ), answer  # fmt: skip
            answers += 1
        peer.due = 0  # type: ignore[attr-defined]
    return answers


@pytest.fixture
def _admits_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody loses its connection for messages that are refused, or few of them would be read."""
    judge = LaneIntake.judge

    def mild(self: LaneIntake, conduct: Conduct) -> None:
        judge(self, Conduct.STRANGER if conduct is Conduct.WRONG else conduct)

    monkeypatch.setattr(LaneIntake, "judge", mild)


@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("_admits_all")
def test_no_message_that_is_nearly_right_changes_a_byte_or_goes_unanswered(torture: bool) -> None:
    count = ALL if torture else SHARE
    with serving(**SETTINGS) as running, peers(
        *[running.address, running.data_address] * 3
    ) as sockets:  # fmt: skip
        good = joined(running, 1, *sockets[:2])
        member = joined(running, 2, *sockets[2:4])
        good.init()
        stranger = Worker(2, *sockets[4:], incarnation=member.incarnation - 10**9)
        of_member, of_stranger = Mutations(1, member), Mutations(2, stranger)
        for done in range(0, count, 2 * BATCH):
            for planes, mutations in ((sockets[2:4], of_member), (sockets[4:], of_stranger)):
                messages = [mutations.draw() for _ in range(BATCH)]
                assert sent_and_answered((planes[0], planes[1]), messages) == BATCH
            if done % (100 * BATCH) == 0:
                good.require_unchanged()
        good.require_unchanged()
        good.complete_a_step()
        summary = running.settled().summary()
        assert summary["failures"] == 0
        assert summary["closed_connections"] == 0
        assert summary["refused_messages"] > count / 2
