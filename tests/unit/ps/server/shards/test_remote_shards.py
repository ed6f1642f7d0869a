"""When a shard counts as lost, and how that is told, by a link and a clock that the tests move."""

from collections.abc import Iterator

import pytest

from leash.ps.errors import LayoutError, ShardLostError
from leash.ps.options.server import ServerOptions
from leash.ps.server.shards.remote_shards import (
    ANSWER_S,
    START_S,
    Notice,
    OnNotice,
    RemoteShard,
    RemoteShards,
)
from leash.ps.wire.messages import Message
from leash.ps.wire.shard_link import ReceivedPayload, SentPayload
from leash.ps.wire.shard_messages import Begin, Hold, Release, Unreading
from support.sockless import MemoryLink, StillClock

OPTIONS = ServerOptions(workers=1, shards=3, chunk_kib=64)


class SlowLink(MemoryLink):
    """A process that can be stopped; time passes while one waits for it."""

    def __init__(self, pid: int, clock: StillClock) -> None:
        super().__init__(pid, lambda *_: None, clock)
        self.clock = clock
        self.is_stopped = False
        self.unread: list[tuple[Message, SentPayload]] = []

    def send(self, message: Message, payload: SentPayload = None) -> None:
        if self.is_stopped and not self.how:
            self.unread.append((message, payload))
        else:
            super().send(message, payload)

    def receive(self, wait_s: float) -> tuple[Message, ReceivedPayload] | None:
        received = super().receive(wait_s)
        if received is None:
            self.clock.skip(wait_s)
        return received


class Cluster:
    """Two further shards, as the coordinator sees them."""

    def __init__(self, first_port: int = 6001, **stopped: bool) -> None:
        self.clock = StillClock()
        self.links: list[SlowLink] = []
        self.stopped = stopped
        self.remote = RemoteShards(OPTIONS, first_port, self.start)

    def start(self, index: int, on_notice: OnNotice) -> RemoteShard:
        link = SlowLink(7000 + index, self.clock)
        link.is_stopped = self.stopped.get(f"shard_{index}", False)
        self.links.append(link)
        return RemoteShard(index, link, on_notice, self.clock)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    made = Cluster()
    yield made
    made.remote.close()
    assert all(link.how for link in made.links)


@pytest.mark.parametrize(("first_port", "ports"), [(6001, [6001, 6002]), (0, [0, 0])])
def test_shards_take_ports_one_after_the_other_or_any(first_port: int, ports: list[int]) -> None:
    assert Cluster(first_port).remote.ports == ports


def test_one_that_does_not_come_up_is_named_and_all_are_let_go() -> None:
    links: list[SlowLink] = []
    clock = StillClock()

    def start(index: int, on_notice: OnNotice) -> RemoteShard:
        links.append(SlowLink(7000 + index, clock))
        links[-1].is_stopped = index == 2
        return RemoteShard(index, links[-1], on_notice, clock)

    lost = rf"^shard 2 \(process 7002\) was lost: no answer for {START_S:.0f} s$"
    with pytest.raises(ShardLostError, match=lost):
        RemoteShards(OPTIONS, 0, start)
    assert clock.now_s == 100.0 + START_S
    assert [bool(link.how) for link in links] == [True, True]
    assert [type(message) for message, _ in links[1].unread] == [Begin]


def test_one_that_does_not_answer_in_time_is_lost_and_killed(cluster: Cluster) -> None:
    cluster.links[0].is_stopped = True
    lost = f"shard 1 (process 7001) was lost: no answer for {ANSWER_S:.0f} s"
    for _ in range(2):  # later questions are not even asked
        with pytest.raises(ShardLostError) as told:
            cluster.remote.ask(Hold())
        assert str(told.value) == lost
    assert cluster.remote.lost is cluster.remote.all[0]
    assert cluster.clock.now_s == 100.0 + ANSWER_S
    assert cluster.links[0].how == "killed by SIGKILL"


def test_one_that_is_silent_is_lost_and_one_that_tells_something_is_not(cluster: Cluster) -> None:
    for _ in range(3):
        cluster.clock.skip(ANSWER_S)
        cluster.links[0].advance()
        cluster.links[1].advance()
        assert len(list(cluster.remote.take_notices())) == 2
        assert cluster.remote.lost is None
    cluster.clock.skip(ANSWER_S + 0.1)
    cluster.links[0].advance()
    list(cluster.remote.take_notices())
    assert cluster.remote.lost is cluster.remote.all[1]
    assert cluster.remote.all[1].how == f"silent for {ANSWER_S:.0f} s"


def test_one_whose_process_ends_is_lost_at_the_next_look_and_what_it_sent_before_is_taken(
    cluster: Cluster,
) -> None:
    cluster.links[1].put(Unreading(1))
    cluster.links[1].lose("it ended with status 3")
    notices: list[Notice] = list(cluster.remote.take_notices())
    assert [(shard.index, message) for shard, message, _ in notices] == [(2, Unreading(1))]
    assert cluster.remote.all[1].lost == "shard 2 (process 7002) was lost: it ended with status 3"
    cluster.remote.tell(Release())  # the others are still told


def test_what_comes_before_an_answer_is_kept_and_a_failure_is_raised_once_all_have_answered(
    cluster: Cluster,
) -> None:
    cluster.links[0].put(Unreading(4))
    cluster.links[0].fails_with = LayoutError("too large")
    with pytest.raises(LayoutError, match="too large"):
        cluster.remote.ask(Hold())
    assert cluster.links[1].shard.is_held
    assert [message for _, message, _ in cluster.remote.take_notices()] == [Unreading(4)]
    assert cluster.remote.ask(Hold()) == [0, 0]
