"""Parameter groups and learning-rate schedulers: torch's own optimizers are the reference."""

import itertools
import json
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.optim import lr_scheduler

from leash.ps.errors import UsageError
from leash.ps.runs.rundir import RunDir
from leash.ps.wire.options_table import MAX_OPTION_GROUPS
from leash.worker import PSOptimizer
from support.relays import Relay
from support.servers import serving

STEPS = 12
BATCH = 12  # of all workers together
Scheduler = Any
Named = list[tuple[str, nn.Parameter]]

# The server's options, and torch's optimizer with the same.
OPTIMIZERS: dict[str, tuple[dict[str, Any], Callable[[Any], torch.optim.Optimizer]]] = {
    "sgd": ({"lr": 0.05, "momentum": 0.9}, lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9)),
    "adamw": ({"optimizer": "adamw", "lr": 0.01}, lambda p: torch.optim.AdamW(p, lr=0.01)),
    "adam": ({"optimizer": "adam", "lr": 0.01, "amsgrad": True},
             lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True)),
    "adagrad": ({"optimizer": "adagrad", "lr": 0.05, "lr_decay": 0.1},
                lambda p: torch.optim.Adagrad(p, lr=0.05, lr_decay=0.1)),
}  # fmt: skip

# What a group has of its own: biases without decay, the first layer at a smaller rate.
OWN: dict[str, list[dict[str, Any]]] = {
    "sgd": [{"weight_decay": 0.01}, {"weight_decay": 0.0, "momentum": 0.5, "nesterov": True},
            {"lr": 0.01, "momentum": 0.0}],
    "adamw": [{"weight_decay": 0.1}, {"weight_decay": 0.0}, {"lr": 0.002, "betas": (0.8, 0.9)}],
    "adam": [{"weight_decay": 0.01}, {"amsgrad": False}, {"lr": 0.002, "eps": 1e-3}],
    "adagrad": [{"weight_decay": 0.01}, {"lr_decay": 0.0}, {"lr": 0.02, "maximize": True}],
}  # fmt: skip


def plateau(optimizer: torch.optim.Optimizer) -> Scheduler:
    return lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=1, threshold=10.0)


def one_cycle(optimizer: torch.optim.Optimizer) -> Scheduler:
    cycles = any(group.get("momentum") or "betas" in group for group in optimizer.param_groups)
    return lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.1, total_steps=STEPS + 1, cycle_momentum=cycles
    )


def warm_up(optimizer: torch.optim.Optimizer) -> Scheduler:
    rise = lr_scheduler.LinearLR(optimizer, 0.1, total_iters=3)
    return lr_scheduler.SequentialLR(
        optimizer, [rise, lr_scheduler.CosineAnnealingLR(optimizer, STEPS)], [3]
    )


class ByHand:
    """Writes a rate into every group, as many loops do."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    def step(self) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] *= 0.8
            group["weight_decay"] = 0.02


SCHEDULERS: dict[str, Callable[[torch.optim.Optimizer], Scheduler]] = {
    "step": lambda o: lr_scheduler.StepLR(o, 3, gamma=0.3),
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, STEPS),
    "one cycle": one_cycle,
    "linear": lambda o: lr_scheduler.LinearLR(o, 0.2, total_iters=6),
    "plateau": plateau,
    "warm-up": warm_up,
    "by hand": ByHand,
}


def build(dtype: torch.dtype = torch.float64) -> nn.Module:
    generator = torch.Generator().manual_seed(7)
    model = nn.Sequential(nn.Linear(30, 40), nn.Tanh(), nn.Linear(40, 5)).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            values = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(values * 0.2)
    return model


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1000 + step)
    inputs = torch.randn(BATCH, 30, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(5, (BATCH,), generator=generator)


def groups_of(model: nn.Module, own: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The weights of the last layer, the biases, and the weights of the first layer."""
    named = list(model.named_parameters())
    members = [
        [pair for pair in named if pair[0] == "2.weight"],
        [pair for pair in named if pair[0].endswith("bias")],
        [pair for pair in named if pair[0] == "0.weight"],
    ]
    return [{"params": m, **o} for m, o in zip(members, own, strict=True)]


