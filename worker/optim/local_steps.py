"""Local steps: a worker's own optimizer takes several, and one push sends what they have changed.

::

    step      1    2    3    4 ─▸ push: start - now ─▸ answer: the common parameters, next start
    inner     ▪    ▪    ▪    ▪

This is local SGD (Stich 2019, arXiv:1805.09767) if the server applies the difference as it comes,
and DiLoCo (Douillard et al. 2023, arXiv:2311.08105, algorithm 1) with AdamW inside and Nesterov
momentum outside. The server takes the difference for a gradient like any other. The inner
optimizer's state stays in this process.
"""

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, Final, Protocol, SupportsIndex

import torch
from torch import Tensor

from leash.ps.errors import EvictedError, LeashError, RestartedError, UsageError
from leash.worker.client import StepInfo
from leash.worker.client.arguments import checked_samples
from leash.worker.client.memory import Slab
from leash.worker.optim.slabs import ModelSlabs, Place
from leash.worker.optim.step_path import NO_INNER, agreed_samples


class RoundClient(Protocol):
    """The methods of `leash.worker.client.client.Client` that a round calls."""

    def check(self) -> None:
        """Raises what has ended this worker's part in the run, if anything has."""
        ...

    def push_pull(
        self, gradients: Slab, parameters: Slab, samples: int, *,
        absent: Collection[int], held: Slab | None,
    ) -> StepInfo:  # fmt: skip
        """Pushes a slab of gradients, and fills a slab with the parameters that come back."""
        ...


