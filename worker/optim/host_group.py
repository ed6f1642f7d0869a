"""A host with several GPUs is one worker: its processes train with DistributedDataParallel.

::

    process 0, the first    backward ─ DDP's mean ─▸ sum of samples ─▸ push, pull ─▸ outcome, slab
    process 1 …             backward ─ DDP's mean ─▸ sum of samples ─▸ ........... ─▸ outcome, slab

The first process of the group has the client. Each of its calls that the others take part in ends
with an outcome, which it tells them: what came back, or the error, which they raise too. After a
good one it sends them the slab that the server has filled. So all of them go through the same
calls in the same order, whatever happens, and a step that was lost is lost for all.

A process that is gone breaks the group's connections: the next call of the others raises
LeashError, and the worker ends as any worker that fails.
"""

import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Final, Literal, Protocol, SupportsIndex, TypeVar, cast

import torch
from torch import Tensor

from leash._log import Say, say_on_stderr
from leash.ps import errors
from leash.ps.errors import LeashError, UsageError
from leash.ps.trackers.rows import checked_metrics
from leash.ps.wire.layout import Layout
from leash.ps.wire.messages import Beaten
from leash.ps.wire.options_table import OptionsTable
from leash.ps.words import DONE
from leash.worker.client import Client, StepInfo
from leash.worker.client.arguments import checked_samples
from leash.worker.client.control.doing import Doing
from leash.worker.client.control.membership import FORKED
from leash.worker.client.control.waiting import Waiting
from leash.worker.client.memory import Slab
from leash.worker.optim.joining import find_server_and_rank

T = TypeVar("T")

NO_OVERLAP: Final = (
    "group=: with overlap a gradient would leave before DistributedDataParallel has taken its "
    "mean; leave overlap out"
)
NO_LOCAL_STEPS: Final = "group=: goes without an inner optimizer; leave one of the two out"
GONE: Final = "a process of this worker's group is gone, or hears no more: {}"


class Collective(Protocol):
    """A collective call that was begun."""

    def wait(self) -> Any:
        """Waits for its end."""
        ...


class ProcessGroup(Protocol):
    """What is asked of a ``torch.distributed.ProcessGroup``."""

    def rank(self) -> int:
        """The number of this process in the group, from 0."""
        ...

    def size(self) -> int:
        """How many processes the group has."""
        ...

    def allreduce(self, tensor: Tensor) -> Collective:
        """Replaces the tensor by the sum over all processes."""
        ...

    def broadcast(self, tensor: Tensor, root: int) -> Collective:
        """Replaces the tensor by that of process `root`."""
        ...


def check_group(group: ProcessGroup | None, *, overlap: bool, has_inner: bool) -> None:
    """Refuses a group that cannot be, or that does not go with other arguments of PSOptimizer.

    Raises:
        UsageError: it is not this process's group, or there is overlap or an inner optimizer.
    """
    if group is None:
        return
    if not (hasattr(group, "allreduce") and hasattr(group, "broadcast")):
        raise UsageError("group: expected a process group of torch.distributed that this process "
                         f"is in, got {type(group).__name__}")  # fmt: skip
    if overlap:
        raise UsageError(NO_OVERLAP)
    if has_inner:
        raise UsageError(NO_LOCAL_STEPS)


def make_client(
    group: ProcessGroup | None, device: torch.device, layout: Layout, server: str | None,
    rank: int | Literal["auto"] | None, *, say: Say | None, **settings: Any,
) -> Client:  # fmt: skip
    """Makes the client of a worker; of one of several processes, its part of the client.

    Args:
        group: the worker's processes; None if it is this one alone.
        device: of the model.
        layout: of the model.
        server: the server's address, if the script names it.
        rank: of the worker, if the script names it.
        say: shows a line; on stderr if None.
        settings: further arguments of `Client`.

    Raises:
        LeashError: what `Client` raises, in all processes of the group.
    """
    if group is None:
        server, rank = find_server_and_rank(server, rank, say or say_on_stderr)
        return Client(server, layout, rank=rank, say=say, **settings)
    link = GroupLink(group, device)
    if not link.is_first:
        # It has what PSOptimizer asks of a client.
        return cast(Client, OtherOfGroup(link, layout))
    with link.telling_failures():
        found = find_server_and_rank(server, rank, say or say_on_stderr, group.size())
        return FirstOfGroup(link, found[0], layout, found[1], say=say, **settings)