def without_names(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**group, "params": [tensor for _, tensor in group["params"]]} for group in groups]


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: Scheduler,
    part: slice = slice(0, BATCH),
    between: Callable[[int], None] = lambda _: None,
) -> None:
    for step in range(STEPS):
        inputs, targets = (t[part] for t in batch(step))
        optimizer.zero_grad()
        begin = getattr(optimizer, "begin_step", None)
        if begin is not None:
            begin(samples=len(inputs))
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
        if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
            scheduler.step(1.0)
        else:
            scheduler.step()
        between(step)


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def difference(result: Tensor, expected: Tensor) -> float:
    return float((result - expected).abs().max() / expected.abs().max())


def alone(optimizer: str, scheduler: str) -> Tensor:
    """One process, torch's own optimizer, the joint batch."""
    model = build()
    own = OPTIMIZERS[optimizer][1](without_names(groups_of(model, OWN[optimizer])))
    train(model, own, SCHEDULERS[scheduler](own))
    return flat(model)


COMBINATIONS = list(itertools.product(OPTIMIZERS, SCHEDULERS))


@pytest.mark.parametrize(("optimizer", "scheduler"), COMBINATIONS)
def test_one_worker_has_the_results_of_torchs_own_optimizer(optimizer: str, scheduler: str) -> None:
    model = build()
    overlap = scheduler in ("one cycle", "by hand", "cosine")
    transport = "tcp" if scheduler in ("one cycle", "step") else "auto"
    with (
        serving(policy="asp", chunk_kib=64, **OPTIMIZERS[optimizer][0]) as server,
        PSOptimizer(
            groups_of(model, OWN[optimizer]), server.address, rank=1, overlap=overlap,
            transport=transport,
        ) as own,
    ):  # fmt: skip
        train(model, own, SCHEDULERS[scheduler](own))
    assert difference(flat(model), alone(optimizer, scheduler)) < 1e-10


@pytest.mark.parametrize(
    ("optimizer", "scheduler"), [c for c in COMBINATIONS if c[1] not in ("linear", "by hand")]
)
def test_two_workers_have_the_results_of_one_process_on_the_joint_batch(
    optimizer: str, scheduler: str
) -> None:
    models = [build() for _ in range(2)]
    half = BATCH // 2

    def work(rank: int) -> None:
        model = models[rank - 1]
        groups = groups_of(model, OWN[optimizer])
        with PSOptimizer(groups, server.address, rank, overlap=rank == 2) as own:
            part = slice((rank - 1) * half, rank * half)
            train(model, own, SCHEDULERS[scheduler](own), part)

    settings: dict[str, Any] = {"policy": "bsp", "workers": 2, "lr_scaling": "none",
                                "chunk_kib": 64, **OPTIMIZERS[optimizer][0]}  # fmt: skip
    with serving(**settings) as server, ThreadPoolExecutor(2) as pool:
        list(pool.map(work, (1, 2)))
        assert server.join() == 0
    assert torch.equal(flat(models[0]), flat(models[1]))
    assert difference(flat(models[0]), alone(optimizer, scheduler)) < 1e-6


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_param_groups_show_what_torchs_own_optimizer_shows(optimizer: str) -> None:
    theirs = OPTIMIZERS[optimizer][1](without_names(groups_of(build(), OWN[optimizer])))
    with (
        serving(**OPTIMIZERS[optimizer][0]) as server,
        PSOptimizer(groups_of(build(), OWN[optimizer]), server.address, rank=1) as own,
    ):
        for mine, group in zip(own.param_groups, theirs.param_groups, strict=True):
            # torch has more: how a step is computed, of which the server has no choice.
            assert mine.keys() - {"params"} <= group.keys()
            shown = {name: mine[name] for name in mine if name != "params"}
            assert shown == {name: group[name] for name in shown}