class LocalSteps:
    """Takes an inner optimizer's steps in rounds; the server sees each round as one step.

    Attributes:
        overlap: False: before a round's last step there is no difference to send.
        is_open: False: nothing has been sent that backward could still change.
        inner: the optimizer that takes the steps.
        pending: how many steps this round has taken and not pushed.
    """

    overlap: Final = False
    is_open: Final = False

    def __init__(
        self,
        slabs: ModelSlabs,
        client: RoundClient,
        inner: torch.optim.Optimizer,
        every: int,
        *,
        heals: bool = False,
    ) -> None:
        """Begins the first round with the parameters in the slab of parameters.

        Args:
            slabs: hold the model's tensors.
            client: pushes the rounds.
            inner: steps over tensors of `slabs`.
            every: how many steps make a round.
            heals: whether the server leaves out what has a NaN and goes on, so that none may stay
                in the inner optimizer's state.

        Raises:
            UsageError: `every` is less than 1.
        """
        self.inner: Final = inner
        self.every = every
        self.pending: int = 0
        self._slabs: Final = slabs
        self._client: Final = client
        self._heals: Final = heals
        self._told: int | None = None  # how many samples are behind the next step, from `begin`
        self._samples = 0  # how many are behind this round so far
        self._failure: LeashError | None = None  # an error after which no step is taken any more
        self._untrained: set[int]  # slots for which no step of this round had a gradient
        self._is_pushing = False  # whether a push has begun, and not come to its end
        self._start: Slab | None = None  # the values at the round's beginning, while it is pushed
        slabs.gradients[:] = slabs.parameters
        self._begin_round()

    @property
    def every(self) -> int:
        """How many steps make a round. It may be changed at any time."""
        return self._every

    @every.setter
    def every(self, every: int) -> None:
        if every < 1:
            raise UsageError(f"local_steps={every}: give a number from 1")
        self._every = every

    @property
    def is_begun(self) -> bool:
        """Whether `begin` was called for the next step."""
        return self._told is not None

    @property
    def is_broken_off(self) -> bool:
        """Whether a push ended in the middle. A step of `inner` that does is no matter of it."""
        return self._is_pushing and self._failure is None

    @property
    def kept(self) -> Slab:
        """The common parameters with which this round began."""
        if not self._is_pushing or self._start is None:
            self._keep_start()
        assert self._start is not None
        return self._start

    def begin(self, samples: SupportsIndex) -> None:
        """Notes how many samples are behind the next step."""
        self._require_sound()
        self._told = checked_samples(samples)

    def finish(
        self, samples: SupportsIndex | None = None, *, skips: bool = False
    ) -> StepInfo | None:
        """Takes a step of the inner optimizer, and calls `flush` after the last one of a round.

        Args:
            samples: how many are behind this step, if `begin` was not told; 1 if neither was.
            skips: leaves the inner optimizer as it is; the step counts all the same.

        Returns:
            What happened to the round; None if it goes on.

        Raises:
            UsageError: a parameter was converted to another dtype.
            EvictedError: the server went on without this worker, and the round is lost; call
                `recover`.
            LeashError: whatever else ended this worker's part.
        """
        self._require_sound()
        self._slabs.notice_moves()
        agreed = 0 if skips else agreed_samples(self._told, samples)
        if not skips:
            self._untrained -= {
                slot for slot in self._untrained if self._slabs.places[slot].tensor.grad is not None
            }
            self.inner.step()
        # One that is broken off leaves what torch leaves, which goes out with the round's push.
        self._told = None
        self._samples += agreed
        self.pending += 1
        with self._remembering(), suppress(RestartedError):  # which the next push deals with
            self._client.check()  # a round may take long, and nobody else would ask
        return self.flush() if self.pending >= self._every else None

    def clear_sent(self, *, zeros: bool) -> None:
        """Nothing to do: gradients stay where they are.

        Args:
            zeros: as in `StepPath`.
        """

    def flush(self) -> StepInfo | None:
        """Ends the round: pushes what has changed, and takes over the common parameters.

        Returns:
            What happened to it; None if it has no step yet, so that there was nothing to push.

        Raises:
            EvictedError: as from `finish`.
            LeashError: as from `finish`.
        """
        self._require_sound()
        if not self.pending:
            return None
        self._keep_start()
        self._is_pushing = True
        gathered_s = self._gather()
        broken = self._broken() if self._heals else []
        self._untrained -= self._changed()
        with self._remembering():
            slab = self._slabs.gradients
            info = self._client.push_pull(
                slab, slab, self._samples, absent=self._untrained, held=self._slabs.parameters
            )
        self._heal(broken)
        self._begin_round()
        return replace(info, wait_s=info.wait_s + gathered_s)

    def recover(self, pull: Callable[[Slab], int]) -> int:
        """Forgets a round that was lost or broken off, and takes over the common parameters.

        Args:
            pull: fills a slab with them and returns their version.

        Returns:
            That version.
        """
        self._is_pushing = True  # a `recover` that is broken off is made good by the next one
        self._failure = None
        self._slabs.settle()
        version = pull(self._slabs.gradients)
        self._begin_round()
        return version

    def reload(self, pull: Callable[[Slab], int]) -> int:
        """Begins a new round with the common parameters; the steps of this one are over.

        Args:
            pull: fills a slab with them and returns their version.

        Returns:
            That version.
        """
        return self.recover(pull)

    def state(self) -> dict[str, Any]:
        """Copies the inner optimizer's state, and how far this round is.

        Of a round that has steps it keeps the values at its beginning and now, by name.
        """
        places = [(slot, p) for slot, p in enumerate(self._slabs.places) if p.is_parameter]
        begun = None
        if self.pending:
            begun = {
                "steps": self.pending,
                "samples": self._samples,
                "untrained": [p.slot.name for slot, p in places if slot in self._untrained],
                "start": {p.slot.name: p.gradient.clone() for _, p in places},
                "now": {p.slot.name: p.tensor.detach().to("cpu", copy=True) for _, p in places},
            }
        return {"inner": self.inner.state_dict(), "local_steps": self._every, "round": begun}

    @torch.no_grad()
    def load_state(self, own: Mapping[str, Any]) -> None:
        """Goes on in the round in which another worker was.

        If the common parameters are those with which that round began, so are the values now;
        otherwise what the round has changed by then is subtracted from the common parameters.

        Args:
            own: what `state` has told.

        Raises:
            UsageError: it is not that of an inner optimizer.
        """
        if own["inner"] is None:
            raise UsageError(
                "load_state_dict: this is the state of a PSOptimizer without an inner optimizer; "
                "make this one without inner=... too"
            )
        self.inner.load_state_dict(own["inner"])
        self.every = own["local_steps"]
        begun = own["round"] or {"steps": 0, "samples": 0}
        self.pending, self._samples = begun["steps"], begun["samples"]
        for slot, place in enumerate(self._slabs.places):
            if not place.is_parameter:
                continue
            if not self.pending:
                place.tensor.copy_(place.gradient)
                continue
            start, now = (begun[key][place.slot.name].cpu() for key in ("start", "now"))
            is_same = torch.equal(place.gradient, start)
            place.tensor.copy_(now if is_same else place.gradient - (start - now))
            if place.slot.name not in begun["untrained"]:
                self._untrained.discard(slot)

    def close(self) -> None:
        """Forgets the steps that have not been pushed; a second call does nothing."""
        self.pending = 0

    # How it is done.

    def _keep_start(self) -> None:
        """Copies the values at the round's beginning, which what it pushes takes the place of."""
        if self._start is None:
            self._start = self._slabs.gradients.copy()
        else:
            self._start[:] = self._slabs.gradients

    def _gather(self) -> float:
        """Fills the slab of gradients; returns the seconds waited for copies from a GPU."""
        if self._slabs.staging is None:
            self._slabs.end_round()
            return 0.0
        self._slabs.staging.computed().synchronize()  # what it computes is no waiting
        began_s = time.perf_counter()
        self._slabs.end_round()
        return time.perf_counter() - began_s

    def _begin_round(self) -> None:
        self._slabs.begin_round()
        self.pending = self._samples = 0
        self._untrained = {slot for slot, p in enumerate(self._slabs.places) if p.is_parameter}
        self._is_pushing = False

    def _changed(self) -> set[int]:
        """The slots that no step had a gradient for, and that were changed all the same."""
        places = self._slabs.places
        return {slot for slot in self._untrained if bool(places[slot].gradient.any())}

    def _broken(self) -> list[Place]:
        """The parameters whose difference has a NaN or an infinity in it."""
        parameters = (place for place in self._slabs.places if place.is_parameter)
        return [place for place in parameters if not torch.isfinite(place.gradient).all()]

    def _heal(self, broken: list[Place]) -> None:
        """Sets NaNs and infinities in the inner optimizer's state to 0.

        The server left these parameters out; a NaN in their momentum would spoil every round to
        come.

        Args:
            broken: the parameters whose difference was not finite.
        """
        for place in broken:
            for value in self.inner.state.get(place.tensor, {}).values():
                if isinstance(value, Tensor) and value.is_floating_point():
                    value.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)

    @contextmanager
    def _remembering(self) -> Iterator[None]:
        """Keeps an error that ends this worker's part, so that every later call raises it again."""
        try:
            yield
        except EvictedError:
            raise
        except LeashError as failure:
            self._failure, self.pending = failure, 0
            raise

    def _require_sound(self) -> None:
        if self._failure is not None:
            raise self._failure


