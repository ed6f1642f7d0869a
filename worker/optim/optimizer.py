"""PSOptimizer: a torch optimizer whose step is a push and a pull::

    optimizer = PSOptimizer(model.named_parameters(), server="tcp://10.0.0.1:29500", rank=1)
    ...
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

With ``overlap=True`` gradients travel while backward still computes others; it has to be told
beforehand how many samples are behind them::

    optimizer.zero_grad()
    optimizer.begin_step(samples=len(targets))
    loss_of(model(inputs), targets).backward()
    optimizer.step()

With an optimizer of your own inside, step() is a step of that one, and every eighth is followed by
a push of what the eight have changed::

    inner = torch.optim.AdamW(model.parameters(), lr=1e-3)
    optimizer = PSOptimizer(
        model.named_parameters(), server="tcp://10.0.0.1:29500", rank=1, inner=inner, local_steps=8
    )
"""

import atexit
import inspect
import logging
import os
import sys
import weakref
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, NoReturn, Protocol, SupportsIndex

import torch
from torch import Tensor

from leash._log import Say, logged, say_on_stderr
from leash.ps.errors import EvictedError, LeashError, StoppingError, UsageError
from leash.ps.interrupt import ToldToLeave
from leash.ps.runs.download import download_checkpoint
from leash.ps.wire.control import ControlChannel
from leash.ps.wire.keys import key_for
from leash.ps.wire.messages import STOPPED_BY_TIMEOUT, Beaten
from leash.ps.words import (
    BACKWARD,
    BETWEEN,
    DONE,
    FAILED,
    FORWARD,
    FORWARD_OR_BACKWARD,
    STEP,
    STOPPED,
    TIMED_OUT,
    is_good_end,
)
from leash.worker.client import Client, StepInfo
from leash.worker.client.arguments import checked_rank, checked_samples
from leash.worker.client.control.departure import TerminationNotice
from leash.worker.client.encoding import Encoding
from leash.worker.client.memory import Slab
from leash.worker.optim.arguments import (
    refuse_options,
    require_distinct,
    require_parameters,
    require_step_without_closure,
    require_values,
)
from leash.worker.optim.gradients import (
    NO_SCALER,
    WholeGradient,
    check_clip_norm,
    require_finite,
)
from leash.worker.optim.host_group import ProcessGroup, check_group, make_client
from leash.worker.optim.local_steps import LocalSteps, check_local, check_served
from leash.worker.optim.param_groups import (
    HYPERPARAMETERS,
    OUTER_HYPERPARAMETERS,
    InnersGroups,
    ParamGroups,
    named_groups,
    unnamed,
)
from leash.worker.optim.servers_state import COPIED, ShownState
from leash.worker.optim.slabs import ModelSlabs, NamedTensors
from leash.worker.optim.staging import gpu_of
from leash.worker.optim.step_path import StepPath
from leash.worker.optim.streaming import StepStream
from leash.worker.optim.worker_state import KEY, check_state, load_worker_state, worker_state

# torch wraps these to keep them out of its compiler, and the wrapper imports the compiler when
# it is first called: 1.5 s of processor time at every worker's start. Nothing here is compiled.
_ADD_PARAM_GROUP: Final = inspect.unwrap(torch.optim.Optimizer.add_param_group)
_ZERO_GRAD: Final = inspect.unwrap(torch.optim.Optimizer.zero_grad)
_STATE_DICT: Final = inspect.unwrap(torch.optim.Optimizer.state_dict)
_LOAD_STATE_DICT: Final = inspect.unwrap(torch.optim.Optimizer.load_state_dict)

BROKEN_IN_GROUP: Final = (
    "a step was broken off in one process of this worker's group, and the others may be in another "
    "one: end all of them, and start them again"
)
SAMPLES_NOT_TOLD: Final = (
    "step(): a LeaseSampler draws this worker's samples, and goes by what each step says it has "
    "used: call step(samples=len(batch)), or begin_step(samples=len(batch)) before backward"
)


class StepFollower(Protocol):
    """Hears of every step, with the samples behind it."""

    def stepped(self, samples: int) -> None:
        """Notes that a step was taken, or that it was lost and will not be taken again."""
        ...