class GroupLink:
    """What the processes of a group tell one another. All of them call the same, in one order."""

    def __init__(self, group: ProcessGroup, device: torch.device) -> None:
        """Begins with nothing told.

        Args:
            group: its connections.
            device: of the model. A group of NCCL alone takes no tensors of the processor.
        """
        self.is_first: Final = group.rank() == 0
        self._group: Final = group
        name = getattr(group, "name", lambda: "")()
        self._device: Final = device if name == "nccl" else torch.device("cpu")

    def total(self, samples: int) -> int:
        """The sum over all processes."""
        number = torch.tensor([samples], dtype=torch.int64, device=self._device)
        with _group_is_there():
            self._group.allreduce(number).wait()
        return int(number)

    def share(self, slab: Slab) -> None:
        """Fills the slab of each other process with that of the first."""
        here = torch.from_numpy(slab)
        there = here.to(self._device)
        self._broadcast(there)
        if there is not here and not self.is_first:
            here.copy_(there)

    def tell(self, outcome: dict[str, Any]) -> None:
        """The first process tells the others."""
        text = torch.tensor(list(json.dumps(outcome).encode()), dtype=torch.uint8)
        self._broadcast(torch.tensor([len(text)], dtype=torch.int64, device=self._device))
        self._broadcast(text.to(self._device))

    def hear(self) -> dict[str, Any]:
        """What the first process tells. Raises the error that it tells."""
        nbytes = torch.zeros(1, dtype=torch.int64, device=self._device)
        self._broadcast(nbytes)
        text = torch.zeros(int(nbytes), dtype=torch.uint8, device=self._device)
        self._broadcast(text)
        outcome: dict[str, Any] = json.loads(bytes(text.tolist()))
        if "error" in outcome:
            raise _error(outcome["error"], outcome["text"])
        return outcome

    @contextmanager
    def telling_failures(self) -> Iterator[None]:
        """Tells the others the error that ends this context."""
        try:
            yield
        except LeashError as error:
            self.tell({"error": type(error).__name__, "text": str(error)})
            raise

    def _broadcast(self, tensor: Tensor) -> None:
        with _group_is_there():
            self._group.broadcast(tensor, 0).wait()


class FirstOfGroup(Client):
    """The client of the group's first process, which tells the others how each call ended."""

    def __init__(
        self,
        link: GroupLink,
        address: str,
        layout: Layout,
        rank: int | Literal["auto"],
        **settings: Any,
    ) -> None:
        self._link: Final = link
        self._is_shared = False  # whether a call is under way whose outcome will be told
        self._postponed: LeashError | None = None  # what `begin_step` met
        self._told = ""  # who has told this worker to go, as the others have heard
        super().__init__(address, layout, rank=rank, **settings)
        link.tell({"rank": self.rank, "settings": self.settings,
                   "chunk_nbytes": self.welcome.chunk_nbytes})  # fmt: skip

    def begin(
        self, parameters: Slab, on_wait: Callable[[Beaten | None], None] | None = None
    ) -> None:
        show = on_wait or Waiting.of_library(self._say).workers

        def tell_and_show(beaten: Beaten | None) -> None:
            self._link.tell({"waiting": True})  # a group has a time limit for each call
            show(beaten)

        self._share(lambda: super(FirstOfGroup, self).begin(parameters, tell_and_show), parameters)

    def pull(self, parameters: Slab) -> int:
        return self._share(lambda: super(FirstOfGroup, self).pull(parameters), parameters)

    def publish(self, values: Slab) -> None:
        self._share(lambda: super(FirstOfGroup, self).publish(values), None)

    def rejoin(self) -> None:
        self._share(super().rejoin, None)

    def begin_step(
        self, gradients: Slab, parameters: Slab, samples: SupportsIndex, *,
        absent: Collection[int] = (), held: Slab | None = None,
    ) -> None:  # fmt: skip
        self._postponed = None
        self._parameters = parameters
        together = self._link.total(checked_samples(samples))
        try:
            super().begin_step(gradients, parameters, together, absent=absent, held=held)
        except LeashError as error:  # the others hear of it at the end of the step
            self._postponed = error

    def advance(self, first_ready: int) -> None:
        if self._postponed is None:
            super().advance(first_ready)

    def finish_step(self) -> StepInfo:
        return self._share(self._finish, self._parameters)

    def _finish(self) -> StepInfo:
        if self._postponed is not None:
            raise self._postponed
        return super().finish_step()

    @property
    def told(self) -> str:
        """Who has told this worker to go, as all of its processes know after each call."""
        self.departure.look()
        return self._told

    def _share(self, call: Callable[[], T], slab: Slab | None) -> T:
        """Makes a call, tells the others its outcome, and sends them the slab that it filled."""
        if self._is_shared:  # a call within a call
            return call()
        self._is_shared = True
        try:
            with self._link.telling_failures():
                result = call()
        finally:
            self._is_shared = False
        outcome = {"info": asdict(result) if isinstance(result, StepInfo) else result}
        self._told = self.departure.why
        self._link.tell({**outcome, "told": self._told})
        if slab is not None:
            self._link.share(slab)
        return result


