"""
The C++ core of Leash: clocks, kernels, and the shard that holds the parameters.
"""

from __future__ import annotations
import collections.abc
import enum
import numpy
import numpy.typing
import typing
import typing_extensions

__all__: list[str] = [
    "AdagradOptions",
    "AdamOptions",
    "ChunkSpec",
    "DelayCompensation",
    "Nonfinite",
    "Outcome",
    "PushResult",
    "Reply",
    "Rule",
    "Schedule",
    "SgdOptions",
    "Shard",
    "ShardStats",
    "SimulatedChunk",
    "SimulatedPush",
    "StalenessClock",
    "StalenessRate",
    "SumOptions",
    "build_info",
    "codecs",
    "instruction_set",
    "instruction_sets",
    "keep_freed_memory",
    "kernels",
]

class ChunkSpec:
    """
    What a chunk holds.

    dtype is 'f32' or 'f64'. kind is 'parameter' (pushed as gradients) or 'buffer' (pushed as
    values).
    """
    def __init__(
        self, values: typing.SupportsInt | typing.SupportsIndex, dtype: str, kind: str
    ) -> None: ...
    @property
    def dtype(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def values(self) -> int: ...

class Nonfinite(enum.Enum):
    """
    What to do with a push that holds a NaN or an infinity.
    """

    APPLY = ...
    RAISE = ...
    SKIP = ...

class SgdOptions:
    """
    The settings of torch.optim.SGD.

    ValueError for what torch.optim.SGD refuses and for values that are not finite.
    """
    def __init__(
        self,
        lr: typing.SupportsFloat | typing.SupportsIndex = 0.001,
        momentum: typing.SupportsFloat | typing.SupportsIndex = 0.0,
        dampening: typing.SupportsFloat | typing.SupportsIndex = 0.0,
        weight_decay: typing.SupportsFloat | typing.SupportsIndex = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
    ) -> None: ...
    @property
    def dampening(self) -> float: ...
    @property
    def lr(self) -> float: ...
    @property
    def maximize(self) -> bool: ...
    @property
    def momentum(self) -> float: ...
    @property
    def nesterov(self) -> bool: ...
    @property
    def weight_decay(self) -> float: ...

class AdamOptions:
    """
    The settings of torch.optim.Adam.

    With decoupled those of torch.optim.AdamW, whose own default of weight_decay is 0.01. ValueError for
    what torch.optim refuses and for values that are not finite.
    """
    def __init__(
        self,
        lr: typing.SupportsFloat | typing.SupportsIndex = 0.001,
        betas: tuple[
            typing.SupportsFloat | typing.SupportsIndex, typing.SupportsFloat | typing.SupportsIndex
        ] = (0.9, 0.999),
        eps: typing.SupportsFloat | typing.SupportsIndex = 1e-08,
        weight_decay: typing.SupportsFloat | typing.SupportsIndex = 0.0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        decoupled: bool = False,
    ) -> None: ...
    @property
    def amsgrad(self) -> bool: ...
    @property
    def betas(self) -> tuple[float, float]: ...
    @property
    def decoupled(self) -> bool: ...
    @property
    def eps(self) -> float: ...
    @property
    def lr(self) -> float: ...
    @property
    def maximize(self) -> bool: ...
    @property
    def weight_decay(self) -> float: ...

class AdagradOptions:
    """
    The settings of torch.optim.Adagrad.

    ValueError for what torch.optim.Adagrad refuses and for values that are not finite.
    """
    def __init__(
        self,
        lr: typing.SupportsFloat | typing.SupportsIndex = 0.01,
        lr_decay: typing.SupportsFloat | typing.SupportsIndex = 0.0,
        weight_decay: typing.SupportsFloat | typing.SupportsIndex = 0.0,
        initial_accumulator_value: typing.SupportsFloat | typing.SupportsIndex = 0.0,
        eps: typing.SupportsFloat | typing.SupportsIndex = 1e-10,
        *,
        maximize: bool = False,
    ) -> None: ...
    @property
    def eps(self) -> float: ...
    @property
    def initial_accumulator_value(self) -> float: ...
    @property
    def lr(self) -> float: ...
    @property
    def lr_decay(self) -> float: ...
    @property
    def maximize(self) -> bool: ...
    @property
    def weight_decay(self) -> float: ...

class SumOptions:
    """
    Parameters that are sums of what is pushed.

    Under bsp w = (1 - lr) * w + lr * (the plain sum of a step's pushes, in the order of worker ids); on
    arrival the same with one push. ValueError unless lr is from 0 to 1.
    """
    def __init__(self, lr: typing.SupportsFloat | typing.SupportsIndex = 1.0) -> None: ...
    @property
    def lr(self) -> float: ...

class Schedule:
    """
    How the learning rate goes with the number of updates.

    decay: 'constant', 'step' (torch's StepLR: step_size, gamma), 'cosine' (CosineAnnealingLR from 0 to
    total_updates, down to minimum, where it stays) or 'power' (base * (version + offset)**-power). Before
    it LinearLR, from warmup_start_factor to 1 in warmup_updates; the decay counts from 0 after that.
    """
    def __init__(
        self,
        decay: str = "constant",
        *,
        step_size: typing.SupportsInt | typing.SupportsIndex = 1,
        gamma: typing.SupportsFloat | typing.SupportsIndex = 0.1,
        total_updates: typing.SupportsInt | typing.SupportsIndex = 1,
        minimum: typing.SupportsFloat | typing.SupportsIndex = 0.0,
        warmup_updates: typing.SupportsInt | typing.SupportsIndex = 0,
        warmup_start_factor: typing.SupportsFloat | typing.SupportsIndex = 0.3333333333333333,
        power: typing.SupportsFloat | typing.SupportsIndex = 0.6,
        offset: typing.SupportsFloat | typing.SupportsIndex = 2.0,
    ) -> None: ...
    def __repr__(self) -> str: ...
    def lr(
        self,
        base: typing.SupportsFloat | typing.SupportsIndex,
        version: typing.SupportsInt | typing.SupportsIndex,
    ) -> float:
        """
        The learning rate of the update that follows `version` of them.
        """

class StalenessRate:
    """
    How the learning rate goes with staleness.

    decay: 'none', 'inverse' (1 / max(1, staleness); Zhang et al. 2016, arXiv:1511.05950) or 'poly'
    ((1 + staleness)^-power; Xie et al. 2019, arXiv:1903.03934).
    """
    def __init__(
        self, decay: str = "none", *, power: typing.SupportsFloat | typing.SupportsIndex = 0.5
    ) -> None: ...
    def __repr__(self) -> str: ...
    def factor(self, staleness: typing.SupportsInt | typing.SupportsIndex) -> float:
        """
        What the learning rate of such an update is multiplied by.
        """

class DelayCompensation:
    """
    DC-ASGD (Zheng et al. 2017, arXiv:1609.08326).

    A gradient g becomes g + strength * g * g * (w - what its worker had). kind: 'none', 'constant', or
    'adaptive', which divides the strength by sqrt(mean_square + 1e-7), element by element; there
    mean_square = decay * mean_square + (1 - decay) * g * g, from 0.
    """
    def __init__(
        self,
        kind: str = "none",
        *,
        strength: typing.SupportsFloat | typing.SupportsIndex = 0.04,
        decay: typing.SupportsFloat | typing.SupportsIndex = 0.95,
    ) -> None: ...
    def __repr__(self) -> str: ...
    @property
    def decay(self) -> float: ...
    @property
    def kind(self) -> str: ...
    @property
    def strength(self) -> float: ...

class Outcome(enum.Enum):
    """
    What became of a push.
    """

    APPLIED = ...
    DROPPED = ...
    DUPLICATE = ...
    GAP = ...
    NONFINITE = ...
    NOT_LIVE = ...
    UNINITIALIZED = ...

class Reply:
    """
    An answer that may go out now.

    Its payload, if it has one, holds the chunk's parameters of that version. lag is the worker's at
    this moment; staleness is that of the push that is answered. dropped: that push was too stale to be
    applied.
    """
    @property
    def chunk(self) -> int: ...
    @property
    def dropped(self) -> bool: ...
    @property
    def has_payload(self) -> bool: ...
    @property
    def lag(self) -> int: ...
    @property
    def staleness(self) -> int: ...
    @property
    def step(self) -> int: ...
    @property
    def version(self) -> int: ...
    @property
    def worker(self) -> int: ...

class PushResult:
    """
    What a push set off.

    clock is the worker's on this chunk after the call, 0 if it is not live. nonfinite_index is the
    place of the first NaN or infinity in the chunk.
    """
    @property
    def clock(self) -> int: ...
    @property
    def nonfinite_index(self) -> int | None: ...
    @property
    def outcome(self) -> Outcome: ...
    @property
    def replies(self) -> list[Reply]: ...

class ShardStats:
    """
    Counts since the shard was made.
    """
    @property
    def applied(self) -> int:
        """
        pushes that ticked
        """
    @property
    def dropped(self) -> int:
        """
        pushes that were too stale to be applied
        """
    @property
    def duplicates(self) -> int: ...
    @property
    def gaps(self) -> int: ...
    @property
    def max_lag(self) -> int:
        """
        over the answers that let a worker go on
        """
    @property
    def max_staleness(self) -> int:
        """
        but for those dropped
        """
    @property
    def mean_staleness(self) -> float: ...
    @property
    def nonfinite(self) -> int:
        """
        pushes with a NaN or an infinity
        """
    @property
    def staleness_count(self) -> int: ...
    @property
    def staleness_sum(self) -> int: ...
    @property
    def updates(self) -> int:
        """
        versions, over all chunks
        """

class StalenessClock:
    """
    How many steps each live worker has done.

    A bound of None is asp, 0 is bsp, s is ssp. The minimum never decreases.
    """
    def __contains__(self, worker: typing.SupportsInt | typing.SupportsIndex) -> bool: ...
    def __init__(self, bound: typing.SupportsInt | typing.SupportsIndex | None) -> None: ...
    def __len__(self) -> int: ...
    def admits(self, worker: typing.SupportsInt | typing.SupportsIndex) -> bool:
        """
        Is the lag within the bound: may the worker begin its next step?
        """
    def clock(self, worker: typing.SupportsInt | typing.SupportsIndex) -> int:
        """
        KeyError if it is not live.
        """
    def is_fastest(self, worker: typing.SupportsInt | typing.SupportsIndex) -> bool:
        """
        Nobody has a larger clock. KeyError if the worker is not live.
        """
    def join(
        self,
        worker: typing.SupportsInt | typing.SupportsIndex,
        clock: typing.SupportsInt | typing.SupportsIndex,
    ) -> None:
        """
        ValueError if the worker is live already, or if the clock is below the minimum.
        """
    def lag(self, worker: typing.SupportsInt | typing.SupportsIndex) -> int:
        """
        clock(worker) - minimum().
        """
    def leave(self, worker: typing.SupportsInt | typing.SupportsIndex) -> None:
        """
        KeyError if it is not live.
        """
    def minimum(self) -> int:
        """
        The smallest clock of any live worker; the last one there was when nobody is live.
        """
    def slowest(self) -> int:
        """
        Of the workers with the smallest clock, the one that has had it for longest.

        0 if nobody is live.
        """
    def tick(self, worker: typing.SupportsInt | typing.SupportsIndex) -> int:
        """
        One more step; returns the new clock. KeyError if the worker is not live.
        """
    def workers(self) -> list[int]:
        """
        The live workers, in ascending order.
        """
    @property
    def bound(self) -> int | None: ...

class Rule:
    """
    Who waits for whom, and which gradients count.

    | policy        | rule                                          |
    | ------------- | --------------------------------------------- |
    | asp           | Rule()                                        |
    | ssp           | Rule(bound=s), maybe with unit='versions'     |
    | bsp           | Rule(bound=0, gather='step')                  |
    | dssp          | Rule(bound=low, bound_max=high)               |
    | backup        | Rule(gather='round', backup_workers=b)        |
    | drop          | Rule(staleness_limit=r)                       |

    ValueError for a rule that contradicts itself.
    """
    def __init__(
        self,
        *,
        bound: typing.SupportsInt | typing.SupportsIndex | None = None,
        bound_max: typing.SupportsInt | typing.SupportsIndex | None = None,
        unit: str = "clocks",
        gather: str = "each",
        backup_workers: typing.SupportsInt | typing.SupportsIndex = 0,
        staleness_limit: typing.SupportsInt | typing.SupportsIndex | None = None,
    ) -> None:
        """
        bound: how far a worker may be ahead of the slowest when it begins a step; None for no limit.
        bound_max: makes the bound dynamic, between the two. unit: what bound counts: 'clocks', or 'versions'
        of the chunk. gather: 'each' gradient is an update, or the mean of a 'step', or of a 'round'.
        backup_workers: a round does not wait for so many of the live workers. staleness_limit: a gradient
        that is staler is answered and not applied.
        """
    @property
    def backup_workers(self) -> int: ...
    @property
    def bound(self) -> int | None: ...
    @property
    def bound_max(self) -> int | None: ...
    @property
    def gather(self) -> str: ...
    @property
    def staleness_limit(self) -> int | None: ...
    @property
    def unit(self) -> str: ...

class SimulatedPush:
    """
    What a push to a SimulatedChunk set off.
    """
    @property
    def clock(self) -> int:
        """
        the worker's, with this push
        """
    @property
    def dropped(self) -> bool:
        """
        too stale: not applied
        """
    @property
    def released(self) -> list[int]:
        """
        those who begin their next step now, the worker itself perhaps among them
        """
    @property
    def staleness(self) -> int:
        """
        updates since it pulled
        """

class SimulatedChunk:
    """
    A chunk without numbers: a rule, in virtual time.

    It decides with the code that decides for a Shard, and counts versions as a Shard does whose pushes
    are finite, have samples and are answered with parameters. A push costs about a microsecond, whatever
    the number of workers, and a little for each worker that it releases. For a simulation:

        chunk = SimulatedChunk(Rule(bound=3))
        for worker in range(1, n + 1): chunk.join(worker, 0)
        # For the event "worker has computed its step, and the push arrives, at now_s":
        push = chunk.push(worker, now_s)
        # Each worker in push.released begins its next step at now_s; if the one that pushed is not
        # among them, it waits until another call returns it.
    """
    def __contains__(self, worker: typing.SupportsInt | typing.SupportsIndex) -> bool: ...
    def __init__(self, rule: Rule) -> None: ...
    def __len__(self) -> int: ...
    def clock(self, worker: typing.SupportsInt | typing.SupportsIndex) -> int:
        """
        KeyError if it is not live.
        """
    def is_waiting(self, worker: typing.SupportsInt | typing.SupportsIndex) -> bool:
        """
        KeyError if it is not live.
        """
    def join(
        self,
        worker: typing.SupportsInt | typing.SupportsIndex,
        clock: typing.SupportsInt | typing.SupportsIndex,
    ) -> None:
        """
        ValueError if the worker is live already, or if the clock is below the minimum.
        """
    def lag(self, worker: typing.SupportsInt | typing.SupportsIndex) -> int:
        """
        clock(worker) - minimum().
        """
    def leave(self, worker: typing.SupportsInt | typing.SupportsIndex) -> list[int]:
        """
        Returns those who waited only for it. KeyError if it is not live.
        """
    def minimum(self) -> int: ...
    def push(
        self,
        worker: typing.SupportsInt | typing.SupportsIndex,
        now_s: typing.SupportsFloat | typing.SupportsIndex,
    ) -> SimulatedPush:
        """
        The worker's next step arrives; times do not decrease. KeyError if it is not live.

        A worker that waits must not push.
        """
    def set_rule(self, rule: Rule) -> list[int]:
        """
        Goes on by another rule; returns those who may go on by it.
        """
    def workers(self) -> list[int]:
        """
        The live workers, in ascending order.
        """
    @property
    def dropped(self) -> int:
        """
        pushes that were not applied
        """
    @property
    def rule(self) -> Rule: ...
    @property
    def version(self) -> int:
        """
        updates so far
        """

class kernels:
    """
    The loops, for tests and benchmarks.

    isa is one of instruction_sets(). Arrays are changed in place, never converted; payloads are bytes
    and may be unaligned.
    """
    @staticmethod
    @typing.overload
    def accumulate(
        isa: str,
        sum: numpy.typing.NDArray[numpy.float32],
        payload: typing_extensions.Buffer,
        weight: typing.SupportsFloat | typing.SupportsIndex,
        first: bool,
    ) -> None:
        """
        sum = weight * payload if first, else sum += weight * payload.
        """
    @staticmethod
    @typing.overload
    def accumulate(
        isa: str,
        sum: numpy.typing.NDArray[numpy.float64],
        payload: typing_extensions.Buffer,
        weight: typing.SupportsFloat | typing.SupportsIndex,
        first: bool,
    ) -> None:
        """
        sum = weight * payload if first, else sum += weight * payload.
        """
    @staticmethod
    @typing.overload
    def compensate(
        isa: str,
        w: numpy.typing.NDArray[numpy.float32],
        backup: numpy.typing.NDArray[numpy.float32],
        mean_square: numpy.typing.NDArray[numpy.float32] | None,
        gradient: typing_extensions.Buffer,
        corrected: numpy.typing.NDArray[numpy.float32],
        compensation: DelayCompensation,
    ) -> None:
        """
        Writes the gradient with its delay compensated to corrected.

        mean_square: None, but for adaptive compensation, which changes it.
        """
    @staticmethod
    @typing.overload
    def compensate(
        isa: str,
        w: numpy.typing.NDArray[numpy.float64],
        backup: numpy.typing.NDArray[numpy.float64],
        mean_square: numpy.typing.NDArray[numpy.float64] | None,
        gradient: typing_extensions.Buffer,
        corrected: numpy.typing.NDArray[numpy.float64],
        compensation: DelayCompensation,
    ) -> None:
        """
        Writes the gradient with its delay compensated to corrected.

        mean_square: None, but for adaptive compensation, which changes it.
        """
    @staticmethod
    def first_nonfinite(
        isa: str,
        dtype: str,
        payload: typing_extensions.Buffer,
        n: typing.SupportsInt | typing.SupportsIndex,
    ) -> int:
        """
        The index of the first NaN or infinity, n if there is none.
        """
    @staticmethod
    @typing.overload
    def update(
        isa: str,
        w: numpy.typing.NDArray[numpy.float32],
        states: list[numpy.typing.NDArray[numpy.float32]],
        gradient: typing_extensions.Buffer,
        reply: typing_extensions.Buffer | None,
        options: SgdOptions | AdamOptions | AdagradOptions | SumOptions,
        number: typing.SupportsInt | typing.SupportsIndex,
    ) -> None:
        """
        The optimizer's update with this number, from 1. reply may be gradient.

        states: its buffers, in the order of Shard.state_names(). The first update of SGD ignores what its
        buffer holds.
        """
    @staticmethod
    @typing.overload
    def update(
        isa: str,
        w: numpy.typing.NDArray[numpy.float64],
        states: list[numpy.typing.NDArray[numpy.float64]],
        gradient: typing_extensions.Buffer,
        reply: typing_extensions.Buffer | None,
        options: SgdOptions | AdamOptions | AdagradOptions | SumOptions,
        number: typing.SupportsInt | typing.SupportsIndex,
    ) -> None:
        """
        The optimizer's update with this number, from 1. reply may be gradient.

        states: its buffers, in the order of Shard.state_names(). The first update of SGD ignores what its
        buffer holds.
        """

class codecs:
    """
    How f32 values become payloads, and payloads values.

    A codec is one of bf16, f16, int8, topk. Values, gradients and residuals are contiguous float32
    arrays, never converted; a residual and `out` are changed in place. A payload is any contiguous
    buffer, and may be unaligned; one to write to may be larger than needed. What was encoded begins at
    its first byte, and the number of its bytes is returned.

    isa is one of instruction_sets(), by default the one in use. All give the same bits.
    """
    @staticmethod
    def decode(
        codec: str,
        payload: typing_extensions.Buffer,
        out: numpy.typing.NDArray[numpy.float32],
        *,
        begin: typing.SupportsInt | typing.SupportsIndex = 0,
        values: typing.SupportsInt | typing.SupportsIndex | None = None,
        isa: str | None = None,
    ) -> None:
        """
        Checks the payload of a chunk of `values`, by default all of out, and fills out
        with those from `begin` on. Raises ValueError for a payload that is not well formed.
        """
    @staticmethod
    def encode_half(
        codec: str,
        values: numpy.typing.NDArray[numpy.float32],
        out: typing_extensions.Buffer,
        *,
        isa: str | None = None,
    ) -> int:
        """
        Writes values in bf16 or f16, rounded to nearest even.

        A finite value beyond 65504 becomes 65504 in f16.
        """
    @staticmethod
    def encode_int8(
        gradient: numpy.typing.NDArray[numpy.float32],
        residual: numpy.typing.NDArray[numpy.float32],
        out: typing_extensions.Buffer,
        block: typing.SupportsInt | typing.SupportsIndex,
        seed: typing.SupportsInt | typing.SupportsIndex,
        *,
        isa: str | None = None,
    ) -> int:
        """
        Writes gradient + residual in 8 bits each; the error becomes the residual.

        `block` values, a power of two from 64 to 65536, share a scale, their largest magnitude / 127. Each
        is rounded up or down at random such that its mean is right; `seed` should differ from push to push
        and chunk to chunk. Sources: Alistarh et al. 2017, QSGD, arXiv:1610.02132; Karimireddy et al. 2019,
        error feedback, arXiv:1901.09847.
        """
    @staticmethod
    def encode_topk(
        gradient: numpy.typing.NDArray[numpy.float32],
        residual: numpy.typing.NDArray[numpy.float32],
        out: typing_extensions.Buffer,
        k: typing.SupportsInt | typing.SupportsIndex,
        *,
        isa: str | None = None,
    ) -> int:
        """
        Writes the k largest of gradient + residual; the others become the residual.

        At most half of the values; of equal ones the first. Source: Stich et al. 2018, arXiv:1809.07599.
        """
    @staticmethod
    def find_nonfinite(
        codec: str,
        payload: typing_extensions.Buffer,
        values: typing.SupportsInt | typing.SupportsIndex,
    ) -> int | None:
        """
        The index of the first NaN or infinity; of int8, of the first value in its block.

        Raises ValueError for a payload that is not well formed.
        """
    @staticmethod
    def nbytes(
        codec: str,
        values: typing.SupportsInt | typing.SupportsIndex,
        *,
        block: typing.SupportsInt | typing.SupportsIndex = 0,
        k: typing.SupportsInt | typing.SupportsIndex = 0,
    ) -> int:
        """
        The size of a payload; int8 needs its block, topk its k.
        """

class Shard:
    """
    A run of chunks: parameters, optimizer state, clocks.

    May be called from any thread. A payload is any contiguous buffer of exactly the chunk's nbytes,
    taken as little-endian numbers of the chunk's dtype; it is never converted. IndexError for a chunk
    that the shard does not have, ValueError for a payload that does not fit; nothing has changed then.
    """
    def __init__(
        self,
        chunks: collections.abc.Sequence[ChunkSpec],
        options: SgdOptions | AdamOptions | AdagradOptions | SumOptions,
        *,
        rule: Rule,
        nonfinite: Nonfinite,
        scale_lr: bool = False,
        schedule: Schedule = ...,
        first_chunk: typing.SupportsInt | typing.SupportsIndex = 0,
        threads: typing.SupportsInt | typing.SupportsIndex = 1,
        staleness_rate: StalenessRate = ...,
        compensation: DelayCompensation = ...,
    ) -> None:
        """
        rule: who waits for whom, until set_rule() gives another one. scale_lr: apply a mean of k gradients with k
        times the learning rate (Goyal et al. 2017, arXiv:1706.02677, section 2.1). schedule: the learning
        rate by the chunk's version. first_chunk: the number that the first of these chunks has in the whole
        model; every number taken or given is such a one. threads: how many share the work on a large chunk;
        they change no bit of a result. staleness_rate: what the learning rate of a stale push is multiplied
        by. compensation: of SGD alone, and not with average; keeps one copy of the parameters for each live
        worker.
        """
    def clock(
        self,
        chunk: typing.SupportsInt | typing.SupportsIndex,
        worker: typing.SupportsInt | typing.SupportsIndex,
    ) -> int:
        """
        KeyError if the worker is not live.
        """
    def first_step(self) -> int:
        """
        A step that is new on every chunk: the largest minimum, plus one.
        """
    def has_state(self, chunk: typing.SupportsInt | typing.SupportsIndex) -> bool:
        """
        True from the first update on, if the optimizer has buffers for this chunk.
        """
    def init(
        self, chunk: typing.SupportsInt | typing.SupportsIndex, payload: typing_extensions.Buffer
    ) -> bool:
        """
        First values of a chunk, taken once: False if it had values already.
        """
    def initialized(self, chunk: typing.SupportsInt | typing.SupportsIndex) -> bool: ...
    def join(
        self,
        worker: typing.SupportsInt | typing.SupportsIndex,
        clock: typing.SupportsInt | typing.SupportsIndex,
    ) -> None:
        """
        On every chunk or, with a ValueError, on none.
        """
    def leave(self, worker: typing.SupportsInt | typing.SupportsIndex) -> list[Reply]:
        """
        Forgets the worker and what waits for it; KeyError if it is not live.

        Returns the answers to others that waited only for it.
        """
    def load_state(
        self,
        chunk: typing.SupportsInt | typing.SupportsIndex,
        name: str,
        payload: typing_extensions.Buffer,
    ) -> None:
        """
        Sets a buffer of the optimizer. ValueError if it has none of this name.
        """
    def minimum(self, chunk: typing.SupportsInt | typing.SupportsIndex) -> int: ...
    def parked(self) -> int:
        """
        How many answers wait, on all chunks.
        """
    def pull(
        self,
        chunk: typing.SupportsInt | typing.SupportsIndex,
        worker: typing.SupportsInt | typing.SupportsIndex | None,
        out: typing_extensions.Buffer,
        codec: str = "raw",
    ) -> tuple[int, list[Reply]]:
        """
        Writes the parameters into out, as 'raw', 'bf16' or 'f16', and returns their version.

        The version becomes the base of the worker's staleness if it is live. So, where a bound counts
        versions, others may have waited for this pull: the answers that go out now are returned beside the
        version. ValueError if the chunk has no values yet.
        """
    def push(
        self,
        chunk: typing.SupportsInt | typing.SupportsIndex,
        worker: typing.SupportsInt | typing.SupportsIndex,
        step: typing.SupportsInt | typing.SupportsIndex,
        samples: typing.SupportsInt | typing.SupportsIndex,
        payload: typing_extensions.Buffer,
        wants_payload: bool,
        *,
        codec: str = "raw",
        answer: typing_extensions.Buffer | None = None,
        now_s: typing.SupportsFloat | typing.SupportsIndex = 0.0,
    ) -> PushResult:
        """
        Applies a push exactly once and returns every answer that may go out now.

        codec: how the payload is written: 'raw', or for f32 parameters 'bf16', 'f16', 'int8', 'topk'. If
        wants_payload, the chunk's parameters are there when the Reply for this worker and step is returned,
        by this call or a later one: raw in `answer`, or without one in the payload, in the payload's codec
        ('int8' and 'topk' need `answer`). Keeps both until they are no longer needed. now_s: when the push
        came, in seconds of any clock that does not go back; dynamic bounds alone read it.
        """
    def push_run(
        self,
        chunk: typing.SupportsInt | typing.SupportsIndex,
        count: typing.SupportsInt | typing.SupportsIndex,
        worker: typing.SupportsInt | typing.SupportsIndex,
        step: typing.SupportsInt | typing.SupportsIndex,
        samples: typing.SupportsInt | typing.SupportsIndex,
        region: typing_extensions.Buffer,
        wants_payload: bool,
        now_s: typing.SupportsFloat | typing.SupportsIndex = 0.0,
    ) -> list[PushResult]:
        """
        Pushes chunk, chunk - 1, ... (count of them), whose raw payloads lie in one region.

        The region begins with the lowest of these chunks; each begins at the next multiple of 64 bytes
        after the one before it. Answers are written in place. Returns the results in the order of the
        pushes.
        """
    def set_lr(self, lr: typing.SupportsFloat | typing.SupportsIndex) -> None: ...
    def set_rule(self, rule: Rule) -> list[Reply]:
        """
        Goes on by another rule, and returns the answers that may go out by it.

        What was gathered for means is applied one by one, in order of arrival, if the new rule takes none;
        otherwise it is part of the new rule's.
        """
    def set_version(
        self,
        chunk: typing.SupportsInt | typing.SupportsIndex,
        version: typing.SupportsInt | typing.SupportsIndex,
    ) -> None:
        """
        Goes on from an earlier run's version: the count of updates that the optimizer goes by.

        ValueError once a worker takes part.
        """
    def state(
        self,
        chunk: typing.SupportsInt | typing.SupportsIndex,
        name: str,
        out: typing_extensions.Buffer,
    ) -> None:
        """
        Copies a buffer of the optimizer into out. ValueError if there is none yet.
        """
    def state_names(self) -> list[str]:
        """
        The optimizer's buffers, under torch's names; SGD's is 'momentum'.
        """
    def stats(self) -> ShardStats: ...
    def unpark(
        self,
        chunk: typing.SupportsInt | typing.SupportsIndex,
        worker: typing.SupportsInt | typing.SupportsIndex,
    ) -> None:
        """
        Forgets the answers that wait for a worker; its part of a mean stays in it.
        """
    def version(self, chunk: typing.SupportsInt | typing.SupportsIndex) -> int:
        """
        Updates so far.
        """
    def workers(self) -> list[int]:
        """
        The live workers, in ascending order.
        """
    @property
    def chunks(self) -> int: ...
    @property
    def initialized_chunks(self) -> int: ...

def build_info() -> dict[str, bool | str]:
    """
    How this module was built: version, compiler, build_type, sanitized.
    """

def instruction_set() -> str:
    """
    The instruction set in use: the fastest, or the one that LEASH_ISA names.
    """

def instruction_sets() -> list[str]:
    """
    Those that this CPU can run, the slowest first.
    """

def keep_freed_memory() -> bool:
    """
    From now on this process keeps the memory that it frees, up to a few hundred megabytes, instead of paying for it again in page faults. False if malloc refuses, or is not glibc's. For a process of Leash's own.
    """
