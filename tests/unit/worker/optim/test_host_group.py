"""The processes of one worker, here threads with a group of gloo, against a live server."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import pytest
import torch
import torch.distributed as dist
from torch import nn

from leash import PSOptimizer, UsageError
from leash.ps.errors import LeashError, NonfiniteError, ServerUnreachableError, StoppingError
from support.servers import serving

T = TypeVar("T")

PROCESSES = 3
LIMIT = timedelta(seconds=60)


def gloo(store: dist.Store, rank: int) -> dist.ProcessGroup:
    """What `init_process_group` makes, but several in one process."""
    group = dist.ProcessGroup(store, rank, PROCESSES)
    backend = dist.ProcessGroupGloo(store, rank, PROCESSES, LIMIT)
    group._register_backend(torch.device("cpu"), dist.ProcessGroup.BackendType.GLOO, backend)
    return group


@contextmanager
def processes() -> Iterator[Callable[[Callable[[dist.ProcessGroup], T]], list[T]]]:
    """Calls a function in each thread, with the thread's group; gives what they return."""
    with ThreadPoolExecutor(PROCESSES) as pool:
        store = dist.HashStore()
        groups = list(pool.map(lambda rank: gloo(store, rank), range(PROCESSES)))
        yield lambda call: list(pool.map(call, groups))


def build() -> nn.Module:
    model = nn.Linear(2, 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)
    return model


def push(model: nn.Module, optimizer: PSOptimizer, gradient: float, samples: int) -> None:
    """A step with this gradient, as DDP leaves the same in all processes."""
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, gradient)
    optimizer.step(samples=samples)


def values(model: nn.Module) -> list[float]:
    return torch.cat([p.detach().flatten() for p in model.parameters()]).tolist()


def test_all_processes_have_what_the_first_one_got_and_the_samples_are_those_of_all() -> None:
    def train(group: dist.ProcessGroup) -> tuple[list[float], int, int]:
        model = build()
        rank = 1 if group.rank() == 0 else None  # only the first one needs to know
        server = running.address if group.rank() == 0 else None
        with PSOptimizer(model.named_parameters(), server, rank, group=group) as optimizer:
            push(model, optimizer, 0.5, samples=group.rank() + 1)
            push(model, optimizer, 0.25, samples=group.rank() + 1)
            return values(model), optimizer.version, optimizer.client.rank

    with serving(lr=1.0, policy="bsp") as running, processes() as call:
        results = call(train)
        assert running.join() == 0
        state = running.server.coordinator.state()
    assert results == [([0.25] * 3, 2, 1)] * PROCESSES
    assert (state["samples"], state["steps"]) == (2 * (1 + 2 + 3), 2)


def test_a_step_that_was_lost_is_lost_for_all() -> None:
    def begin(group: dist.ProcessGroup) -> tuple[nn.Module, PSOptimizer]:
        model = build()
        return model, PSOptimizer(model.named_parameters(), running.address, 1, group=group)

    def go_on(group: dist.ProcessGroup) -> tuple[list[float], int, int]:
        model, optimizer = made[group.rank()]
        push(model, optimizer, 0.5, samples=1)
        lost = values(model)
        push(model, optimizer, 0.5, samples=1)
        optimizer.close()
        assert lost == [1.0] * 3
        return values(model), optimizer.evictions, optimizer.version

    with serving(lr=1.0) as running, processes() as call:
        made = call(begin)
        running.server.coordinator.evict(1)
        assert call(go_on) == [([0.5] * 3, 1, 1)] * PROCESSES


def raised(call: Callable[[], object]) -> tuple[type[BaseException], str]:
    with pytest.raises(LeashError) as error:
        call()
    return type(error.value), str(error.value)


@pytest.mark.parametrize(
    ("gradient", "stops", "kind", "says"),
    [(float("nan"), False, NonfiniteError, "step 1"), (1.0, True, StoppingError, "SIGTERM")],
)
def test_an_error_of_the_first_process_is_raised_in_all(
    gradient: float, stops: bool, kind: type[LeashError], says: str
) -> None:
    def fail(group: dist.ProcessGroup) -> tuple[type[BaseException], str]:
        model = build()
        optimizer = PSOptimizer(model.named_parameters(), running.address, 1, group=group)
        if stops and group.rank() == 0:
            running.server.stop_soon(15)
            optimizer.client.liveness._thread.join(30)
        failure = raised(lambda: push(model, optimizer, gradient, 1))
        optimizer.close("failed")
        return failure

    with serving() as running, processes() as call:
        failures = call(fail)
    assert failures == [failures[0]] * PROCESSES
    assert failures[0][0] is kind
    assert says in failures[0][1]


@pytest.mark.parametrize(
    ("server", "rank", "kind"),
    [
        ("tcp://127.0.0.1:9", 1, ServerUnreachableError), ("nowhere", 1, UsageError),
        (None, 1, UsageError), ("tcp://127.0.0.1:9", -1, UsageError),
    ],
)  # fmt: skip
def test_a_run_that_cannot_be_joined_is_named_in_all(
    monkeypatch: pytest.MonkeyPatch, server: str | None, rank: int, kind: type[LeashError]
) -> None:
    monkeypatch.delenv("LEASH_SERVER", raising=False)

    def fail(group: dist.ProcessGroup) -> tuple[type[BaseException], str]:
        parameters = build().named_parameters()
        return raised(lambda: PSOptimizer(parameters, server, rank, group=group, wait_s=0.1))

    with processes() as call:
        failures = call(fail)
    assert [issubclass(each, kind) for each, _ in failures] == [True] * PROCESSES
    assert len({text for _, text in failures}) == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"overlap": True}, "would leave before DistributedDataParallel has taken its mean"),
        ({"inner": True}, "goes without an inner optimizer"),
        ({"group": 3}, "expected a process group of torch.distributed .*, got int"),
    ],
)
def test_what_does_not_go_with_a_group_is_refused(options: dict[str, Any], says: str) -> None:
    model = build()
    if "inner" in options:
        options = {"inner": torch.optim.SGD(model.parameters(), 0.1)}
    group = dist.ProcessGroup(dist.HashStore(), 0, PROCESSES)
    with pytest.raises(UsageError, match=says):
        PSOptimizer(model.named_parameters(), "tcp://127.0.0.1:9", 1, **{"group": group, **options})