class OtherOfGroup:
    """Stands for the client in each other process: it hears how the first one's calls ended.

    Attributes:
        layout: what a slab holds.
        chunks: the layout's chunks.
        rank: the worker's number; that of all processes of the group.
        settings: what the run goes by.
        told: who has told this worker to go, as of its newest step; empty while nobody has.
        steps: how many steps this worker has begun to push.
        doing: what this process does, which nobody hears of.
    """

    def __init__(self, link: GroupLink, layout: Layout) -> None:
        """Waits until the first process has joined the run.

        Raises:
            LeashError: what the first process met instead.
        """
        self._link: Final = link
        joined = link.hear()
        self.layout: Final = layout
        self.chunks: Final = layout.cut(joined["chunk_nbytes"])
        self.rank: Final[int] = joined["rank"]
        self.settings: Final[dict[str, Any]] = joined["settings"]
        self.steps: int = 0
        self.doing: Final = Doing()
        self.told: str = ""  # who has told this worker to go
        self._process: Final = os.getpid()

    def tell_to_leave(self, _: str) -> None:
        """Does nothing: the first process hears of it, and tells this one."""

    def begin(
        self, parameters: Slab, on_wait: Callable[[Beaten | None], None] | None = None
    ) -> None:
        """Waits until the first process has the common values, and takes them over."""
        while self._link.hear().get("waiting"):
            if on_wait is not None:
                on_wait(None)
        self._link.share(parameters)

    def pull(self, parameters: Slab) -> int:
        """Takes over the values that the first process pulls; returns their version."""
        version: int = self._link.hear()["info"]
        self._link.share(parameters)
        return version

    def publish(self, _: Slab) -> None:
        """Waits until the first process has made its values everybody's."""
        self._link.hear()

    def keep(self, _: Callable[[], Slab]) -> None:
        """Does nothing: the first process offers what it has."""

    def rejoin(self) -> None:
        """Waits until the first process has said hello again."""
        self._link.hear()

    def set_options(self, _: OptionsTable) -> None:
        """Does nothing: the first process sends those of its own ``param_groups``."""

    def log(self, metrics: Mapping[str, Any], step: SupportsIndex | None = None) -> None:
        """Checks what the loop logs, and does no more: what the first process logs counts."""
        checked_metrics(metrics)

    def begin_step(self, _: Slab, parameters: Slab, samples: SupportsIndex, **__: Any) -> None:
        """Adds this process's samples to those of the step."""
        self._parameters = parameters
        self.steps += 1
        self._link.total(checked_samples(samples))

    def advance(self, _: int) -> None:
        """Does nothing: the first process has the same gradients, and sends them."""

    def finish_step(self) -> StepInfo:
        """Waits until the first process has the answers, and takes them over."""
        heard = self._link.hear()
        info, self.told = StepInfo(**heard["info"]), heard["told"]
        self._link.share(self._parameters)
        return info

    @property
    def is_own_process(self) -> bool:
        """Whether this process is the one that joined, and not one that was forked from it."""
        return os.getpid() == self._process

    def require_own_process(self) -> None:
        """Refuses a process that was forked. Raises UsageError."""
        if not self.is_own_process:
            raise UsageError(FORKED.format(self._process, os.getpid()))

    def close(self, _: str = DONE) -> None:
        """Does nothing: the first process says bye for all."""


@contextmanager
def _group_is_there() -> Iterator[None]:
    """Turns what torch raises when a process of the group is gone into a LeashError."""
    try:
        yield
    except RuntimeError as error:
        raise LeashError(GONE.format(str(error).splitlines()[0])) from error


def _error(name: str, text: str) -> LeashError:
    """Makes the error again that the first process has raised."""
    if name == errors.ArgumentError.__name__:  # it is made of parts, and its text of them
        return UsageError(text)
    kind = getattr(errors, name, LeashError)
    return cast(LeashError, kind(text))