# Those of this process that have not been closed.
_OPEN: Final["weakref.WeakSet[PSOptimizer]"] = weakref.WeakSet()


class PSOptimizer(torch.optim.Optimizer):
    """Trains a torch model through a parameter server: step() pushes gradients, pulls parameters.

    The optimizer itself runs on the server: its kind, learning rate and so on are options of
    ``leash server``. ``param_groups`` shows them (with an inner optimizer, those of the
    server's over its changes, which cannot be changed there). A group may have options of its own,
    and what a scheduler or you write there holds from the next step on; under bsp each mean goes by
    what the worker of the lowest rank says. What cannot be is an error that names the mend: an
    option of another optimizer, a momentum where the server keeps none, a rate that changes here
    while the server has a schedule. One process trains one model with one PSOptimizer.

    What differs from torch's own optimizers:

    - On the processor, parameters in 32 or 64 bits lie in memory that the network reads and writes,
      in turn in one of two places: ``data_ptr()`` changes with every step. As long as somebody else
      uses a parameter's memory (``detach()``, ``state_dict()``, numpy, a second model), they stay
      where they are, and a step copies the model once more. Tied weights work as ever. A parameter
      that is not contiguous, is a part of a larger tensor, or was moved (``share_memory``) is
      copied by itself, as on a GPU. Two names for the same numbers are an error, and so is another
      dtype than the one that the run began with.
    - What else changes parameters (``load_state_dict``, a clamp, a mask, ``Embedding(max_norm)``)
      has to be followed by `publish`, or the next begin_step() or step() raises UsageError: the
      server has the values that count. A write through ``data`` is found within 64 steps. With an
      inner optimizer such a change is a part of what its round has changed, and is pushed.
    - With ``overlap``, a gradient is sent as soon as backward has computed it, and from then on
      whatever uses its ``grad``, before step() or after, raises UsageError: `zero_grad` comes
      before each backward. What changes or reads gradients (clipping, a GradScaler, several
      backward passes that add up, ``zero_grad`` between backward and step) needs ``overlap=False``,
      and so does what changes shared buffers between backward and step.
    - Momentum and averages are the server's: to use `state`, or to copy the optimizer, is an error.
    - A step that is broken off (Ctrl-C, a notebook's stop button, an exception) is lost: the next
      `zero_grad`, `begin_step` or `step` joins the run again, as `rejoin` does.
    - Processes that are forked from this one may not use it. Parameters lie in shared memory, of
      which they see what this process writes; what they write stays with them.

    With an inner optimizer parameters stay where they are, and `state` is that optimizer's. That is
    local SGD (Stich 2019, arXiv:1805.09767), or DiLoCo
    (Douillard et al. 2023, arXiv:2311.08105, algorithm 1) with AdamW inside and Nesterov momentum
    at the server.

    Examples:
        With a server on this host, started by ``leash server --lr 0.1``:

        >>> import torch
        >>> from leash import PSOptimizer
        >>> model = torch.nn.Linear(4, 1)
        >>> address = "tcp://127.0.0.1:29500"
        >>> with PSOptimizer(model.named_parameters(), address, rank=1) as optimizer:
        ...     for _ in range(50):
        ...         inputs = torch.randn(32, 4)
        ...         targets = inputs.sum(1, keepdim=True)
        ...         loss = torch.nn.functional.mse_loss(model(inputs), targets)
        ...         optimizer.zero_grad()
        ...         loss.backward()
        ...         _ = optimizer.step(samples=len(inputs))
        >>> f"{loss.item():.3f}"
        '0.000'

    Attributes:
        client: this worker's part in the run, below torch; in a group's other processes, what
            stands for it there.
        group: the processes that are this worker; None if it is this one alone.
        evictions: how many times the server went on without this worker, which then came back.
        sampler: the `leash.LeaseSampler` that draws this worker's samples; None if there is none.
    """

    # A GradScaler then leaves both to step(): to divide by its scale, and to skip what overflowed.
    # A step that it skipped itself would never reach the server, and the others would wait for it.
    _step_supports_amp_scaling: Final = True

    _is_leaving = False  # whether it was told to go, and goes
    _is_joining = False  # whether `rejoin` has begun, and not come to its end
    _is_refused = False  # whether an open step was in the way, so that a call was an error

    def __init__(
        self,
        params: NamedTensors | Iterable[dict[str, Any]],
        server: str | None = None,
        rank: SupportsIndex | Literal["auto"] | None = None,
        *,
        buffers: NamedTensors = (),
        overlap: bool = False,
        inner: torch.optim.Optimizer | None = None,
        local_steps: int = 1,
        clip_norm: float | None = None,
        group: ProcessGroup | None = None,
        transport: str = "auto",
        encoding: Encoding | None = None,
        key: str | os.PathLike[str] | None = None,
        wait_s: float | None = None,
        patience: float | None = None,
        grace_s: float | None = None,
        preempt_file: str | os.PathLike[str] | None = None,
        on_wait: Callable[[Beaten | None], None] | None = None,
        say: Say | None = None,
        **options: Any,
    ) -> None:
        """Joins the run, waits for the other workers, and takes over the common parameters.

        Args:
            params: ``model.named_parameters()``; or groups, dicts whose ``params`` are such pairs
                and whose other entries are options of the server's optimizer, as torch has them. A
                group's ``clamp=(least, most)`` has the server bring its values into that range
                after each update, and ``max_norm=`` scale every row (a tensor's first dimension; a
                vector is one row) down to that 2-norm, as ``torch.renorm`` does. On CPU or GPU, of
                16, 32 or 64-bit floating point.
            server: address of the server, tcp://HOST:PORT. May be left out under ``leash launch``
                and under ``torchrun``, where RANK 0 starts a server with the options in the
                variable ``LEASH_SERVER_OPTIONS``.
            rank: this worker's number, from 1, unique in the run; "auto" for the one that the
                server gives, which a machine that comes back keeps. May be left out there too;
                under ``torchrun`` it is RANK + 1.
            buffers: ``model.named_buffers()``, if they shall be shared too (batch-norm
                statistics): after each step every worker has those that were pushed last.
            overlap: send gradients while backward computes others; see `begin_step`.
            inner: an optimizer over these parameters, which takes this worker's steps. What it
                changes is pushed, and the server applies it by its ``--outer-lr``: 1 takes it as
                it is. Its rate may be scheduled as ever; its state stays here. The server has to
                be one of ``--local-steps`` or ``--outer-lr``.
            local_steps: how many steps of `inner` make one push; 1 without `inner`.
            clip_norm: step() scales the whole gradient down to this 2-norm if its own is larger,
                as ``torch.nn.utils.clip_grad_norm_`` does. Not with overlap.
            group: the processes of this host, if they are one worker: a process group of
                torch.distributed, with DistributedDataParallel around the model in each of them.
                Give this the parameters of the model inside. The group's first process exchanges
                DDP's mean gradient, with the samples of all, and sends the others the answer.
            transport: "tcp"; "shm", shared memory with a server on this host; or "auto", which
                takes shared memory where that is possible.
            encoding: the codec in which gradients travel, and its settings; f32 by default.
            key: the file of this worker's key, for a server that has keys; by default the one that
                the environment variable ``LEASH_KEY`` names, if it is set.
            wait_s: seconds to wait for the server to answer, and then for the other workers.
                Without it the server has 30, and the others as long as they take.
            patience: seconds for which this worker, once it takes part, keeps trying when nobody
                answers; then it goes on by itself. ``math.inf`` for ever. Without it the variable
                LEASH_PATIENCE counts, or else 600.
            grace_s: a worker that is told to go (by SIGTERM, if the script has no handler of its
                own; by ``leash leave``; by `preempt_file`) ends its step, pushes what is pending
                and leaves: step() raises `ToldToLeave`, which ends the process unless it is caught.
                It has so many seconds for that. Without it LEASH_GRACE counts, or else 10.
            preempt_file: this worker is told to go once this file is there. Without it the one that
                LEASH_PREEMPT_FILE names, if it is set.
            on_wait: called about twice a second while the other workers are missing. By default,
                `say` shows who they are.
            say: shows a line, such as why shared memory is not possible. By default it appears on
                stderr, unless the logger "leash" has a handler.
            options: none; those of the server's optimizer, such as ``lr``, are refused with the
                option of ``leash server`` that stands for them.

        Raises:
            TypeError: an argument has a name that no optimizer knows.
            UsageError: parameters have no names, two names or no values, or are not floating-point;
                there is nothing to train; a group has an option that the server's optimizer cannot
                have; `inner` steps over something else, or needs a closure; the server was not
                started for one (or only for one, and there is none); `group` is none, or comes with
                overlap or `inner`; or server or rank are neither given nor in the environment.
            ArgumentError: the server's address, the rank, the transport, `wait_s`, `patience` or
                `grace_s` cannot be, or the transport is "shm" where that is not possible.
            ServerUnreachableError: no server answered.
            NotReadyError: after `wait_s` seconds others are missing; the text names them.
            ProtocolError: the server refuses, and says why.
        """
        rank = None if rank is None else checked_rank(rank, least=1)
        refuse_options(options, (*HYPERPARAMETERS, *OUTER_HYPERPARAMETERS))
        require_parameters(params)
        require_step_without_closure(inner)
        groups = named_groups(params)
        named = [pair for group in groups for pair in group["params"]]
        buffers = list(buffers)
        require_values([*named, *buffers])
        require_distinct([*named, *buffers])
        check_local(inner, local_steps, named, overlap=overlap)
        check_clip_norm(clip_norm, overlap=overlap)
        check_group(group, overlap=overlap, has_inner=inner is not None)
        self.group: Final = group
        encoding = encoding or Encoding()
        self._slabs: Final = ModelSlabs(
            named, buffers, gpu=gpu_of(tensor for _, tensor in named),
            has_outbox=encoding.codec != "f32",
        )  # fmt: skip
        try:
            self.client: Final = self._join_run(
                group, self._slabs.places[0].tensor.device, self._slabs.layout, server, rank,
                say=say, wait_s=wait_s, patience=patience, grace_s=grace_s,
                preempt_file=preempt_file, transport=transport, encoding=encoding,
                memory=self._slabs.memory, key=key,
            )  # fmt: skip
        except BaseException:
            self._slabs.close()
            raise
        self._termination: Final = TerminationNotice(self.client.tell_to_leave)
        self._say: Final = logged(say or say_on_stderr, __name__, logging.WARNING)
        self._info = StepInfo(0, 0, 0, 0, 0.0)
        self.evictions: int = 0
        self.sampler: StepFollower | None = None
        self._told: int | None = None  # how many samples are behind the next step, from begin_step
        try:
            check_served(inner, self.client.settings)
            settings, layout = self.client.settings, self._slabs.layout
            self._groups: Final = (
                ParamGroups(settings, groups, layout, self.client.chunks, self.client.set_options)
                if inner is None
                else InnersGroups(settings, groups)
            )
            self._shown: Final = ShownState(settings, inner, lambda: self.client.steps > 0)
            super().__init__(list(map(unnamed, groups)), dict(self._groups.defaults))
            self._has_begun = True
            self._groups.keep(self.param_groups)
            nonfinite = settings.get("nonfinite")
            self._stores_finite: Final = nonfinite != "apply"
            if self._stores_finite:
                require_finite(self._slabs, self._slabs.parameters)
            self._whole: Final = WholeGradient(
                self._slabs, clip_norm, refuses=nonfinite == "raise" and not overlap
            )
            self.client.begin(self._slabs.parameters, on_wait)
            self._slabs.scatter()
            self._path: Final[StepPath] = (
                StepStream(self._slabs, self.client, overlap=overlap,
                           on_backward=partial(self.client.doing.begin, BACKWARD))
                if inner is None
                else LocalSteps(self._slabs, self.client, inner, local_steps,
                                heals=nonfinite == "skip")
            )  # fmt: skip
        except BaseException as error:
            self.client.close(_reason_of(error))
            self._termination.give_back()
            self._slabs.close()
            raise
        self._make_known()

    def _make_known(self) -> None:
        """Tells all who have to know of this optimizer."""
        path = self._path
        self.client.keep(lambda: path.kept)
        # A script that ends without close() must not keep the others waiting.
        atexit.register(self._close_at_exit)
        _OPEN.add(self)

    def _join_run(self, *settings: Any, **more: Any) -> Client:
        """Makes the client; in virtual time it is one of another kind."""
        return make_client(*settings, **more)

    def begin_step(self, *, samples: SupportsIndex | None = None) -> None:
        """Says how many samples are behind the gradients that the next backward computes.

        With overlap, call it after `zero_grad` and before every backward, which sends them. Without
        overlap you may leave it out, and tell step() instead.

        Args:
            samples: how many are behind these gradients, 1 if left out. Their proportion between
                workers matters under bsp; with a `leash.LeaseSampler` their number says what was
                trained on, and has to be told.

        After a step, or a backward with overlap, that was broken off (Ctrl-C, an exception), it
        first joins the run again, as `rejoin` does.

        Raises:
            ArgumentError: `samples` is no whole number.
            UsageError: gradients were sent already that no step() has followed yet; or a value in
                ``param_groups`` is one that the server's optimizer cannot have, or a parameter was
                changed outside step().
            LeashError: what ended this worker's part during the last backward.
        """
        self.client.require_own_process()
        self._make_good()
        self._is_refused = self._path.is_open
        if not self._path.is_open:
            self._groups.require_kept(self.param_groups)
            self._groups.follow(self.param_groups)
        self._path.begin(1 if samples is None else samples)
        self._begin_computing()
        self._told = None if samples is None else checked_samples(samples)

    # torch marks step() as untyped-overloaded; one signature serves both of its uses.
    def step(  # type: ignore[override]
        self,
        closure: Callable[[], float | Tensor] | None = None,
        *,
        samples: SupportsIndex | None = None,
    ) -> float | Tensor | None:
        """Pushes the gradients, pulls the parameters, and honours the bound while it waits.

        With an inner optimizer it is a step of that one, and every `local_steps` of them are
        followed by a push of what they have changed. A worker that the server went on without joins
        again and takes over the common parameters; its step is lost, and `evictions` counts it.

        After a step that was broken off, by Ctrl-C or any exception, this worker joins again too.
        `begin_step` and `zero_grad` see to it before the next gradients are computed. If neither
        comes first, step() does, and leaves out the gradients that were computed in between.

        A worker that was told to go pushes what is pending behind its step. Then `ToldToLeave`,
        which is a SystemExit, ends its process, unless the loop catches it.

        Args:
            closure: computes the loss again and returns it, as in every torch optimizer.
            samples: as in `begin_step`, if that was not called; 1 if left out there too.

        Returns:
            What `closure` returned; None without it.

        Raises:
            NonfiniteError: a NaN or an infinity is in a gradient; the text names step and slot.
                Without overlap nothing of the step has left then, and it does not count.
            ArgumentError: `samples` is no whole number.
            UsageError: a value in ``param_groups`` is one that the server's optimizer cannot have;
                a parameter was changed outside step(); with overlap, a value was changed after
                gradients had been sent, a gradient was computed twice, or a GradScaler calls; or
                there is a `leash.LeaseSampler` and no number of samples.
            LeashError: the server ended the run, or is gone.
        """
        self.client.require_own_process()
        behind, self._told = self._told if samples is None else checked_samples(samples), None
        if self.sampler is not None and behind is None:
            raise UsageError(SAMPLES_NOT_TOLD)
        self._is_refused = False
        if self._make_good() and closure is None:
            return None  # these gradients belong to parameters that this worker no longer has
        self._is_refused = self._path.is_open  # until it is known that this step goes on
        self._groups.require_kept(self.param_groups)
        self._groups.follow(self.param_groups, has_begun=self._path.is_open)
        self._is_refused = False
        self.client.doing.begin(STEP)
        loss = None
        if closure is not None:
            if self._path.overlap and not self._path.is_begun:
                self._path.begin(1 if samples is None else samples)
            with torch.enable_grad():
                loss = closure()
        skips = self._is_skipped()
        if not skips:
            self._whole.prepare(self.client.steps + 1, self.client.rank)
        try:
            self._note(self._path.finish(samples, skips=skips))
        except EvictedError:
            self.rejoin(evicted=True)
        if self.sampler is not None and behind is not None:
            self.sampler.stepped(behind)
        self._go_if_told()
        self.client.doing.begin(BETWEEN)
        return loss

    def _go_if_told(self) -> None:
        """Pushes what is pending and raises ToldToLeave, if this worker is to go."""
        if self._path.is_open or not (why := self.client.told):
            return
        self._is_leaving = True
        if self.pending_steps:
            self.flush()
        raise ToldToLeave(why)

    def _is_skipped(self) -> bool:
        """Does what a GradScaler asks for; whether it found a gradient that overflowed."""
        found = getattr(self, "found_inf", None)
        if found is None:
            return False
        if self._path.overlap:
            raise UsageError(NO_SCALER)
        if bool(found):
            return True
        self._whole.unscale(getattr(self, "grad_scale", None))
        return False

    def log(self, metrics: Mapping[str, Any], step: SupportsIndex | None = None) -> None:
        """Logs numbers of this worker, such as a validation loss, for events and trackers.

        They go to events.jsonl, to ``leash status``, and to what ``--log`` of ``leash launch`` or
        ``leash server`` names, as a curve for each name and worker. It never waits: another thread
        sends them, each once, about a hundred calls a second at most; those beyond are left out,
        which is said. In a group, those of the first process count.

        Args:
            metrics: name ▸ number: 1 to 32 names of at most 64 characters; ints, floats, and
                tensors or arrays of one element (one on a GPU is waited for). A NaN or an infinity
                is taken as it is.
            step: to which they belong; by default this worker's newest. Without local steps that is
                the number of calls of `step`, otherwise that of pushes.

        Raises:
            ArgumentError: a name, a number or the step cannot be.
        """
        self.client.log(metrics, step)

    def flush(self) -> None:
        """Pushes the local steps that have not been pushed; does nothing if there are none.

        Raises:
            LeashError: what `step` raises.
        """
        if self._make_good() or not self.pending_steps:
            return
        try:
            self._note(self._path.flush())
        except EvictedError:
            self.rejoin(evicted=True)

    def publish(self) -> None:
        """Makes this worker's parameters, and its shared buffers, everybody's: the newest win.

        Call it after parameters were changed outside step(): weights that were loaded or rolled
        back, a mask, an average copied back. The server takes them at once, under every policy; the
        other workers get them with the answer to their next step. If they push meanwhile, what they
        push is applied on top. Its optimizer keeps its averages and its counts of updates. With an
        inner optimizer a new round begins.

        Raises:
            UsageError: gradients of this step were sent already; or a value is a NaN or an
                infinity.
            LeashError: the server ended the run, or is gone.
        """
        self.client.require_own_process()
        values = self._slabs.gathered()
        self._make_good()
        if self._path.is_open:
            self._is_refused = True
            raise UsageError(
                "publish() between backward and step(): with overlap gradients are on their way; "
                "call it after step(), or make PSOptimizer with overlap=False"
            )
        if self._stores_finite:
            require_finite(self._slabs, values)
        version = None
        while version is None:
            try:
                self.client.publish(values)
                version = self._path.reload(self.client.pull)
            except EvictedError:  # noqa: PERF203
                self.evictions += 1
                self.client.rejoin()
        self._info = StepInfo(self.client.steps, version, 0, 0, 0.0)

    @property
    def pending_steps(self) -> int:
        """How many local steps have not been pushed yet; 0 without an inner optimizer."""
        return self._path.pending

    @property
    def overlap(self) -> bool:
        """Whether gradients are sent while backward computes others."""
        return self._path.overlap

    @property
    def local_steps(self) -> int:
        """How many steps make one push; with an inner optimizer it may be changed at any time.

        Raises:
            UsageError: it was set to less than 1, or without an inner optimizer to more.
        """
        return self._path.every

    @local_steps.setter
    def local_steps(self, local_steps: int) -> None:
        self._path.every = local_steps

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forgets the gradients, as torch's optimizers do.

        Args:
            set_to_none: makes every ``grad`` None; otherwise sets it to zeros, so that such a
                parameter is stepped with zeros, as with torch's own.

        Raises:
            UsageError: with overlap, gradients of this step were sent already.
        """
        self._make_good()
        self._go_if_told()
        if self._path.is_open:
            self._is_refused = True
            raise UsageError(
                "zero_grad() between backward and step(): with overlap the gradients are on their "
                "way; call it before backward, or make PSOptimizer with overlap=False. If the loop "
                "was broken off here, call it again, and these gradients are given up"
            )
        self._begin_computing()
        self._path.clear_sent(zeros=not set_to_none)
        _ZERO_GRAD(self, set_to_none)

    def _begin_computing(self) -> None:
        """Notes that forward begins. Without overlap nobody hears when backward does."""
        doing = self.client.doing
        if self._path.overlap:
            doing.begin(FORWARD)
        elif doing.phase != FORWARD:  # a loop that has said so says the rest too
            doing.begin(FORWARD_OR_BACKWARD)

    def _note(self, info: StepInfo | None) -> None:
        """Keeps what happened in a step; None stands for a local one, which waited for nobody."""
        self._info = replace(self._info, wait_s=0.0) if info is None else info

    def _make_good(self) -> bool:
        """Joins again if a step or `rejoin` was broken off; returns whether one was.

        A loop that was broken off between backward and step() looks like one that does not call
        step(). So the first call that finds the step open is an error, and the second gives it up.
        """
        is_given_up = self._is_refused and self._path.is_open
        if not (self._is_joining or self._path.is_broken_off or is_given_up):
            return False
        if self.group is not None:
            raise LeashError(BROKEN_IN_GROUP)
        self._say("a step was broken off: this worker joins again, with the common parameters")
        self.rejoin()
        return True

    def rejoin(self, *, evicted: bool = False) -> None:
        """Says hello again, and takes over the common parameters; a step that was begun is lost.

        `step` and `flush` do this by themselves after an eviction, or once a step was broken off.
        One that is evicted meanwhile says hello once more.

        Args:
            evicted: the server had gone on without this worker, so `evictions` grows by one.

        Raises:
            LeashError: nobody answers, or the server refuses.
        """
        self.evictions += evicted
        self._is_joining = True
        version = None
        while version is None:
            try:
                self.client.rejoin()
                version = self._path.recover(self.client.pull)
            except EvictedError:  # noqa: PERF203
                self.evictions += 1
                evicted = True
        self._is_joining = self._is_refused = False
        if evicted and (self.group is None or self.group.rank() == 0):
            self._say(f"the run had gone on without this worker, which has joined it again: its "
                      f"next step is {self.client.steps + 1}")  # fmt: skip
        self._info = StepInfo(self.client.steps, version, 0, 0, 0.0)

    @property  # type: ignore[override]
    def state(self) -> MutableMapping[Any, Any]:
        """The inner optimizer's state. Without one it is empty, if the server keeps none either.

        Raises:
            UsageError: it is set, or used in any way, while the server has momentum or averages.
        """
        return self._shown.value

    @state.setter
    def state(self, state: Any) -> None:
        if hasattr(self, "_has_begun"):  # before, torch sets its own
            self._shown.replace(state)

    def __getstate__(self) -> NoReturn:
        raise UsageError(COPIED)

    def state_dict(self) -> dict[str, Any]:
        """Copies this worker's side: options, what rounding left over, and the inner optimizer.

        The averages of the server's optimizer are in its checkpoints. ``leash server --resume``
        goes on from one; a worker may load this beside it.

        Returns:
            What torch's own would return, with an entry "leash"; ``torch.save`` can write it.
        """
        with self._shown.hidden():
            state: dict[str, Any] = _STATE_DICT(self)
        state[KEY] = worker_state(*self._coding, self._path)
        state[KEY].update(self._shown.taken_at(self.client.steps))
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over what `state_dict` of such an optimizer has told.

        Args:
            state_dict: its answer. One of torch's own optimizers is taken if it has no averages.

        Raises:
            UsageError: it has momentum buffers or other averages, for which there is no place here;
                or it is that of another model, of another codec, or has an inner optimizer's state
                where there is none, or the other way round; or this one took it some steps ago,
                and the server's optimizer has averages, which do not go back.
        """
        check_state(state_dict, *self._coding)
        self._shown.require_not_before(self.client.steps, state_dict.get(KEY, {}))
        if KEY in state_dict:
            load_worker_state(state_dict[KEY], self._coding[0], self._path)
        _LOAD_STATE_DICT(self, state_dict)

    def save(self, path: str | os.PathLike[str], key: str | os.PathLike[str] | None = None) -> None:
        """Saves a checkpoint of the run as it is now: parameters, averages, steps, position.

        ``leash server --resume PATH`` goes on from it. It may be called after any step; under bsp
        it then holds the state after that step. The worker's side, such as local steps that have
        not been pushed, is in `state_dict` and not in it. In a group, the first process saves it.

        Args:
            path: of the file to write, on this machine; what is there is replaced.
            key: the file of an admin's key, for a server that has keys: a worker's does not do.

        Raises:
            UsageError: gradients of this step were sent already, or `path` cannot be a file.
            NotReadyError: the server could not write it.
            NotAllowedError: this key is no admin's.
            LeashError: the server is gone, or the file cannot be written here.
        """
        self.client.require_own_process()
        self._make_good()
        if self._path.is_open:
            self._is_refused = True
            raise UsageError(
                "save() between backward and step(): with overlap gradients are on their way, and "
                "under bsp the others wait for the rest; call it after step()"
            )
        if self.group is None or self.group.rank() == 0:
            own = self.client.key
            with ControlChannel(
                self.client.address, key=own if key is None else key_for(key)
            ) as channel:
                download_checkpoint(channel, Path(path).expanduser())

    @property
    def _coding(self) -> tuple[Slab | None, str]:
        """What rounding left over, and the codec; None in a process of a group that sends none."""
        residual = getattr(self.client, "residual", None)
        return (None, "") if residual is None else (residual, self.client.welcome.codec)

    # What happened in the last step.

    @property
    def wait_seconds(self) -> float:
        """Seconds that the last step waited for replies after backward; 0 if it was a local one."""
        return self._info.wait_s

    @property
    def lag(self) -> int:
        """How many steps this worker was ahead of the slowest when its last push was answered."""
        return self._info.lag

    @property
    def staleness(self) -> int:
        """How many updates by others came between this worker's last two exchanges."""
        return self._info.staleness

    @property
    def version(self) -> int:
        """How many updates this worker's parameters have seen, by anyone."""
        return self._info.version

    # The end.

    def close(self, reason: str = DONE) -> None:
        """Leaves the run: nobody waits for this worker from now on.

        With the reason "done" it first pushes the local steps that have not been pushed. A ``with``
        block calls it at its end, and the interpreter at its exit. A second call does nothing, nor
        does one in a process that was forked from this one.

        Args:
            reason: "done", "timeout", "stopped" or "failed"; the server writes it into the run's
                events, and a run whose workers were not all done does not end as "done".

        Raises:
            LeashError: what `flush` raises; the run is left all the same.
        """
        atexit.unregister(self._close_at_exit)
        if not self.client.is_own_process:
            return
        _OPEN.discard(self)
        reason = STOPPED if self._is_leaving and reason == DONE else reason
        try:
            if reason == DONE and not self._path.is_broken_off:
                self.flush()
        finally:
            self._path.close()
            self.client.close(reason)
            self._termination.give_back()
            self._slabs.close()

    def _close_at_exit(self) -> None:
        self.close(_reason_of(getattr(sys, "last_value", None)))

    def __enter__(self) -> "PSOptimizer":
        return self

    def __exit__(
        self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None
    ) -> None:
        self.close(_reason_of(error))

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group of parameters, but only while the optimizer is being made.

        Afterwards the run has its layout, which does not change.

        Args:
            param_group: as torch takes it.

        Raises:
            UsageError: the run has begun.
        """
        if hasattr(self, "_has_begun"):
            raise UsageError("PSOptimizer: parameters cannot be added once the run has begun")
        _ADD_PARAM_GROUP(self, param_group)


def current_optimizer() -> PSOptimizer:
    """The PSOptimizer of this process, if it has one that is open and no other.

    Raises:
        UsageError: it has none, or several.
    """
    if len(_OPEN) != 1:
        raise UsageError(f"this process has {len(_OPEN)} open PSOptimizers: make one first, or say "
                         "which with optimizer=")  # fmt: skip
    return next(iter(_OPEN))


def _reason_of(error: BaseException | None) -> str:
    """Turns what ended a training loop into the reason of a bye; a signal is no Exception."""
    if error is None:
        return DONE
    if isinstance(error, StoppingError) and is_good_end(str(error)):
        return TIMED_OUT if str(error) == STOPPED_BY_TIMEOUT else STOPPED
    return FAILED if isinstance(error, Exception) else STOPPED
