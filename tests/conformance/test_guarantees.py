"""The guarantees, over every transport, codec and number of shards: one body for all of them."""

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from leash.ps.wire.control import ControlChannel, request_state
from leash.ps.wire.keys import key_for, new_keys
from leash.ps.wire.layout import Layout, Slot
from leash.ps.wire.messages import Ok, Set
from leash.worker.client import Client, StepInfo
from leash.worker.client.data_driver import AT_ONCE
from leash.worker.client.encoding import Encoding
from leash.worker.client.memory import Slab, SlabMemory
from support.servers import RunningServer, serving

Numbers = npt.NDArray[np.float32]

CODECS = ("f32", "bf16", "f16", "int8", "topk")
LR = 0.125
STEPS = 6
WORKERS = 3
W = 40_000  # three chunks of 64 KiB, the last with the 7 values of another slot
LAYOUT = Layout(
    [
        Slot("w", "f32", (W,)), Slot("v", "f32", (7,)), Slot("d", "f64", (11,)),
        Slot("m", "f32", (100,), "buffer"),
    ]
)  # fmt: skip
assert len(LAYOUT.cut(65536)) > AT_ONCE  # not everything is in flight at once
VALUES = W + 7


@dataclass(frozen=True)
class Way:
    """How gradients travel."""

    transport: str
    codec: str
    shards: int
    is_keyed: bool = False  # whether the server lets in those alone who have a key
    answer: str | None = None  # how parameters travel, if not as the codec says

    def __str__(self) -> str:
        codecs = f"{self.codec}-in-{self.answer}" if self.answer else self.codec
        return f"{self.transport}-{codecs}-{self.shards}{'-keys' if self.is_keyed else ''}"

    def key(self, name: str) -> Path | None:
        return KEYS[0] / f"{name}.key" if self.is_keyed else None

    def channel(self, address: str) -> ControlChannel:
        key = self.key("admin")
        return ControlChannel(address, key=key_for(key) if key else None)


KEYS: list[Path] = []  # the folder of the keys
KEYED = [Way("tcp", "f32", 2, is_keyed=True), Way("shm", "int8", 1, is_keyed=True)]
ANSWERED = [
    Way("tcp", "int8", 1, answer="bf16"), Way("tcp", "topk", 2, answer="f16"),
    Way("tcp", "bf16", 1, answer="f32"), Way("tcp", "f32", 2, answer="bf16"),
    Way("shm", "int8", 1, answer="bf16"),
]  # fmt: skip
WAYS = [
    *(Way(*parts) for parts in itertools.product(("tcp", "shm"), CODECS, (1, 2))),
    *KEYED, *ANSWERED,
]  # fmt: skip
every_way = pytest.mark.parametrize("way", WAYS, ids=str)


@pytest.fixture(scope="module", autouse=True)
def folder_of_keys(tmp_path_factory: pytest.TempPathFactory) -> None:
    KEYS[:] = [tmp_path_factory.mktemp("keys") / "keys"]
    new_keys(KEYS[0], WORKERS)


class Worker:
    """One worker of a run, with its gradients."""

    def __init__(self, address: str, rank: int, way: Way) -> None:
        encoding = Encoding(way.codec, topk_ratio=0.25, answer_codec=way.answer)
        self.memory = SlabMemory(LAYOUT.nbytes, has_outbox=way.codec != "f32")
        self.client = Client(
            address, LAYOUT, rank=rank, transport=way.transport, encoding=encoding,
            memory=self.memory, key=way.key(f"worker-{rank}"),
        )  # fmt: skip
        assert self.client.transport.name == way.transport
        self.rank = rank
        self.slab = self.memory.slabs[0]

    def begin(self) -> None:
        self.slab[:] = 0
        self.client.begin(self.slab)

    def step(self, number: int) -> StepInfo:
        """Pushes this worker's gradient of that step; the slab holds its parameters then."""
        self.slab[:] = 0
        values_of(self.slab)[:] = gradient(self.rank, number)
        self.slab[LAYOUT.offsets[2] :][: 11 * 8].view("<f8")[:] = self.rank
        self.slab[LAYOUT.offsets[3] :].view("<f4")[:] = self.rank
        return self.client.push_pull(self.slab, self.slab, samples=1)

    def pull(self) -> Slab:
        """The parameters of the server, as they are."""
        pulled = np.zeros(LAYOUT.nbytes, np.uint8)
        self.client.pull(pulled)
        return pulled

    def unsent(self) -> Numbers:
        """What error feedback holds back for a later step."""
        residual = self.client.residual
        return values_of(residual).copy() if len(residual) else np.zeros(VALUES, np.float32)

    def close(self, reason: str = "done") -> None:
        self.client.close(reason)
        self.memory.close()


def values_of(slab: Slab) -> Numbers:
    """The parameters in f32."""
    return slab[: 4 * VALUES].view("<f4")


def gradient(rank: int, step: int) -> Numbers:
    return np.random.default_rng([rank, step]).standard_normal(VALUES, np.float32)


