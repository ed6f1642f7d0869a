"""A step that ends in the middle, wherever that is: the next one goes on by itself.

The gradient of the loss is the same everywhere, and everything is a power of two. So one step of
torch's sgd is exact, and whatever was applied by half, twice or to old memory would show.
"""

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from leash.ps.errors import ArgumentError, UsageError
from leash.ps.wire.layout import Layout, Slot
from leash.ps.wire.messages import Report
from leash.worker import PSOptimizer
from leash.worker.client import Client, StepInfo
from support.gpus import DEVICES
from support.servers import RunningServer, serving

LR = 0.5
OURS = ("/worker/optim/", "/worker/client/", "/ps/wire/")
POINTS = 24  # of a step at which it is broken off, spread over all of its lines

Loop = Callable[[], None]


class Line:
    """Raises Ctrl-C at one line of Leash's own code, counted from the beginning."""

    def __init__(self, stop_at: int | None) -> None:
        self.stop_at = stop_at
        self.count = 0

    def __call__(self, frame: FrameType, event: str, _: Any) -> "Line | None":
        code = frame.f_code
        # How many lines a worker spins for an answer differs from step to step.
        if not any(part in code.co_filename for part in OURS) or code.co_name == "_spin":
            return None
        if event == "line":
            self.count += 1
            if self.count == self.stop_at:
                raise KeyboardInterrupt
        return self


@contextmanager
def tracing(line: Line) -> Iterator[None]:
    before = sys.gettrace()
    sys.settrace(line)
    try:
        yield
    finally:
        sys.settrace(before)


def lines_of(action: Loop) -> int:
    line = Line(None)
    with tracing(line):
        action()
    return line.count


def broken_off(action: Loop, at: int) -> bool:
    """Whether Ctrl-C at this line came out."""
    try:
        with tracing(Line(at)):
            action()
    except KeyboardInterrupt:
        return True
    return False


class Training:
    """A model of several chunks, whose every gradient is 1, and somebody who watches the server."""

    def __init__(
        self, running: RunningServer, *, local: bool, device: str, **settings: Any
    ) -> None:
        torch.manual_seed(1)
        self.model = nn.ParameterDict(
            {name: nn.Parameter(torch.ones(20_000, device=device)) for name in ("a", "b", "c")}
        )
        self.overlap = settings.get("overlap", False)
        if local:
            inner = torch.optim.SGD(self.model.parameters(), lr=LR)
            settings.update(inner=inner, local_steps=2)
        named = list(self.model.named_parameters())
        self.optimizer = PSOptimizer(named, running.address, rank=1, say=self.say, **settings)
        self.watcher = Client(
            running.address, Layout([Slot(n, "f32", tuple(p.shape)) for n, p in named])
        )
        self.said: list[str] = []

    def say(self, line: str) -> None:
        self.said.append(line)

    def step(self) -> None:
        self.optimizer.zero_grad()
        if self.overlap:
            self.optimizer.begin_step(samples=4)
        self.loss().backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

    def go_on(self) -> None:
        """Has the worker join again, where that is due."""
        with suppress(UsageError):  # after Ctrl-C between backward and what step() does first
            self.optimizer.zero_grad()
        self.optimizer.zero_grad()
        self.optimizer.flush()

    def loss(self) -> Tensor:
        return torch.stack([parameter.sum() for parameter in self.model.parameters()]).sum()

    def values(self) -> Tensor:
        return torch.cat([p.detach().to("cpu", copy=True) for p in self.model.parameters()])

    def served(self) -> Tensor:
        slab = np.zeros(self.watcher.layout.nbytes, np.uint8)
        self.watcher.pull(slab)
        return torch.from_numpy(slab.view(np.float32).copy())

    def close(self) -> None:
        self.optimizer.close()
        self.watcher.close()


@contextmanager
def training(*, local: bool = False, device: str = "cpu", **settings: Any) -> Iterator[Training]:
    rates = {"outer_lr": 1.0} if local else {"lr": LR}
    with serving(policy="asp", **rates, chunk_kib=64, window=4) as running:
        made = Training(running, local=local, device=device, **settings)
        try:
            yield made
        finally:
            made.close()
        assert running.join() == 0


PATHS = {
    "plain": {"overlap": False},
    "overlap": {"overlap": True},
    "local steps": {"local": True},
}