def takes_differences(settings: dict[str, Any]) -> bool:
    """Whether a server with these settings takes what local steps have changed, not gradients."""
    return settings.get("outer_lr") is not None


def check_served(inner: Any, settings: dict[str, Any]) -> None:
    """Refuses to push to a server what it would take for something else.

    Args:
        inner: the inner optimizer, if there is one.
        settings: the run's, as the server tells them.

    Raises:
        UsageError: the server takes differences and there is no inner optimizer, or the contrary.
    """
    if inner is not None and not takes_differences(settings):
        raise UsageError(
            "inner: this server would take its changes for gradients, and apply them by --lr; "
            "start the server with --local-steps N, such as 8, or for one step with --outer-lr 1"
        )
    if inner is None and takes_differences(settings):
        raise UsageError(
            "PSOptimizer: this server was started with --local-steps or --outer-lr, so it takes "
            "what an inner optimizer has changed and no gradients; make PSOptimizer with inner=..."
        )


def check_local(
    inner: Any, local_steps: int, named: list[tuple[str, Tensor]], *, overlap: bool
) -> None:
    """Refuses arguments of PSOptimizer that do not go together, before a server hears of them.

    Args:
        inner: what was given for an inner optimizer, if anything.
        local_steps: how many steps were asked for between two pushes.
        named: the parameters that are shared.
        overlap: whether gradients are to leave during backward.

    Raises:
        UsageError: there are local steps without an inner optimizer, or overlap with one; or it is
            no optimizer of torch, or steps over a tensor that is not shared.
    """
    if inner is None:
        if local_steps != 1:
            raise UsageError(NO_INNER.format(local_steps))
        return
    if not isinstance(inner, torch.optim.Optimizer):
        raise UsageError(f"inner: expected an optimizer of torch, got {type(inner).__name__}")
    if overlap:
        raise UsageError("overlap=True: with an inner optimizer there is nothing to send before "
                         "its last step; leave overlap out")  # fmt: skip
    shared = {id(tensor) for _, tensor in named}
    for group in inner.param_groups:
        for tensor in group["params"]:
            if id(tensor) not in shared:
                raise UsageError(
                    f"inner: it steps over a tensor of shape {tuple(tensor.shape)} that is not "
                    "among params; make both of the same model"
                )