def on_all(workers: list[Worker], what: Callable[[Worker], Any]) -> list[Any]:
    """At the same time, each in a thread of its own."""
    with ThreadPoolExecutor(len(workers)) as pool:
        return list(pool.map(what, workers))


@contextmanager
def a_run(way: Way, workers: int = WORKERS, **settings: Any) -> Iterator[
    tuple[RunningServer, list[Worker]]
]:  # fmt: skip
    """A server and its workers, begun."""
    options = {"workers": workers, "shards": way.shards, "chunk_kib": 64, "lr": LR, **settings}
    if way.is_keyed:
        options["keys"] = str(KEYS[0])
    with serving(**options) as running, ThreadPoolExecutor(workers) as pool:
        joining = partial(Worker, running.address, way=way)
        ranks = range(1, workers + 1)
        team = list(pool.map(lambda rank: joining(rank=rank), ranks))
        on_all(team, Worker.begin)
        yield running, team


def train_bsp(way: Way) -> tuple[Slab, list[Numbers], Numbers]:
    """The server's slab after STEPS steps, each worker's parameters, and what was held back."""
    with a_run(way, policy="bsp", lr_scaling="none") as (running, team):
        for number in range(1, STEPS + 1):
            on_all(team, partial(Worker.step, number=number))
        ends = [values_of(worker.slab).copy() for worker in team]
        slab = team[0].pull()
        unsent = sum(worker.unsent() for worker in team) / WORKERS
        on_all(team, Worker.close)
        assert running.join() == 0
    return slab, ends, unsent


def expected() -> npt.NDArray[np.float64]:
    """One process that descends along the mean of all gradients."""
    steps = [[gradient(r, n).astype(np.float64) for r in range(1, WORKERS + 1)] for n in
             range(1, STEPS + 1)]  # fmt: skip
    result: npt.NDArray[np.float64] = -LR * np.sum(
        [np.mean(step, axis=0) for step in steps], axis=0
    )
    return result


# Of a gradient, and of the parameters that come back, by codec: docs/wire-format.md, section 3.
ROUNDING = {"f32": 2.0**-24, "bf16": 2.0**-8, "f16": 2.0**-11, "int8": 2.0**-24, "topk": 2.0**-24}


@every_way
def test_bsp_is_one_process_on_the_joint_batch(way: Way) -> None:
    """To the rounding of the codec; what int8 and topk round off is held back, and nowhere lost."""
    slab, ends, unsent = train_bsp(way)
    largest = max(np.abs(gradient(r, n)).max() for r in range(1, 4) for n in range(1, STEPS + 1))
    tolerance = LR * STEPS * largest * max(ROUNDING[way.codec], 2.0**-20)
    np.testing.assert_allclose(values_of(slab), expected() + LR * unsent, rtol=0, atol=tolerance)
    for end in ends[1:]:
        np.testing.assert_array_equal(end, ends[0])
    reply = ROUNDING[way.answer or way.codec] if way.transport == "tcp" else 0.0
    np.testing.assert_allclose(ends[0], values_of(slab), rtol=reply, atol=1e-7 if reply else 0)
    doubles = slab[LAYOUT.offsets[2] :][: 11 * 8].view("<f8")
    np.testing.assert_allclose(doubles, -LR * STEPS * 2.0, rtol=1e-15)  # the mean of 1, 2, 3
    np.testing.assert_array_equal(slab[LAYOUT.offsets[3] :].view("<f4"), 3.0)  # the last rank's


@every_way
def test_two_bsp_runs_are_bitwise_equal(way: Way) -> None:
    first, second = train_bsp(way)[0], train_bsp(way)[0]
    np.testing.assert_array_equal(first, second)


@every_way
def test_the_bound_is_reached_and_never_passed(way: Way) -> None:
    bound = 2
    with a_run(way, policy="ssp", bound=bound) as (running, team):
        runner, *others = team
        lags: list[int] = []

        def run_ahead() -> None:
            for number in range(1, bound + 2):
                info = runner.step(number)
                lags.append(info.lag)

        with ThreadPoolExecutor(1) as pool:
            running_ahead = pool.submit(run_ahead)
            await_parked(running, way, AT_ONCE)
            assert lags == [1, 2]  # its third step waits for the others' first
            for worker in others:
                worker.step(1)
            running_ahead.result()
        assert lags == [1, 2, 2]
        on_all(team, Worker.close)
        assert running.join() == 0
        assert running.settled().summary()["max_lag"] == bound


@every_way
def test_who_leaves_stops_nobody_and_what_it_left_unfinished_does_not_count(way: Way) -> None:
    with a_run(way, workers=2, policy="bsp", lr_scaling="none") as (running, team):
        stays, leaves = team
        on_all(team, partial(Worker.step, number=1))
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(stays.step, 2)
            await_parked(running, way, AT_ONCE)
            leaves.close("stopped")
            waiting.result()
        doubles = stays.pull()[LAYOUT.offsets[2] :][: 11 * 8].view("<f8")
        np.testing.assert_allclose(doubles, -LR * (1.5 + 1.0), rtol=1e-15)
        stays.close()
        assert running.join() == 1  # what the one that left had still to do is missing