@pytest.mark.parametrize("transport", ["tcp", "shm"])
def test_over_two_shards_and_broken_connections_each_step_goes_by_its_own_options(
    transport: str,
) -> None:
    """A connection breaks with the options on it, with their answer, and between two steps."""
    model = build()
    with serving(policy="asp", chunk_kib=64, shards=2, **OPTIMIZERS["sgd"][0]) as server:
        ports = server.server.shards.ports
        relays = [Relay(port) for port in ports]
        ports[:] = [relay.port for relay in relays]

        def disturb(step: int) -> None:
            relay = relays[step // 3 % 2]
            match step % 3:
                case 0:
                    relay.reset_with("options")
                case 1:
                    relay.reset_with("options_set")
                case _:
                    relay.cut()

        try:
            groups = groups_of(model, OWN["sgd"])
            with PSOptimizer(groups, server.address, rank=1, transport=transport) as own:
                train(model, own, SCHEDULERS["cosine"](own), between=disturb)
                assert own.evictions == 0
            lost = [relay.met.get_nowait() for relay in relays for _ in range(relay.met.qsize())]
        finally:
            for relay in relays:
                relay.close()
        assert server.settled().data.refusals.total() == 0
    assert sorted(lost) == ["options"] * 4 + ["options_set"] * 4
    assert difference(flat(model), alone("sgd", "cosine")) < 1e-10


def test_a_worker_that_was_evicted_goes_on_by_the_options_of_its_scheduler() -> None:
    model = build()
    reference = build()
    theirs = OPTIMIZERS["adamw"][1](without_names(groups_of(reference, OWN["adamw"])))
    with (
        serving(has_lane=False, policy="asp", **OPTIMIZERS["adamw"][0]) as server,
        PSOptimizer(groups_of(model, OWN["adamw"]), server.address, rank=1) as own,
    ):
        schedules = [SCHEDULERS["step"](optimizer) for optimizer in (own, theirs)]

        def step(inputs: Tensor, targets: Tensor, *, is_lost: bool) -> None:
            for net, optimizer in ((model, own), (reference, theirs)):
                nn.functional.cross_entropy(net(inputs), targets).backward()
                if is_lost and optimizer is theirs:
                    optimizer.zero_grad()
                    continue
                optimizer.step()
                optimizer.zero_grad()

        for number in range(STEPS):
            if number == 5:
                while server.server.members.live:
                    server.clock.skip(60.0)
                    server.thread.join(0.05)  # a moment for its loop
            step(*batch(number), is_lost=number == 5)
            for schedule in schedules:
                schedule.step()
        assert own.evictions == 1
    assert difference(flat(model), flat(reference)) < 1e-10


def test_a_clamp_holds_after_every_step() -> None:
    model, expected = build(), build()
    with (
        serving(policy="asp", lr=0.5) as server,
        PSOptimizer(groups_of(model, [{"clamp": (-0.01, 0.02)}, {}, {"clamp": (0, float("inf"))}]),
                    server.address, rank=1) as own,
    ):  # fmt: skip
        train(model, own, SCHEDULERS["step"](own))
    theirs = torch.optim.SGD(expected.parameters(), lr=0.5)

    class Clamping:
        """WGAN's clamp, after each step and before the next."""

        def __init__(self) -> None:
            self.schedule = SCHEDULERS["step"](theirs)

        def step(self) -> None:
            self.schedule.step()
            with torch.no_grad():
                expected[2].weight.clamp_(-0.01, 0.02)
                expected[0].weight.clamp_(min=0)

    train(expected, theirs, Clamping())
    assert difference(flat(model), flat(expected)) < 1e-10


class Tightening:
    """Halves the norm that the rows of a group may have, now and then."""

    def __init__(self, group: dict[str, Any]) -> None:
        self.group = group
        self.step_number = 0

    def step(self) -> None:
        self.step_number += 1
        if self.step_number % 4 == 0:
            self.group["max_norm"] *= 0.5


def embedding(dtype: torch.dtype) -> nn.Module:
    """Of six chunks in f32, with rows that no chunk of 64 KiB ends with by itself."""
    generator = torch.Generator().manual_seed(8)
    model = nn.Sequential(nn.Embedding(300, 300), nn.Flatten(), nn.Linear(900, 5)).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            values = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(values * 0.1)
    return model


def words(step: int, part: slice) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2000 + step)
    inputs = torch.randint(300, (BATCH, 3), generator=generator)
    return inputs[part], torch.randint(5, (BATCH,), generator=generator)[part]


