"""A place kept for a newcomer: no chunk's clock gets beyond it until the newcomer is there."""

import pytest
import zmq

from leash.ps.options.commands import ServerOptions
from leash.ps.policy import choose_rule
from leash.ps.runs.events import EventLog
from leash.ps.shard.data_plane import DataPlane, Payload
from leash.ps.shard.members import Members
from leash.ps.shard.metrics import Metrics
from leash.ps.wire.layout import Layout, Slot
from leash.ps.wire.messages import Message, Ok, Push

LAYOUT = Layout([Slot("w", "f32", (4,)), Slot("sums", "f64", (2,))])


class Plane:
    """A data plane whose answers are kept, with one worker that pushes."""

    def __init__(self, policy: str, *, shard: int = 0, shards: int = 1) -> None:
        rule, members = choose_rule(policy, None), Members([1, 2], 1.0)
        self.metrics = metrics = Metrics(rule, EventLog(None), 0)
        self.answered: list[int] = []  # steps
        options = ServerOptions(chunk_kib=64, shards=shards)
        self.plane = DataPlane(options, rule, members, metrics, self.send, shard)
        self.plane.make_model(LAYOUT)
        assert self.plane.model is not None
        self.model = self.plane.model
        for chunk in self.model.own:
            self.model.shard.init(chunk.index, bytes(chunk.nbytes))
        self.incarnation = members.hello(1, "pushes")[0].incarnation
        metrics.join(1, self.incarnation, "pushes", 1)
        metrics.start([1])

    def send(self, route: bytes, message: Message, payload: Payload) -> None:
        assert isinstance(message, Ok), message
        self.answered.append(message.step)

    def push(self, *steps: int) -> None:
        for step in steps:
            for chunk in self.model.own:
                push = Push(1, self.incarnation, step, chunk.index, chunk.dtype, 1)
                self.plane.handle(b"1", push, zmq.Frame(bytes(chunk.nbytes)))


@pytest.mark.parametrize(("policy", "goes_on_to"), [("asp", 50), ("ssp", 12)])
@pytest.mark.parametrize("further", [0, 2])
def test_a_newcomer_fits_in_however_far_the_others_get_meanwhile(
    policy: str, goes_on_to: int, further: int
) -> None:
    own = Plane(policy)
    own.plane.join(1, own.plane.reserve())
    own.push(*range(1, 9))
    first_step = own.plane.reserve()
    assert first_step == 9
    own.push(*range(9, goes_on_to + 1))
    own.plane.join(2, first_step + further)
    assert own.model.shard.workers() == [1, 2]
    for chunk in own.model.chunks:
        assert own.model.shard.minimum(chunk.index) == first_step + further - 1


def test_a_kept_place_makes_others_wait_and_is_given_up_for_a_later_one() -> None:
    own = Plane("ssp")  # bound 3
    own.plane.join(1, own.plane.reserve())
    own.push(*range(1, 9))
    own.answered.clear()
    assert own.plane.reserve() == 9
    own.push(9, 10, 11, 12)
    assert sorted(set(own.answered)) == [9, 10, 11]
    own.plane.join(2, 10)
    assert sorted(set(own.answered)) == [9, 10, 11, 12]


def test_an_answer_repeated_under_a_stricter_policy_counts_once() -> None:
    own = Plane("asp")
    own.plane.join(1, own.plane.reserve())
    own.plane.reserve()
    own.push(1, 2, 3)
    own.plane.set_rule(choose_rule("ssp", 1))
    own.answered.clear()
    own.push(3)
    assert (own.answered, own.plane.parked) == ([], len(own.model.own))
    own.plane.join(2, 4)
    assert set(own.answered) == {3}
    assert own.metrics.own.replies == 3 * len(own.model.own)


def test_a_shard_without_chunks_has_room_for_everybody() -> None:
    own = Plane("bsp", shard=1, shards=3)
    assert own.model.first_chunks == [0, 1, 1]
    assert own.plane.initialized
    for first_step in (1, 5, 3):
        assert own.plane.reserve() == 1
        own.plane.join(1, first_step)
        own.plane.leave(1)
