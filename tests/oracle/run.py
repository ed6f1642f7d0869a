"""One side of a comparison: what a habit trains is stepped by torch, or by Leash's server."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor, nn

from leash.worker import PSOptimizer
from support.servers import RunningServer, serving

# What a habit gives: it yields after each step, with what else is to be compared.
Steps = Generator[Any, None, None]

STEPS: Final = 20
FEATURES, CLASSES, SAMPLES = 12, 3, 5

# What --optimizer of the server and torch call it, and the options that both take. Every one decays
# weights: only so does a step without a gradient show.
OPTIMIZERS: Final[dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any]]]] = {
    "sgd": (torch.optim.SGD, {"lr": 0.05, "weight_decay": 0.02}),
    "momentum": (
        torch.optim.SGD,
        {"lr": 0.02, "momentum": 0.9, "dampening": 0.4, "weight_decay": 0.02},
    ),
    "adamw": (torch.optim.AdamW, {"lr": 0.01, "betas": (0.8, 0.95), "weight_decay": 0.1}),
    "adagrad": (torch.optim.Adagrad, {"lr": 0.05, "lr_decay": 0.01, "weight_decay": 0.02}),
}
SERVERS: Final = {"sgd": "sgd", "momentum": "sgd", "adamw": "adamw", "adagrad": "adagrad"}

# A server that has nobody left ends within its next tick. Nobody waits for that but the last test.
_ENDING: Final = ThreadPoolExecutor(8, thread_name_prefix="servers' ends")
ENDS: Final[list[Future[None]]] = []


@dataclass(frozen=True, slots=True)
class Setting:
    """What a habit is combined with."""

    optimizer: str  # of OPTIMIZERS
    overlap: bool
    transport: str  # "tcp" or "shm"

    def __str__(self) -> str:
        return f"{self.optimizer}-{'overlap' if self.overlap else 'plain'}-{self.transport}"


@dataclass
class Run:
    """What a habit is given: its optimizers and its batches.

    Attributes:
        is_torch: whether torch's own optimizer does the steps, so that Leash is compared with it.
        setting: what the habit is combined with.
        servers: those that the habit's optimizers have asked for, in their order.
        inners: the inner optimizers, likewise.
        said: the lines that Leash has shown.
    """

    is_torch: bool
    setting: Setting
    servers: list[RunningServer] = field(default_factory=list)
    inners: list[torch.optim.Optimizer] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    _ends: ExitStack = field(default_factory=ExitStack)
    _watched: list[tuple[str, Tensor]] = field(default_factory=list)
    _open: ExitStack = field(default_factory=ExitStack)

    def optimizer(
        self, params: Any, *, server: dict[str, Any] | None = None, inner: bool = False,
        outer_lr: float = 1.0, leash: dict[str, Any] | None = None, watches: bool = True,
        **options: Any,
    ) -> Any:  # fmt: skip
        """Makes the optimizer of this side.

        Args:
            params: pairs of name and tensor, or groups of them.
            server: further options of the server.
            inner: torch's optimizer steps on either side, in Leash as the inner one.
            outer_lr: the rate at which the server applies what an inner optimizer has changed.
            leash: further arguments of PSOptimizer.
            watches: whether the parameters are compared.
            options: of the optimizer, instead of those in OPTIMIZERS.
        """
        groups = _groups(params)
        if watches:
            self._watched += [pair for group in groups for pair in group["params"]]
        of_torch, defaults = OPTIMIZERS[self.setting.optimizer]
        chosen = {**defaults, **options}
        if self.is_torch:
            return _with_our_verbs(of_torch([_unnamed(group) for group in groups], **chosen))
        held = dict(leash or {})
        if inner:
            held["inner"] = of_torch([_unnamed(group) for group in groups], **chosen)
            self.inners.append(held["inner"])
        told = {"optimizer": "sgd", "outer_lr": outer_lr} if inner else self._server_options(chosen)
        running = self._ends.enter_context(
            serving(policy="asp", chunk_kib=64, **{**told, **(server or {})})
        )
        self.servers.append(running)
        given = groups if len(groups) > 1 or len(groups[0]) > 1 else groups[0]["params"]
        optimizer = PSOptimizer(
            given, running.address, rank=1, overlap=self.setting.overlap,
            transport=self.setting.transport, say=self.said.append, **held,
        )  # fmt: skip
        # A server that everybody has left as done ends at once, and its last answer may be lost in
        # its closing: the worker would wait for a second.
        self._open.callback(optimizer.close, "stopped")
        return optimizer

    def _server_options(self, options: dict[str, Any]) -> dict[str, Any]:
        told = dict(options)
        if "betas" in told:
            told["betas"] = ",".join(map(str, told["betas"]))
        return {"optimizer": SERVERS[self.setting.optimizer], **told}

    def batches(self, count: int = STEPS) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and targets, the same on either side."""
        generator = torch.Generator().manual_seed(7)
        for _ in range(count):
            inputs = torch.randn(
                SAMPLES, FEATURES, generator=generator, dtype=torch.float64, device="cpu"
            )
            targets = torch.randint(CLASSES, (SAMPLES,), generator=generator, device="cpu")
            yield inputs.to(here(), torch.get_default_dtype()), targets.to(here())

    def watch(self, **tensors: Tensor) -> None:
        """Compares these too: parameters that no optimizer was given, or buffers."""
        self._watched += tensors.items()

    def watched(self) -> dict[str, Tensor]:
        """The parameters now, by name; those of a second optimizer have its number too."""
        now: dict[str, Tensor] = {}
        for name, tensor in self._watched:
            again = sum(known.split("@")[0] == name for known in now)
            now[f"{name}@{again}" if again else name] = tensor.detach().clone()
        return now

    def close(self) -> None:
        """Lets go of the optimizers, whatever became of them; the servers end meanwhile."""
        try:
            self._open.close()
        finally:
            ENDS.append(_ENDING.submit(self._ends.pop_all().close))

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _groups(params: Any) -> list[dict[str, Any]]:
    given = list(params)
    groups = given if given and isinstance(given[0], dict) else [{"params": given}]
    return [{**group, "params": list(group["params"])} for group in groups]


def _unnamed(group: dict[str, Any]) -> dict[str, Any]:
    return {**group, "params": [tensor for _, tensor in group["params"]]}


def _with_our_verbs(optimizer: Any) -> Any:
    """Lets torch's optimizer hear what only PSOptimizer needs; its answer is to do nothing."""
    for verb in ("begin_step", "publish", "flush"):
        setattr(optimizer, verb, lambda **_: None)
    return optimizer


# What most habits train, and how.


def here() -> torch.device:
    """Where the models and batches of a habit are made: torch's default device."""
    return torch.empty(0).device


def mlp() -> nn.Module:
    """A small network whose parameters span several chunks of 64 KiB."""
    return nn.Sequential(
        nn.Linear(FEATURES, 700), nn.Tanh(), nn.Linear(700, 12), nn.Tanh(), nn.Linear(12, CLASSES)
    )


def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The cross entropy of a classifier's answers."""
    inputs, targets = batch
    return nn.functional.cross_entropy(model(inputs), targets)


def backward(optimizer: Any, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """What a training loop does before step(): it returns the loss."""
    optimizer.zero_grad()
    optimizer.begin_step()
    loss = loss_of(model, batch)
    loss.backward()  # type: ignore[no-untyped-call]
    return loss