def with_norm(model: nn.Module) -> list[dict[str, Any]]:
    named = list(model.named_parameters())
    return [{"params": named[:1], "max_norm": 1.6}, {"params": named[1:]}]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["f64", "f32"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_norm_of_rows_holds_after_every_step_of_two_workers(
    optimizer: str, dtype: torch.dtype
) -> None:
    models = [embedding(dtype) for _ in range(2)]
    half = BATCH // 2
    steps = STEPS if dtype is torch.float64 else 1

    def work(rank: int) -> None:
        model = models[rank - 1]
        transport = "tcp" if rank == 1 else "auto"
        with PSOptimizer(
            with_norm(model), server.address, rank, overlap=rank == 2, transport=transport
        ) as own:
            schedule = Tightening(own.param_groups[0])
            for step in range(steps):
                inputs, targets = words(step, slice((rank - 1) * half, rank * half))
                own.zero_grad()
                own.begin_step(samples=half)
                nn.functional.cross_entropy(model(inputs), targets).backward()
                own.step()
                schedule.step()

    joint: dict[str, Any] = {"policy": "bsp", "workers": 2, "lr_scaling": "none"}
    apart = {"shards": 2, "chunk_kib": 64, "threads": 2}
    with (
        serving(**joint, **apart, **OPTIMIZERS[optimizer][0]) as server,
        ThreadPoolExecutor(2) as pool,
    ):
        list(pool.map(work, (1, 2)))
        state = server.settled().summary()["groups"]
        assert server.join() == 0
    assert torch.equal(flat(models[0]), flat(models[1]))

    expected = embedding(dtype)
    theirs = OPTIMIZERS[optimizer][1](without_names(with_norm(expected)))
    schedule = Tightening(theirs.param_groups[0])
    for step in range(steps):
        inputs, targets = words(step, slice(0, BATCH))
        theirs.zero_grad()
        nn.functional.cross_entropy(expected(inputs), targets).backward()
        theirs.step()
        with torch.no_grad():
            table = expected[0].weight
            limit = theirs.param_groups[0]["max_norm"]
            table.copy_(torch.renorm(table, p=2, dim=0, maxnorm=limit))
            assert (table.norm(dim=1) > 0.99 * limit).sum() > 30  # it does something
        schedule.step()
    tolerance = 1e-10 if dtype is torch.float64 else 1e-6
    assert difference(flat(models[0]), flat(expected)) < tolerance
    assert state[0]["max_norm"] == (0.4 if dtype is torch.float64 else 1.6)
    assert "max_norm" not in state[1]


def test_a_norm_of_rows_that_lie_in_two_chunks_is_an_error_when_a_worker_joins() -> None:
    model = nn.Linear(20_000, 3)
    groups = [{"params": list(model.named_parameters()), "max_norm": 1.0}]
    with (
        serving(policy="asp", chunk_kib=64) as server,
        pytest.raises(UsageError, match=r"weight .* start the server with --chunk-kib 128$"),
    ):
        PSOptimizer(groups, server.address, rank=1)
    with (
        serving(policy="asp", lr=0.5, chunk_kib=128) as server,
        PSOptimizer(groups, server.address, rank=1) as own,
    ):
        model(torch.ones(20_000)).sum().backward()
        own.step()
        assert model.weight.norm(dim=1).tolist() == pytest.approx([1.0] * 3, rel=1e-5)


def test_the_run_tells_of_its_groups(tmp_path: Path) -> None:
    model = build()
    run_dir = RunDir(tmp_path / "run")
    with serving(run_dir=run_dir, **OPTIMIZERS["sgd"][0]) as server:
        with PSOptimizer(groups_of(model, OWN["sgd"]), server.address, rank=1) as own:
            train(model, own, SCHEDULERS["step"](own))
            state = own.client.state()["groups"]
        assert server.join() == 0
    events = [json.loads(line) for line in run_dir.events.read_text().splitlines()]
    tables = [event for event in events if event["event"] == "options"]
    # Three steps at a rate, of twelve.
    assert [round(t["groups"][2]["lr"], 9) for t in tables] == [0.01, 0.003, 0.0009, 0.00027]
    assert [group["slots"] for group in tables[0]["groups"]] == [1, 2, 1]
    assert json.loads(run_dir.summary.read_text())["groups"] == tables[-1]["groups"] == state
    with safe_open(run_dir.checkpoint("final"), framework="numpy") as checkpoint:
        options = json.loads(checkpoint.metadata()["options"])
    assert (options["groups"], options["lr"]) == (state, OPTIMIZERS["sgd"][0]["lr"])
    assert Counter(options["group_of_slot"]) == {0: 1, 1: 2, 2: 1}


# What cannot be, and what only the server changes


def test_a_run_that_resumes_goes_on_by_the_groups_of_its_workers(tmp_path: Path) -> None:
    straight = build()
    theirs = OPTIMIZERS["adamw"][1](without_names(groups_of(straight, OWN["adamw"])))
    for _ in range(2):
        train(straight, theirs, ByHand(theirs))
    model, settings = build(), OPTIMIZERS["adamw"][0]
    first, own = RunDir(tmp_path / "first"), OWN["adamw"]
    for resume in (None, str(first.checkpoint("final"))):
        run_dir = None if resume else first
        with serving(run_dir=run_dir, policy="asp", resume=resume, **settings) as server:
            with PSOptimizer(groups_of(model, own), server.address, rank=1) as optimizer:
                train(model, optimizer, ByHand(optimizer))
                own = [
                    {name: group[name] for name in ("lr", "betas", "weight_decay")}
                    for group in optimizer.param_groups
                ]
            assert server.join() == 0
    assert difference(flat(model), flat(straight)) < 1e-10


def test_a_schedule_of_the_servers_own_goes_from_each_groups_rate() -> None:
    model, expected = build(), build()
    own = [{}, {}, {"lr": 0.01}]
    with (
        serving(policy="asp", lr=0.05, lr_schedule="step", lr_step_size=3) as server,
        PSOptimizer(groups_of(model, own), server.address, rank=1) as optimizer,
    ):
        train(model, optimizer, lr_scheduler.ConstantLR(optimizer, 1.0))
        scheduler = SCHEDULERS["cosine"](optimizer)
        scheduler.step()
        with pytest.raises(UsageError, match="the server has --lr-schedule step: leave one of"):
            optimizer.step()
    theirs = torch.optim.SGD(without_names(groups_of(expected, own)), lr=0.05)
    train(expected, theirs, lr_scheduler.StepLR(theirs, 3))
    assert difference(flat(model), flat(expected)) < 1e-10


def test_one_cycle_with_momentum_needs_a_server_that_keeps_momentum() -> None:
    model = build()
    with (
        serving(lr=0.05) as server,
        PSOptimizer(model.named_parameters(), server.address, rank=1) as optimizer,
    ):
        lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=STEPS)
        with pytest.raises(UsageError, match=r"start it with --momentum 0.95"):
            optimizer.begin_step()
        for group in optimizer.param_groups:
            group["momentum"] = 0.0
        optimizer.begin_step()