# The policies that leave something out, and a change of the policy: over ways that differ.

FEW_WAYS = [
    Way("tcp", "f32", 2),
    Way("tcp", "topk", 1),
    Way("shm", "f32", 1),
    Way("shm", "int8", 2),
    KEYED[0],
]
few_ways = pytest.mark.parametrize("way", FEW_WAYS, ids=str)


def doubles_of(worker: Worker) -> npt.NDArray[np.float64]:
    """What the server has of the slot whose gradient is the worker's rank, sent as it is."""
    return worker.pull()[LAYOUT.offsets[2] :][: 11 * 8].view("<f8")


@few_ways
def test_a_round_goes_on_without_the_slowest_whose_gradient_is_left_out(way: Way) -> None:
    with a_run(way, policy="backup", lr_scaling="none") as (running, team):
        first, second, late = team
        on_all([first, second], partial(Worker.step, number=1))
        np.testing.assert_allclose(doubles_of(first), -LR * 1.5, rtol=1e-15)
        assert late.step(1).staleness == 1
        np.testing.assert_allclose(doubles_of(first), -LR * 1.5, rtol=1e-15)
        on_all([first, late], partial(Worker.step, number=2))
        np.testing.assert_allclose(doubles_of(first), -LR * (1.5 + 2.0), rtol=1e-15)
        on_all(team, Worker.close)
        assert running.join() == 0
        dropped = running.settled().summary()["dropped_pushes"]
        assert dropped == len(LAYOUT.cut(65536))


@few_ways
def test_a_gradient_beyond_the_limit_is_left_out_and_nobody_waits(way: Way) -> None:
    with a_run(way, workers=2, policy="drop", max_staleness=2) as (running, team):
        ahead, late = team
        for number in range(1, 4):
            ahead.step(number)
        assert late.step(1).staleness == 3
        assert late.step(2).staleness == 0
        np.testing.assert_allclose(doubles_of(ahead), -LR * (3 * 1.0 + 2.0), rtol=1e-15)
        on_all(team, Worker.close)
        assert running.join() == 0
        summary = running.settled().summary()
        assert (summary["dropped_pushes"], summary["max_staleness"]) == (len(LAYOUT.cut(65536)), 0)


@few_ways
def test_a_change_of_the_policy_answers_whoever_waits_and_loses_no_gradient(way: Way) -> None:
    with (
        a_run(way, workers=2, policy="bsp", lr_scaling="none") as (running, team),
        way.channel(running.address) as channel,
        ThreadPoolExecutor(1) as pool,
    ):
        waits, late = team
        waiting = pool.submit(waits.step, 1)
        await_parked(running, way, AT_ONCE)
        channel.request(Set("asp"), Ok)
        waiting.result()
        np.testing.assert_allclose(doubles_of(waits), -LR * 1.0, rtol=1e-15)
        channel.request(Set("bsp"), Ok)
        waiting = pool.submit(waits.step, 2)
        await_parked(running, way, AT_ONCE)
        for number in (1, 2):
            late.step(number)
        waiting.result()
        np.testing.assert_allclose(doubles_of(waits), -LR * (1.0 + 2.0 + 1.5), rtol=1e-15)
        state = request_state(channel)
        assert (state["policy"], state["bound"]) == ("bsp", 0)
        on_all(team, Worker.close)
        assert running.join() == 0


@few_ways
@pytest.mark.parametrize("policy", ["bsp", "ssp", "asp"])
def test_what_a_worker_publishes_is_everybodys_and_pushes_go_on_from_there(
    way: Way, policy: str
) -> None:
    with a_run(way, workers=2, policy=policy, lr_scaling="none") as (running, team):
        on_all(team, partial(Worker.step, number=1))
        first, second = team
        second.slab[:] = 0
        second.slab[: 4 * VALUES].view("<f4")[:] = 3.0
        second.slab[LAYOUT.offsets[2] :][: 11 * 8].view("<f8")[:] = 5.0
        second.client.publish(second.slab)
        pulled = [worker.pull() for worker in team]
        for slab in pulled:
            np.testing.assert_array_equal(slab[: LAYOUT.offsets[3]],
                                          second.slab[: LAYOUT.offsets[3]])  # fmt: skip
        on_all(team, partial(Worker.step, number=2))
        gone = LR * (1.5 if policy == "bsp" else 3.0)
        np.testing.assert_allclose(doubles_of(first), 5.0 - gone, rtol=1e-15)
        on_all(team, Worker.close)
        assert running.join() == 0


def await_parked(running: RunningServer, way: Way, chunks: int) -> None:
    """Returns once so many answers wait, on all shards."""
    with way.channel(running.address) as channel:
        for _ in range(100_000):
            if request_state(channel)["parked"] >= chunks:
                return
    raise AssertionError(f"never were {chunks} answers parked")