@pytest.mark.parametrize("transport", ["tcp", "shm"])
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("device", DEVICES)
def test_a_step_that_is_broken_off_at_any_line_is_followed_by_one_that_is_torchs(
    path: str, transport: str, device: str
) -> None:
    with training(transport=transport, device=device, **PATHS[path]) as made:
        made.step()
        every = made.optimizer.local_steps

        def push() -> None:
            for _ in range(every):
                made.step()

        made.optimizer.flush()
        lines = lines_of(push)
        points = range(1, lines + 1, max(1, lines // POINTS))
        for at in points:
            broken_off(push, at)
            made.go_on()
            before = made.values()
            if every == 1:  # what an inner optimizer has changed goes out with the next push
                assert torch.equal(before, made.served()), f"line {at} of {lines}"
            push()
            assert torch.equal(made.values(), before - every * LR), f"line {at} of {lines}"
            assert torch.equal(made.values(), made.served()), f"line {at} of {lines}"
        assert len(points) >= POINTS
        assert len(made.said) > POINTS // 3  # a step that was broken off is told
        assert made.optimizer.evictions == 0


# A socket that Ctrl-C leaves between its making and its keeping is closed when Python finds it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_joining_again_may_be_broken_off_too() -> None:
    with training(overlap=True) as made:
        made.step()

        def join_again() -> None:
            made.optimizer.rejoin()

        lines = lines_of(join_again)
        for at in range(1, lines + 1, lines // POINTS):
            broken_off(join_again, at)
            made.go_on()
            before = made.values()
            made.step()
            assert torch.equal(made.values(), before - LR), f"line {at} of {lines}"
            assert torch.equal(made.values(), made.served()), f"line {at} of {lines}"


def test_gradients_that_were_computed_before_the_worker_joined_again_are_left_out_and_that_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    finish = Client.finish_step

    def finish_and_break_off(client: Client) -> StepInfo:
        finish(client)
        raise KeyboardInterrupt

    with training() as made:
        made.step()
        with monkeypatch.context() as patch:
            patch.setattr(Client, "finish_step", finish_and_break_off)
            with pytest.raises(KeyboardInterrupt):
                made.step()
        told = len(made.said)
        made.loss().backward()  # type: ignore[no-untyped-call]
        made.optimizer.step()
        assert torch.equal(made.values(), made.served())
        assert len(made.said) == told + 1
        assert "joins again" in made.said[-1]
        before = made.values()
        made.loss().backward()  # type: ignore[no-untyped-call]
        made.optimizer.step()
        assert torch.equal(made.values(), before - LR)


@pytest.mark.parametrize("call", ["zero_grad", "begin_step"])
def test_a_loop_that_was_broken_off_before_step_goes_on_at_the_second_call(call: str) -> None:
    with training(overlap=True) as made:
        made.step()
        made.optimizer.zero_grad()
        made.optimizer.begin_step(samples=4)
        made.loss().backward()  # type: ignore[no-untyped-call]
        begin = getattr(made.optimizer, call)
        with pytest.raises(UsageError, match="overlap=False"):
            begin()
        begin()
        before = made.values()
        assert torch.equal(before, made.served())
        made.step()
        assert torch.equal(made.values(), before - LR)


def test_a_call_that_was_an_error_leaves_the_step_to_be_finished() -> None:
    with training(overlap=True) as made:
        before = made.values()
        for _ in range(2):
            made.optimizer.zero_grad()
            made.optimizer.begin_step(samples=4)
            made.loss().backward()  # type: ignore[no-untyped-call]
            with pytest.raises(UsageError, match=r"zero_grad\(\) between backward and step"):
                made.optimizer.zero_grad()
            made.optimizer.step()
        assert torch.equal(made.values(), before - 2 * LR)
        assert made.said == []


class UsersError(Exception):
    """What a user's own code raises in backward."""


@pytest.mark.parametrize("error", [KeyboardInterrupt, UsersError])
def test_a_backward_that_fails_after_gradients_have_left_costs_that_step_alone(
    error: type[BaseException],
) -> None:
    with training(overlap=True) as made:
        made.step()
        before = made.values()

        def fail(_: Tensor) -> None:
            raise error

        made.optimizer.zero_grad()
        made.optimizer.begin_step(samples=4)
        hook = made.model["b"].register_hook(fail)
        with pytest.raises(error):
            made.loss().backward()  # type: ignore[no-untyped-call]
        hook.remove()
        made.optimizer.begin_step(samples=4)
        assert torch.equal(made.values(), made.served())
        made.loss().backward()  # type: ignore[no-untyped-call]
        made.optimizer.step()
        made.step()
        assert set((before - made.values()).tolist()) <= {2 * LR, 3 * LR}


@pytest.mark.parametrize("path", PATHS)
def test_samples_is_any_whole_number(path: str) -> None:
    numbers = [np.int64(3), np.uint8(3), torch.tensor(3), torch.tensor([3]), True, 0]
    with training(**PATHS[path]) as made:
        for samples in numbers:
            made.optimizer.begin_step(samples=samples)
            made.loss().backward()  # type: ignore[no-untyped-call]
            made.optimizer.step(samples=samples)
            made.optimizer.zero_grad()
        assert torch.equal(made.values(), torch.full((60_000,), 1 - len(numbers) * LR))


@pytest.mark.parametrize("path", PATHS)
def test_samples_that_cannot_be_are_one_error_that_costs_nothing(path: str) -> None:
    with training(**PATHS[path]) as made:
        for samples in (3.0, "3", torch.tensor(3.0), -1, 2**32):
            with pytest.raises(ArgumentError, match="give a whole number from 0 to 4294967295"):
                made.optimizer.begin_step(samples=samples)  # type: ignore[arg-type]
            made.optimizer.begin_step(samples=4)
            made.loss().backward()  # type: ignore[no-untyped-call]
            with pytest.raises(ArgumentError, match=f"samples={re.escape(repr(samples))}"):
                made.optimizer.step(samples=samples)  # type: ignore[arg-type]
            made.optimizer.step(samples=4)
            made.optimizer.zero_grad()
        assert torch.equal(made.values(), torch.full((60_000,), 1 - 5 * LR))
        assert made.said == []


def test_numbers_of_numpy_travel_in_every_message() -> None:
    layout = Layout([Slot("w", "f32", (4,))])
    with serving(epochs=1) as running:
        client = Client(running.address, layout, rank=np.int64(1))
        slab = np.zeros(layout.nbytes, np.uint8)
        client.begin(slab)
        n, x = np.int64(10), np.float32(0.5)
        leased = client.lease(n, np.int32(1), n, x)  # type: ignore[arg-type]
        client.push_pull(slab, slab, samples=np.uint16(leased.count))
        client.report(
            Report(1, client.incarnation, "epoch", np.int64(1), n, n, x, x, x, x)  # type: ignore[arg-type]
        )
        client.close()
        assert running.join() == 0
        assert running.server.metrics.workers[1].loss == 0.5