def test_with_overlap_a_rate_that_changes_between_backward_and_step_is_an_error() -> None:
    model = build()
    inputs, targets = batch(0)
    with (
        serving(lr=0.05) as server,
        PSOptimizer(model.named_parameters(), server.address, 1, overlap=True) as optimizer,
    ):
        optimizer.begin_step(samples=BATCH)
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.param_groups[0]["lr"] = 0.01
        with pytest.raises(UsageError, match=r"lr=0\.01 was set after gradients of this step had"):
            optimizer.step()
        optimizer.param_groups[0]["lr"] = 0.05
        optimizer.step()
        optimizer.param_groups[0]["lr"] = 0.01
        optimizer.zero_grad()
        optimizer.begin_step(samples=BATCH)
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()


def test_groups_with_an_inner_optimizer_are_that_ones() -> None:
    model = build()
    inner = torch.optim.SGD(model.parameters(), lr=0.1)
    with (
        serving(lr=1.0, local_steps="2") as server,
        pytest.raises(UsageError, match="an inner optimizer takes the steps"),
    ):
        PSOptimizer(
            groups_of(model, [{"lr": 0.5}, {}, {}]), server.address, rank=1, inner=inner,
            local_steps=2,
        )  # fmt: skip


def test_each_of_the_most_groups_goes_by_its_own_rate() -> None:
    layers = nn.ModuleList(nn.Linear(1, 1, bias=False) for _ in range(MAX_OPTION_GROUPS))
    groups = [{"params": [(f"{i}.weight", layer.weight)], "lr": 0.5 / (i + 1)}
              for i, layer in enumerate(layers)]  # fmt: skip
    with serving(lr=0.1, chunk_kib=64) as server:
        with PSOptimizer(groups, server.address, rank=1) as optimizer:
            optimizer.begin_step()
            for layer in layers:
                layer.weight.grad = torch.ones(1, 1)
            before = torch.stack([layer.weight.detach().clone().flatten() for layer in layers])
            optimizer.step()
            after = torch.stack([layer.weight.detach().clone().flatten() for layer in layers])
        rates = 0.5 / torch.arange(1, MAX_OPTION_GROUPS + 1).view(-1, 1)
        torch.testing.assert_close(before - after, rates)
