"""`leash worker` up to its trainer: what it makes of its own options and the server's settings."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from leash.ps.errors import LayoutMismatchError, UsageError
from leash.ps.options.worker import WorkerOptions
from leash.worker.client.encoding import Encoding
from leash.worker.datasets import shares
from leash.worker.train import command
from support.sockless import SocklessServer

SIZE = 60
PARAMETERS = (8 * 8 + 1) * 10  # of `linear` on images of 8 × 8 in ten classes


@dataclass
class Started:
    """What a worker was made of, in the order in which that happened."""

    status: int = 0
    loaded: dict[str, Any] = field(default_factory=dict)  # how the data set was asked for
    joined: dict[str, Any] = field(default_factory=dict)  # how the optimizer was made
    optimizer: SimpleNamespace = field(default_factory=SimpleNamespace)
    slowed: tuple[Any, ...] = ()
    trained: SimpleNamespace = field(default_factory=SimpleNamespace)
    threads: int = 0
    is_closed: bool = False  # the data set


class FakeChannel:
    def __init__(self, address: str, *, key: object = None) -> None:
        self.address = address

    def __enter__(self) -> "FakeChannel":
        return self

    def __exit__(self, *_: object) -> None:
        return None


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[Started]:
    """Everything that would need a server, data or time is replaced."""
    made = Started()

    def load(name: str, **asked: Any) -> SimpleNamespace:
        made.loaded, made.is_closed = {"name": name, **asked}, False

        def close() -> None:
            made.is_closed = True

        return SimpleNamespace(train_size=SIZE, sample_shape=(1, 8, 8), classes=10, close=close)

    def join(parameters: Any, *, server: str, **options: Any) -> SimpleNamespace:
        made.joined = {"parameters": dict(parameters), "address": server, **options}
        client = SimpleNamespace(rank=options["rank"], tell_to_leave=lambda _: None)
        made.optimizer = SimpleNamespace(client=client)
        return made.optimizer

    def train(options: Any, task: Any, dataset: Any, share: Any, *rest: Any) -> SimpleNamespace:
        made.trained = SimpleNamespace(task=task, dataset=dataset, share=share, rest=rest)
        assert not made.is_closed
        return SimpleNamespace(run=lambda: 17)

    def slow(*told: Any, **more: Any) -> str:
        made.slowed = (*told, more)
        return "the slowdown"

    def limit_threads(threads: int) -> None:
        made.threads = threads

    monkeypatch.setattr(command, "keep_memory", lambda _: None)
    monkeypatch.setattr(command, "ControlChannel", FakeChannel)
    monkeypatch.setattr(command, "load_dataset", load)
    monkeypatch.setattr(command, "PSOptimizer", join)
    monkeypatch.setattr(command, "Trainer", train)
    monkeypatch.setattr(command, "Slowdown", slow)
    monkeypatch.setattr(torch, "set_num_threads", limit_threads)
    with torch.random.fork_rng(devices=[]):  # making a model seeds torch
        yield made


@pytest.fixture
def start(started: Started, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Started]:
    """Starts a worker against a server with these settings."""

    def run(server: SocklessServer, **options: Any) -> Started:
        state = server.coordinator.state()
        monkeypatch.setattr(command, "await_state", lambda *_: state)
        started.status = command.run(WorkerOptions(**options))
        return started

    return run


Start = Callable[..., Started]


def make_server(policy: str = "bsp", **options: Any) -> SocklessServer:
    plain = {"learners": "2-3-7", "model": "linear", "dataset": "digits", "seed": 11, "epochs": 4}
    return SocklessServer(policy, **{**plain, **options})


# The task and the data.


def test_a_worker_trains_what_the_server_says_unless_it_says_otherwise(start: Start) -> None:
    task = start(make_server(), rank=3).trained.task
    assert (task.model, task.dataset, task.epochs, task.seed) == ("linear", "digits", 4, 11)
    assert task.ranks == (2, 3, 7)
    task = start(make_server(), rank=3, epochs=9, seed=12).trained.task
    assert (task.epochs, task.seed) == (9, 12)


@pytest.mark.parametrize("given", [None, "3-2-1"])
def test_fixed_shares_are_together_every_sample_once(start: Start, given: str | None) -> None:
    taken = []
    for rank in (2, 3, 7):
        worker = start(make_server("bsp"), rank=rank, hetero_allocation=given)
        taken.append(worker.trained.share)
        # The data set holds no more than that.
        assert worker.loaded["keep"](SIZE).tolist() == worker.trained.share.tolist()
    weights = [1.0, 1.0, 1.0] if given is None else [3.0, 2.0, 1.0]
    expected = shares(SIZE, weights, 11)
    assert [share.tolist() for share in taken] == [share.tolist() for share in expected]
    assert sorted(np.concatenate(taken).tolist()) == list(range(SIZE))


def test_leases_need_all_of_the_data_and_no_share(start: Start) -> None:
    worker = start(make_server("ssp"), rank=2)
    assert worker.loaded["keep"] is None
    assert worker.trained.share is None


@pytest.mark.parametrize(("policy", "samples"), [("bsp", SIZE // 3), ("ssp", SIZE)])
def test_dropping_every_sample_is_refused_before_it_joins(
    start: Start, started: Started, policy: str, samples: int
) -> None:
    server = make_server(policy)
    start(server, rank=2, batch_size=samples, drop_last=True)
    started.joined = {}
    with pytest.raises(UsageError, match=f"all of this worker's {samples} samples"):
        start(server, rank=2, batch_size=samples + 1, drop_last=True)
    assert not started.joined
    assert started.is_closed
    start(server, rank=2, batch_size=samples + 1)


def test_a_share_that_was_asked_for_is_fixed_even_where_others_lease(start: Start) -> None:
    worker = start(make_server("ssp"), rank=7, hetero_allocation="1-1-4")
    assert len(worker.trained.share) == 40


@pytest.mark.parametrize("policy", ["bsp", "ssp"])
def test_a_rank_that_is_not_in_the_run_is_refused_before_anything_is_loaded(
    start: Start, started: Started, policy: str
) -> None:
    with pytest.raises(UsageError, match=r"^--rank 4: the workers of this run are 2, 3, 7$"):
        start(make_server(policy), rank=4)
    assert started.loaded == started.joined == {}


def test_the_data_set_is_asked_for_its_training_split_as_the_options_say(start: Start) -> None:
    worker = start(
        make_server(), rank=2, len_train_data=50, data_dir="/data", download=True, image_size=32,
        loader_workers=3,
    )  # fmt: skip
    asked = {key: worker.loaded[key] for key in ("name", "download", "seed", "test", "limit")}
    assert asked == {
        "name": "digits", "download": True, "seed": 11, "test": False, "limit": 50,
    }  # fmt: skip
    assert str(worker.loaded["data_dir"]) == "/data"
    assert (worker.loaded["image_size"], worker.loaded["loader_workers"]) == (32, 3)


# How it takes part.


def test_a_worker_joins_with_what_its_options_say_and_ends_with_its_trainers_status(
    start: Start,
) -> None:
    worker = start(
        make_server(), rank=7, ps_ip="10.0.0.1", ps_port=4000, transport="tcp", codec="topk",
        topk_ratio=0.25, threads=3, slow="0.5", heterogeneity="0.25", time_scale=2.0,
    )  # fmt: skip
    assert worker.status == 17
    joined = worker.joined
    assert (joined["address"], joined["rank"]) == ("tcp://10.0.0.1:4000", 7)
    assert joined["transport"] == "tcp"
    assert joined["encoding"] == Encoding("topk", 256, 0.25)
    assert sum(p.numel() for p in joined["parameters"].values()) == PARAMETERS
    assert worker.threads == 3
    slowness, ratio, more = worker.slowed
    assert (str(slowness), ratio) == ("0.5", 0.25)
    assert more == {"time_scale": 2.0, "seed": 11, "rank": 7}
    model, optimizer, slowdown, _ = worker.trained.rest
    assert (optimizer, slowdown) == (worker.optimizer, "the slowdown")
    assert dict(model.named_parameters()).keys() == joined["parameters"].keys()


def test_each_line_of_a_worker_is_logged_once(
    start: Start, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    worker = start(make_server(), rank=3)
    caplog.set_level("INFO", "leash")
    caplog.clear()
    capsys.readouterr()
    worker.joined["say"]("from the client")  # which logs its lines itself
    *_, say = worker.trained.rest
    say("from the trainer")
    assert caplog.messages == ["from the trainer"]
    assert capsys.readouterr().out == (
        "leash worker 3: from the client\nleash worker 3: from the trainer\n"
    )


def test_all_workers_begin_with_the_same_parameters(start: Start) -> None:
    first, second = (start(make_server(), rank=rank).joined["parameters"] for rank in (2, 3))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("chunk_nbytes", "options", "overlaps"),
    [
        (4 * PARAMETERS - 4, {}, True),
        (4 * PARAMETERS, {}, False),  # one chunk: there is nothing to hide
        (64, {"overlap": False}, False),
    ],
)
def test_gradients_leave_early_where_they_are_more_than_one_chunk(
    start: Start, chunk_nbytes: int, options: dict[str, Any], overlaps: bool
) -> None:
    server = make_server()
    state = {**server.coordinator.state(), "chunk_nbytes": chunk_nbytes}
    server.coordinator.state = lambda: state  # type: ignore[method-assign]
    assert start(server, rank=2, **options).joined["overlap"] is overlaps


def test_with_local_steps_an_inner_optimizer_steps_over_the_model_and_nothing_leaves_early(
    start: Start,
) -> None:
    server = make_server(local_steps="8", lr=0.5)
    state = {**server.coordinator.state(), "chunk_nbytes": 64}
    server.coordinator.state = lambda: state  # type: ignore[method-assign]
    joined = start(server, rank=2).joined
    assert joined["overlap"] is False
    inner = joined["inner"]
    assert isinstance(inner, torch.optim.SGD)
    stepped = {id(p) for group in inner.param_groups for p in group["params"]}
    assert stepped == {id(p) for p in joined["parameters"].values()}


def test_the_data_set_is_closed_however_the_worker_ends(
    start: Start, started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert start(make_server(), rank=2).is_closed

    def refuse(*_: object, **__: object) -> None:
        raise LayoutMismatchError("another model")

    monkeypatch.setattr(command, "PSOptimizer", refuse)
    with pytest.raises(LayoutMismatchError):
        start(make_server(), rank=2)
    assert started.is_closed


# The inner optimizer.


@pytest.mark.parametrize(
    ("options", "kind", "expected"),
    [
        ({}, torch.optim.SGD, {"lr": 0.01, "momentum": 0.0, "weight_decay": 0.0}),
        (
            {"lr": 0.5, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
            torch.optim.SGD,
            {"lr": 0.5, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
        ),
        ({"dampening": 0.5, "momentum": 0.9}, torch.optim.SGD, {"dampening": 0.5}),
        ({"maximize": True}, torch.optim.SGD, {"maximize": True}),
        ({"optimizer": "adam"}, torch.optim.Adam, {"lr": 0.001, "weight_decay": 0.0}),
        (
            {"optimizer": "adam", "betas": "0.8,0.9", "eps": 0.1, "amsgrad": True},
            torch.optim.Adam,
            {"betas": (0.8, 0.9), "eps": 0.1, "amsgrad": True},
        ),
        ({"optimizer": "adamw"}, torch.optim.AdamW, {"lr": 0.001, "weight_decay": 0.01}),
        (
            {"optimizer": "adamw", "lr": 0.2, "weight_decay": 0.0},
            torch.optim.AdamW,
            {"lr": 0.2, "weight_decay": 0.0},
        ),
        (
            {"optimizer": "adagrad", "lr_decay": 0.5, "initial_accumulator_value": 0.1},
            torch.optim.Adagrad,
            {"lr": 0.01, "lr_decay": 0.5, "initial_accumulator_value": 0.1},
        ),
    ],
)
@pytest.mark.parametrize("local", [{"local_steps": "2"}, {"local_steps": "auto"}, {"outer_lr": 1}])
def test_a_run_with_local_steps_has_the_inner_optimizer_that_was_asked_for(
    options: dict[str, Any], kind: type, expected: dict[str, Any], local: dict[str, Any]
) -> None:
    parameters = [torch.nn.Parameter(torch.zeros(3))]
    inner = command.inner_optimizer(make_server(**options, **local).coordinator.state(), parameters)
    assert inner is not None
    assert type(inner) is kind
    assert inner.param_groups[0].items() >= expected.items()


def test_a_run_without_local_steps_has_no_inner_optimizer() -> None:
    parameters = [torch.nn.Parameter(torch.zeros(3))]
    assert command.inner_optimizer(make_server().coordinator.state(), parameters) is None
