"""
The C++ core of Leash: clocks, kernels, the shard that holds the parameters, a worker's steps.
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
    "EchoWorker",
    "EngineCounts",
    "Intake",
    "MessageMemory",
    "Nonfinite",
    "Outcome",
    "Overflow",
    "PushResult",
    "Record",
    "RecordKind",
    "Reply",
    "Rule",
    "Schedule",
    "SgdOptions",
    "Shard",
    "ShardEngine",
    "ShardLane",
    "ShardStats",
    "SimulatedChunk",
    "SimulatedPush",
    "StalenessRate",
    "StepChunk",
    "StepClock",
    "StepEnd",
    "StepEngine",
    "StepLane",
    "StepNotice",
    "StepStop",
    "SumOptions",
    "build_info",
    "codecs",
    "find_libzmq",
    "headers",
    "instruction_set",
    "instruction_sets",
    "keep_freed_memory",
    "kernels",
    "serve_echo",
]

class ChunkSpec:
    """
    What a chunk holds.

    dtype is 'f32' or 'f64'. kind is 'parameter' (pushed as gradients) or 'buffer' (pushed as
    values). piece_lengths and piece_slots: how many values belong to each of the slots that have a
    part in the chunk, in their order, and the numbers of these slots in the whole model; without them
    all values are slot 0's. row_lengths: how many values a row of each of these slots has, or 0 where
    the slot's part is not made up of whole rows; without them each part is one row.
    """
    def __init__(
        self,
        values: typing.SupportsInt | typing.SupportsIndex,
        dtype: str,
        kind: str,
        piece_lengths: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex] = [],
        piece_slots: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex] = [],
        row_lengths: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex] = [],
    ) -> None: ...
    @property
    def dtype(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def piece_lengths(self) -> list[int]: ...
    @property
    def piece_slots(self) -> list[int]: ...
    @property
    def row_lengths(self) -> list[int]: ...
    @property
    def values(self) -> int: ...

class Nonfinite(enum.Enum):
    """
    What the shard does with a push of which a value would not be finite.
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
    For parameters that are sums of what is pushed.

    Under bsp w = (1 - lr) * w + lr * (the plain sum of a step's pushes, in the order of worker ids); on
    arrival the same with one push. ValueError unless lr is from 0 to 1.
    """
    def __init__(self, lr: typing.SupportsFloat | typing.SupportsIndex = 1.0) -> None: ...
    @property
    def lr(self) -> float: ...

class Schedule:
    """
    The learning rate as a function of the number of updates.

    decay: 'constant', 'step' (torch's StepLR: step_size, gamma), 'cosine' (CosineAnnealingLR from 0
    to total_updates, down to minimum, where it stays) or 'power' (base * (version +
    offset)**-power). A warm-up comes first (LinearLR, from warmup_start_factor to 1 in
    warmup_updates), and the decay counts updates from its end.
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
        The learning rate of the update that follows `version` others.
        """

class StalenessRate:
    """
    The factor of a stale update's learning rate.

    decay: 'none', 'inverse' (1 / max(1, staleness); Zhang et al. 2016, arXiv:1511.05950) or 'poly'
    ((1 + staleness)^-power; Xie et al. 2019, arXiv:1903.03934).
    """
    def __init__(
        self, decay: str = "none", *, power: typing.SupportsFloat | typing.SupportsIndex = 0.5
    ) -> None: ...
    def __repr__(self) -> str: ...
    def factor(self, staleness: typing.SupportsInt | typing.SupportsIndex) -> float:
        """
        The factor for an update of this staleness.
        """

class DelayCompensation:
    """
    DC-ASGD (Zheng et al. 2017, arXiv:1609.08326).

    A gradient g becomes g + strength * g * g * (w - w_old), where w_old are the parameters that its
    worker had. kind: 'none', 'constant', or 'adaptive', which divides the strength by
    sqrt(mean_square + 1e-7), element by element; there mean_square = decay * mean_square + (1 -
    decay) * g * g, from 0.
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

    If has_payload, the parameters of that version are written where the push wanted them. lag: the
    worker's, now. staleness: that of the push that is answered. dropped: that push was too stale to be
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
    The result of a push.

    clock: the worker's on this chunk after the call; 0 if it is not live. nonfinite_index: the place of
    the first NaN or infinity that was, or would have come to be, in the chunk.
    """
    @property
    def clock(self) -> int: ...
    @property
    def nonfinite_index(self) -> int | None: ...
    @property
    def outcome(self) -> Outcome: ...
    @property
    def replies(self) -> list[Reply]: ...

class Overflow:
    """
    A mean of finite gradients of which a block was left out.

    index: the place in the chunk of the first value that would not have been finite.
    """
    @property
    def chunk(self) -> int: ...
    @property
    def index(self) -> int: ...
    @property
    def step(self) -> int: ...

class ShardStats:
    """
    Counts since the shard was made.
    """
    @property
    def applied(self) -> int:
        """
        pushes for which a clock ticked
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
        of the pushes that were not dropped
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
        updates of all chunks together
        """

class StepClock:
    """
    Counts the steps of each live worker, and bounds how far one may be ahead.

    bound: None for asp, 0 for bsp, s for ssp. The minimum never decreases.
    """
    def __contains__(self, worker: typing.SupportsInt | typing.SupportsIndex) -> bool: ...
    def __init__(self, bound: typing.SupportsInt | typing.SupportsIndex | None) -> None: ...
    def __len__(self) -> int: ...
    def admits(self, worker: typing.SupportsInt | typing.SupportsIndex) -> bool:
        """
        Whether the lag is within the bound, so that the worker may begin its next step.
        """
    def clock(self, worker: typing.SupportsInt | typing.SupportsIndex) -> int:
        """
        KeyError if it is not live.
        """
    def is_fastest(self, worker: typing.SupportsInt | typing.SupportsIndex) -> bool:
        """
        Whether no worker has a larger clock. KeyError if the worker is not live.
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
        The smallest clock of any live worker; while none is live, the last minimum there was.
        """
    def slowest(self) -> int:
        """
        Of the workers with the smallest clock, the one that has had it for longest.

        0 if no worker is live.
        """
    def tick(self, worker: typing.SupportsInt | typing.SupportsIndex) -> int:
        """
        Counts one more step; returns the new clock. KeyError if the worker is not live.
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
        bound: how far a worker may be ahead of the slowest when it begins a step; None for
        no limit. bound_max: makes the bound dynamic, between the two. unit: what the bound counts,
        'clocks', or 'versions' of the chunk. gather: what is an update, 'each' gradient, or the mean of
        those of a 'step' or of a 'round'. backup_workers: how many of the live workers a round does not
        wait for. staleness_limit: a gradient that is staler is answered and not applied.
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
    The result of a push to a SimulatedChunk.
    """
    @property
    def clock(self) -> int:
        """
        the worker's, this push included
        """
    @property
    def dropped(self) -> bool:
        """
        the push was too stale to be applied
        """
    @property
    def released(self) -> list[int]:
        """
        the workers that begin their next step now, perhaps with the one that pushed
        """
    @property
    def staleness(self) -> int:
        """
        updates since the worker pulled
        """

class SimulatedChunk:
    """
    A chunk without parameters, for simulations in virtual time.

    It decides with the code of a Shard, and counts versions as a Shard does whose pushes are finite,
    have samples and are answered with parameters. A push takes about a microsecond, whatever the
    number of workers, and a little for each worker that it releases. For a simulation:

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
        Returns the workers that waited only for it. KeyError if it is not live.
        """
    def minimum(self) -> int: ...
    def push(
        self,
        worker: typing.SupportsInt | typing.SupportsIndex,
        now_s: typing.SupportsFloat | typing.SupportsIndex,
    ) -> SimulatedPush:
        """
        The worker pushes its next step. KeyError if it is not live.

        now_s must not be less than at any earlier push. A worker that waits must not push.
        """
    def set_rule(self, rule: Rule) -> list[int]:
        """
        Replaces the rule; returns the workers that it lets go on.
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
    The core's loops over numbers, for tests and benchmarks.

    isa is one of instruction_sets(). Arrays are changed in place and never converted. Payloads are
    bytes, and may be unaligned.
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
        Compensates the delay of a gradient, and writes the result to corrected.

        mean_square: None, except for adaptive compensation, which changes it.
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
        Compensates the delay of a gradient, and writes the result to corrected.

        mean_square: None, except for adaptive compensation, which changes it.
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
        Makes one update with the optimizer of these options. reply may be gradient.

        number: which update this is, from 1. states: the optimizer's buffers, in the order of
        Shard.state_names(). The first update of SGD ignores what its buffer holds.
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
        Makes one update with the optimizer of these options. reply may be gradient.

        number: which update this is, from 1. states: the optimizer's buffers, in the order of
        Shard.state_names(). The first update of SGD ignores what its buffer holds.
        """

class codecs:
    """
    Encodes f32 values as payloads, and decodes payloads.

    A codec is one of bf16, f16, int8, topk. Values, gradients and residuals are contiguous float32
    arrays, which are never converted; a residual and `out` are changed in place. A payload is any
    contiguous buffer, and may be unaligned. To encode, it may be larger than needed: the codec writes
    from its first byte on, and the number of bytes is returned.

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
        Checks the payload of a chunk, and fills out with its values from `begin` on.

        values: how many the chunk has, by default as many as out. Raises ValueError for a payload that
        is not well formed.
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
        Writes gradient + residual in 8 bits for each value; the error becomes the residual.

        `block` values, a power of two from 64 to 65536, share a scale, their largest magnitude / 127.
        Each is rounded up or down at random, such that its mean is right; `seed` should differ from push
        to push and from chunk to chunk. Sources: Alistarh et al. 2017, QSGD, arXiv:1610.02132;
        Karimireddy et al. 2019, error feedback, arXiv:1901.09847.
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
        Writes the k largest values of gradient + residual; the others become the residual.

        k is at most half of the values. Of equal ones, the first are sent. Source: Stich et al. 2018,
        arXiv:1809.07599.
        """
    @staticmethod
    def find_nonfinite(
        codec: str,
        payload: typing_extensions.Buffer,
        values: typing.SupportsInt | typing.SupportsIndex,
    ) -> int | None:
        """
        The index of the first NaN or infinity; of int8, of its block's first value.

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

class headers:
    """
    Reads and writes the headers that travel with every step.

    These are push, push_pull, params, ok and error; leash.ps.wire.frames has all verbs. What is written
    has the bytes of frames.encode. What is read is a map from the names of fields to values, with the
    verb as "t".
    """
    @staticmethod
    def read_answer(header: typing_extensions.Buffer) -> dict[str, typing.Any] | None:
        """
        The fields of a params, ok or error; None as for read_push.
        """
    @staticmethod
    def read_push(header: typing_extensions.Buffer) -> dict[str, typing.Any] | None:
        """
        The fields of a push or push_pull.

        None for any other verb, for a codec that is not known, and for what frames.decode refuses.
        """
    @staticmethod
    def write_error(
        code: str,
        text: str,
        worker: typing.SupportsInt | typing.SupportsIndex,
        step: typing.SupportsInt | typing.SupportsIndex,
        chunk: typing.SupportsInt | typing.SupportsIndex,
        clock: typing.SupportsInt | typing.SupportsIndex,
    ) -> bytes:
        """
        Cuts a text behind its 512th character.
        """
    @staticmethod
    def write_ok(
        worker: typing.SupportsInt | typing.SupportsIndex,
        step: typing.SupportsInt | typing.SupportsIndex,
        chunk: typing.SupportsInt | typing.SupportsIndex,
        taken: bool,
        number: typing.SupportsInt | typing.SupportsIndex = 0,
    ) -> bytes: ...
    @staticmethod
    def write_params(
        worker: typing.SupportsInt | typing.SupportsIndex,
        step: typing.SupportsInt | typing.SupportsIndex,
        chunk: typing.SupportsInt | typing.SupportsIndex,
        codec: str,
        version: typing.SupportsInt | typing.SupportsIndex,
        lag: typing.SupportsInt | typing.SupportsIndex,
        staleness: typing.SupportsInt | typing.SupportsIndex,
        chunks: typing.SupportsInt | typing.SupportsIndex = 1,
        unchanged: bool = False,
    ) -> bytes: ...
    @staticmethod
    def write_push(
        worker: typing.SupportsInt | typing.SupportsIndex,
        incarnation: typing.SupportsInt | typing.SupportsIndex,
        step: typing.SupportsInt | typing.SupportsIndex,
        chunk: typing.SupportsInt | typing.SupportsIndex,
        codec: str,
        samples: typing.SupportsInt | typing.SupportsIndex,
        absent: bytes = b"",
        table: typing.SupportsInt | typing.SupportsIndex = 0,
    ) -> bytes: ...
    @staticmethod
    def write_push_pull(
        worker: typing.SupportsInt | typing.SupportsIndex,
        incarnation: typing.SupportsInt | typing.SupportsIndex,
        step: typing.SupportsInt | typing.SupportsIndex,
        chunk: typing.SupportsInt | typing.SupportsIndex,
        codec: str,
        samples: typing.SupportsInt | typing.SupportsIndex,
        chunks: typing.SupportsInt | typing.SupportsIndex = 1,
        slab: typing.SupportsInt | typing.SupportsIndex = 0,
        nbytes: typing.SupportsInt | typing.SupportsIndex = 0,
        absent: bytes = b"",
        has: typing.SupportsInt | typing.SupportsIndex = 0,
        table: typing.SupportsInt | typing.SupportsIndex = 0,
        answer: str = "",
    ) -> bytes: ...

class Shard:
    """
    A run of chunks: parameters, optimizer state, clocks.

    Any thread may call it. A payload is any contiguous buffer of exactly the chunk's nbytes, read as
    little-endian numbers of the chunk's dtype and never converted. Raises IndexError for a chunk
    that the shard does not have, ValueError for a payload that does not fit; nothing has changed
    then.
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
        rule: who waits for whom, until set_rule() replaces it. scale_lr: apply a mean of k
        gradients with k times the learning rate (Goyal et al. 2017, arXiv:1706.02677, section 2.1).
        schedule: the learning rate by the chunk's version. first_chunk: the number that the first of
        these chunks has in the whole model; every method numbers chunks in this way. threads: how many
        share the work on a large chunk; they change no bit of a result. staleness_rate: the factor of a
        stale push's learning rate. compensation: only for SGD, and only if every gradient is an update;
        costs one copy of the parameters for each live worker.
        """
    def clock(
        self,
        chunk: typing.SupportsInt | typing.SupportsIndex,
        worker: typing.SupportsInt | typing.SupportsIndex,
    ) -> int:
        """
        KeyError if the worker is not live.
        """
    def close_snapshot(self) -> None: ...
    def first_step(self) -> int:
        """
        A step that is new on every chunk: the largest minimum, plus one.
        """
    def give_up_rounds(self) -> list[Reply]:
        """
        Gives up all rounds, and returns the answers that waited for them.

        What was sent for them is dropped, and so is the rest of the step that each worker is in. Does
        nothing under a rule that gathers no rounds.
        """
    def has_state(self, chunk: typing.SupportsInt | typing.SupportsIndex) -> bool:
        """
        True from the first update on, if the optimizer has buffers for this chunk.
        """
    def heal(
        self,
        chunk: typing.SupportsInt | typing.SupportsIndex,
        payload: typing_extensions.Buffer,
        version: typing.SupportsInt | typing.SupportsIndex,
    ) -> int | None:
        """
        Puts values of another server of the run, with their version, in place of a chunk's own.

        The optimizer's buffers and counts stay. Returns the index of the first value that is not finite,
        and changes nothing then. ValueError once a worker takes part.
        """
    def init(
        self, chunk: typing.SupportsInt | typing.SupportsIndex, payload: typing_extensions.Buffer
    ) -> bool:
        """
        Copies a chunk's first values. Changes nothing, and returns False, if it has values already.
        """
    def initialized(self, chunk: typing.SupportsInt | typing.SupportsIndex) -> bool: ...
    def join(
        self,
        worker: typing.SupportsInt | typing.SupportsIndex,
        clock: typing.SupportsInt | typing.SupportsIndex,
    ) -> None:
        """
        Joins every chunk or, with a ValueError, none.
        """
    def leave(self, worker: typing.SupportsInt | typing.SupportsIndex) -> list[Reply]:
        """
        Forgets the worker, its waiting answers and its gradients in means.

        Returns the answers to others that waited only for it. KeyError if it is not live.
        """
    def load_state(
        self,
        chunk: typing.SupportsInt | typing.SupportsIndex,
        name: str,
        payload: typing_extensions.Buffer,
    ) -> None:
        """
        Sets a buffer of the optimizer. ValueError if it has none of this name, or for values that no optimizer leaves there.
        """
    def minimum(self, chunk: typing.SupportsInt | typing.SupportsIndex) -> int: ...
    def open_snapshot(self) -> list[tuple[int, int, list[tuple[int, int]], list[int], bool]]:
        """
        Opens the snapshot: read_snapshot() gives the numbers of now, whatever changes.

        A chunk is copied before it changes, unless it was released; so the copies take at most as much
        memory as the shard. A snapshot that was open is closed. Returns for each chunk its version, the
        smallest clock, rank and clock of each live worker, the updates that each slot has seen, and whether
        the optimizer has buffers for it. ValueError if a chunk has no values.
        """
    def parked(self) -> int:
        """
        How many answers wait, on all chunks.
        """
    def publish(
        self, chunk: typing.SupportsInt | typing.SupportsIndex, payload: typing_extensions.Buffer
    ) -> int | None:
        """
        Replaces a chunk's values, as an update in which the optimizer has no part.

        Returns the index of the first value that is not finite, and changes nothing then.
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
        payload: typing_extensions.Buffer | None,
        wants_payload: bool,
        *,
        codec: str = "raw",
        answer: typing_extensions.Buffer | None = None,
        now_s: typing.SupportsFloat | typing.SupportsIndex = 0.0,
        absent: bytes = b"",
    ) -> PushResult:
        """
        Applies a push exactly once and returns every answer that may go out now.

        codec: the payload's, 'raw' or, for f32 parameters, 'bf16', 'f16', 'int8' or 'topk'. If
        wants_payload, the chunk's parameters are written before the Reply for this worker and step is
        returned, by this call or a later one: raw to `answer` or, without one, to the payload in the
        payload's codec ('int8' and 'topk' need `answer`). The shard keeps both buffers until it needs
        them no longer. now_s: when the push came, in seconds of any clock that does not go back; only
        dynamic bounds read it. absent: the slots for which there is no gradient, bit i % 8 of byte i / 8
        for the i-th slot that has a part in the chunk; they are not updated, and count as zeros in a mean
        for which others have a gradient. Without payload all are absent.
        """
    def read_snapshot(
        self,
        chunk: typing.SupportsInt | typing.SupportsIndex,
        array: typing.SupportsInt | typing.SupportsIndex,
        begin: typing.SupportsInt | typing.SupportsIndex,
        out: typing_extensions.Buffer,
    ) -> None:
        """
        Copies bytes of a chunk from `begin` on into out, as many as fit there.

        array: 0 for the parameters, i + 1 for the optimizer's buffer state_names()[i]. ValueError if no
        snapshot is open, or the chunk was released, or has no such bytes; MemoryError if there was no
        memory for a copy.
        """
    def release_snapshot(self, chunk: typing.SupportsInt | typing.SupportsIndex) -> None:
        """
        Lets go of a chunk of the snapshot that has been read.
        """
    def set_lr(self, lr: typing.SupportsFloat | typing.SupportsIndex) -> None: ...
    def set_options(
        self,
        worker: typing.SupportsInt | typing.SupportsIndex,
        groups: collections.abc.Sequence[SgdOptions | AdamOptions | AdagradOptions | SumOptions],
        group_of_slot: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex],
        clamps: collections.abc.Sequence[
            tuple[
                typing.SupportsFloat | typing.SupportsIndex,
                typing.SupportsFloat | typing.SupportsIndex,
            ]
        ] = [],
        max_norms: collections.abc.Sequence[typing.SupportsFloat | typing.SupportsIndex] = [],
    ) -> None:
        """
        Gives a worker options of its own for groups of slots, by which its pushes are applied.

        A mean is applied by those of the lowest worker that has a part in it. group_of_slot: an index into
        groups for each slot of the whole model. clamps: for each group the range into which every value is
        brought after an update. max_norms: for each group the 2-norm down to which every row is scaled
        after that; infinity for none. ValueError if the options are another optimizer's than the shard's,
        or need a buffer that the shard's do not have, or if rows of a slot that such a norm is for lie in
        two chunks; KeyError if the worker is not live.
        """
    def set_rule(self, rule: Rule) -> list[Reply]:
        """
        Replaces the rule, and returns the answers that the new one lets go.

        Gradients that wait for a mean are applied one by one, in order of arrival, if the new rule takes no
        means; otherwise they wait for its means.
        """
    def set_updates(
        self,
        chunk: typing.SupportsInt | typing.SupportsIndex,
        updates: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex],
    ) -> None:
        """
        Sets these counts after set_version(), which sets them all to the version.
        """
    def set_version(
        self,
        chunk: typing.SupportsInt | typing.SupportsIndex,
        version: typing.SupportsInt | typing.SupportsIndex,
    ) -> None:
        """
        Sets the version at which an earlier run ended, the count of updates so far.

        ValueError once a worker takes part.
        """
    def skip_to(
        self,
        chunk: typing.SupportsInt | typing.SupportsIndex,
        step: typing.SupportsInt | typing.SupportsIndex,
    ) -> None:
        """
        Counts the steps of all workers up to this one as taken on a chunk that has them.
        """
    def state(
        self,
        chunk: typing.SupportsInt | typing.SupportsIndex,
        name: str,
        out: typing_extensions.Buffer,
    ) -> None:
        """
        Copies a buffer of the optimizer into out; before the first update, what it begins with.
        """
    def state_names(self) -> list[str]:
        """
        The optimizer's buffers, under torch's names; SGD's is 'momentum'.
        """
    def stats(self) -> ShardStats: ...
    def take_overflows(self) -> list[Overflow]:
        """
        The means of which a block was left out since the last call.
        """
    def unpark(
        self,
        chunk: typing.SupportsInt | typing.SupportsIndex,
        worker: typing.SupportsInt | typing.SupportsIndex,
    ) -> None:
        """
        Forgets the answers that wait for a worker; its gradients stay in their means.
        """
    def updates(self, chunk: typing.SupportsInt | typing.SupportsIndex) -> list[int]:
        """
        How many updates each slot that has a part in the chunk has seen.
        """
    def version(self, chunk: typing.SupportsInt | typing.SupportsIndex) -> int:
        """
        The count of updates.
        """
    def workers(self) -> list[int]:
        """
        The live workers, in ascending order.
        """
    @property
    def chunks(self) -> int: ...
    @property
    def initialized_chunks(self) -> int: ...
    @property
    def snapshot_nbytes(self) -> int:
        """
        The memory of the copies that the snapshot keeps.
        """

class MessageMemory:
    pass

class RecordKind:
    """
    Members:

      PUSH

      REPLY

      DUPLICATE

      NONFINITE

      OPTIONS_DIFFER
    """

    DUPLICATE = ...
    NONFINITE = ...
    OPTIONS_DIFFER = ...
    PUSH = ...
    REPLY = ...
    __members__: typing.ClassVar[dict[str, RecordKind]]
    @typing.overload
    def __eq__(self, other: RecordKind) -> bool: ...
    @typing.overload
    def __eq__(self, other: typing.Any) -> bool: ...
    def __getstate__(self) -> int: ...
    def __hash__(self) -> int: ...
    def __index__(self) -> int: ...
    def __init__(self, value: typing.SupportsInt | typing.SupportsIndex) -> None: ...
    def __int__(self) -> int: ...
    @typing.overload
    def __ne__(self, other: RecordKind) -> bool: ...
    @typing.overload
    def __ne__(self, other: typing.Any) -> bool: ...
    def __repr__(self) -> str: ...
    def __setstate__(self, state: typing.SupportsInt | typing.SupportsIndex) -> None: ...
    def __str__(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def value(self) -> int: ...

class Record:
    """
    One thing that happened at a shard, for metrics and events.
    """
    @property
    def at_s(self) -> float: ...
    @property
    def chunk(self) -> int: ...
    @property
    def dropped(self) -> bool: ...
    @property
    def kind(self) -> RecordKind: ...
    @property
    def lag(self) -> int: ...
    @property
    def other(self) -> int: ...
    @property
    def samples(self) -> int: ...
    @property
    def slot(self) -> int: ...
    @property
    def staleness(self) -> int: ...
    @property
    def step(self) -> int: ...
    @property
    def worker(self) -> int: ...

class EngineCounts:
    """
    What was counted of a shard's messages.
    """
    @property
    def bytes_answered(self) -> int: ...
    @property
    def bytes_pushed(self) -> int: ...
    @property
    def dropped(self) -> int: ...
    @property
    def duplicates(self) -> int: ...
    @property
    def max_lag(self) -> int: ...
    @property
    def max_staleness(self) -> int: ...
    @property
    def nonfinite_chunks(self) -> int: ...
    @property
    def refusals(self) -> dict[str, int]:
        """
        By code.
        """
    @property
    def replies(self) -> int: ...
    @property
    def staleness_sum(self) -> int: ...

class ShardEngine:
    """
    A shard's part in the protocol, without sockets.

    It takes the pushes of the workers that were admitted. While it is used, nobody else pushes to the
    shard, pulls from it for a worker, or has a worker leave. For one thread.
    """
    def __init__(
        self,
        shard: Shard,
        *,
        slab_nbytes: typing.SupportsInt | typing.SupportsIndex,
        first_chunk: typing.SupportsInt | typing.SupportsIndex,
        starts: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex],
        slot_names: collections.abc.Sequence[str],
        nonfinite: Nonfinite,
    ) -> None:
        """
        slab_nbytes: of the whole model. starts: where each of the shard's chunks begins in a
        slab. slot_names: of the whole model's slots. nonfinite: what the shard was made with.
        """
    def admit(
        self,
        worker: typing.SupportsInt | typing.SupportsIndex,
        incarnation: typing.SupportsInt | typing.SupportsIndex,
        key: str = "",
    ) -> None:
        """
        Takes this worker's pushes from now on, if they are of this incarnation and come by this key.
        """
    def attach(
        self,
        worker: typing.SupportsInt | typing.SupportsIndex,
        route: typing_extensions.Buffer,
        memory: typing_extensions.Buffer,
        ring_route: bytes = b"",
    ) -> None:
        """
        Takes this worker's pushes without a payload from its segment, for this route.

        ring_route: of the ring in the segment, by which they may come too; empty if there is none. ValueError unless the memory has the size of a segment of this model.
        """
    def expel(self, worker: typing.SupportsInt | typing.SupportsIndex) -> None:
        """
        Forgets a worker: its segment, options and requests. Others still wait for it.
        """
    def give_up_rounds(self, now_s: typing.SupportsFloat | typing.SupportsIndex) -> None:
        """
        Ends a stall under a rule that gathers rounds: gives all of them up, and sends the
        answers that waited. What was sent for them, and the rest of the steps that workers are in, is
        dropped.
        """
    def is_attached(self, worker: typing.SupportsInt | typing.SupportsIndex) -> bool: ...
    def leave(
        self,
        worker: typing.SupportsInt | typing.SupportsIndex,
        now_s: typing.SupportsFloat | typing.SupportsIndex,
    ) -> None:
        """
        Has nobody wait for a worker, which may not have been admitted. KeyError if it is not live.
        """
    def note_options(
        self,
        worker: typing.SupportsInt | typing.SupportsIndex,
        number: typing.SupportsInt | typing.SupportsIndex,
        table: typing.SupportsInt | typing.SupportsIndex,
    ) -> None:
        """
        Notes which table of options the shard applies for this worker: its number, and one that equal tables of several workers share.
        """
    def pull(
        self,
        route: typing_extensions.Buffer,
        chunk: typing.SupportsInt | typing.SupportsIndex,
        worker: typing.SupportsInt | typing.SupportsIndex | None,
        codec: str,
        now_s: typing.SupportsFloat | typing.SupportsIndex,
    ) -> None:
        """
        Answers a pull of a chunk that has values; worker None is an observer.
        """
    def receive(
        self,
        frames: collections.abc.Sequence[typing.Any],
        now_s: typing.SupportsFloat | typing.SupportsIndex,
        key: str = "",
    ) -> bool:
        """
        Handles a push, given as route, header and, if it has one, payload.

        The key is that of its sender, as the socket knows it; empty without keys.
        The parameters that answer it may be written into the payload; of a read-only one it makes a copy.
        Returns False, and has changed nothing, if it is not a push that it takes: another verb, a header
        that is not well-formed, a sender that does not take part or has another key.
        """
    def refuse_pushes(self, code: str, text: str) -> None:
        """
        Refuses every push from now on, with an error of this code; an empty one lets them come. ValueError for a code that no refusal of an engine has.
        """
    def set_rule(self, rule: Rule, now_s: typing.SupportsFloat | typing.SupportsIndex) -> None: ...
    def stop(self, reason: str) -> None:
        """
        Answers all requests that wait with `stopping`, and refuses pushes from now on.
        """
    def take_counts(self) -> EngineCounts:
        """
        What was counted since the last call.
        """
    def take_heard(self) -> list[tuple[int, float]]:
        """
        The workers that were heard since the last call, and when.
        """
    def take_outgoing(self) -> list[tuple[bytes, bytes, typing.Any, int]]:
        """
        The messages that are to be sent since the last call, in their order.

        Each is route, header, payload or None, and the worker that it answers, which is 0 of an error.
        """
    def take_records(self) -> list[Record]:
        """
        What happened since the last call.
        """
    @property
    def has_news(self) -> bool:
        """
        Whether records, counts or signs of life have come up since they were taken.
        """
    @property
    def parked(self) -> int: ...
    @property
    def waiting(self) -> list[int]:
        """
        The workers that wait for an answer, in ascending order.
        """

class StepChunk:
    """
    A chunk as a worker sees it.
    """
    def __init__(
        self,
        start: typing.SupportsInt | typing.SupportsIndex,
        values: typing.SupportsInt | typing.SupportsIndex,
        dtype: str,
        kind: str,
        pieces: collections.abc.Sequence[
            tuple[
                typing.SupportsInt | typing.SupportsIndex,
                typing.SupportsInt | typing.SupportsIndex,
                typing.SupportsInt | typing.SupportsIndex,
            ]
        ],
    ) -> None:
        """
        start: the offset of its first byte in a slab. pieces: slot, offset of the first byte in a
        slab and number of values of each slot's part in it.
        """

class StepEnd:
    """
    What the answers to a step said, the largest over all.
    """
    @property
    def lag(self) -> int: ...
    @property
    def staleness(self) -> int: ...
    @property
    def version(self) -> int: ...

class StepNotice:
    """
    An answer that the engine does not deal with alone.

    kind: "look", see whether the connection is new; "refused", an error of the server, or an answer
    that does not fit what was asked, as code, text and clock say; "other", leash.ps.wire reads it.
    """
    @property
    def clock(self) -> int: ...
    @property
    def code(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def text(self) -> str: ...

class StepEngine:
    """
    A worker's side of the data connections.

    It says which request goes next to each shard, what an answer means, and what is sent again over a
    new connection. It never waits and knows no sockets: a driver carries what `next` gives, hands what
    comes to `receive`, and tells of connections. It belongs to one thread at a time.
    """
    def __init__(
        self,
        chunks: collections.abc.Sequence[StepChunk],
        *,
        worker: typing.SupportsInt | typing.SupportsIndex,
        incarnation: typing.SupportsInt | typing.SupportsIndex,
        window: typing.SupportsInt | typing.SupportsIndex,
        first_chunks: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex],
        codec: str,
        int8_block: typing.SupportsInt | typing.SupportsIndex,
        topk_ratio: typing.SupportsFloat | typing.SupportsIndex,
        answer_codec: str | None = None,
        memory: typing_extensions.Buffer,
        slabs: tuple[
            typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex
        ],
        outbox: typing.SupportsInt | typing.SupportsIndex | None,
        states: typing.SupportsInt | typing.SupportsIndex | None = None,
        residual: typing_extensions.Buffer,
    ) -> None:
        """
        memory: holds two slabs, which begin at `slabs`, from `outbox` on room for payloads that a
        codec wrote, and from `states` on what a server says of each chunk. residual: what int8 and topk left over, laid out
        like a slab; empty for other codecs. The engine keeps and changes both. answer_codec: of parameters
        that are answered with a payload, where that is another than the usual one.
        """
    def attach(self, write: collections.abc.Callable[[int, int], bytes]) -> None:
        """
        Asks every shard to map this worker's memory.

        write: makes the header of an `attach` to a shard, of a number.
        """
    def attached(
        self,
        shard: typing.SupportsInt | typing.SupportsIndex,
        number: typing.SupportsInt | typing.SupportsIndex,
    ) -> bool:
        """
        The answer to an `attach` came; returns whether it is the one to attach().
        """
    def awaits_last(self, shard: typing.SupportsInt | typing.SupportsIndex) -> bool:
        """
        Whether one more answer leaves nothing to do.
        """
    def begin(
        self,
        step: typing.SupportsInt | typing.SupportsIndex,
        samples: typing.SupportsInt | typing.SupportsIndex,
        gradients: typing_extensions.Buffer,
        parameters: typing_extensions.Buffer,
        absent: typing.Any = None,
        held: typing_extensions.Buffer | None = None,
        table: typing.SupportsInt | typing.SupportsIndex = 0,
    ) -> None:
        """
        Opens a step; what was open before is forgotten.

        parameters: where the answers go; may be gradients. absent: a collection of slots without gradient,
        which `ready` asks. held: the parameters that the worker has.
        """
    def connected(self, shard: typing.SupportsInt | typing.SupportsIndex) -> None:
        """
        A new connection stands: what has no answer goes again.
        """
    def finish(self) -> StepEnd:
        """
        Closes a step all of whose answers are here.
        """
    def forget(self) -> None:
        """
        Drops what is queued and in flight; answers that still come are ignored.
        """
    def is_attaching(self, shard: typing.SupportsInt | typing.SupportsIndex) -> bool:
        """
        Whether the newest `attach` to this shard has no answer yet.
        """
    def is_idle(self, shard: typing.SupportsInt | typing.SupportsIndex) -> bool:
        """
        Whether nothing waits to be sent or answered.
        """
    def keep_attached(self) -> None:
        """
        From now on pushes carry no payloads, and every new connection attaches again.
        """
    def lost(self, shard: typing.SupportsInt | typing.SupportsIndex) -> None: ...
    def next(
        self,
        shard: typing.SupportsInt | typing.SupportsIndex,
        most: typing.SupportsInt | typing.SupportsIndex = 4294967295,
    ) -> tuple[bytes, memoryview | bytes | None] | None:
        """
        The header and payload, or None in its place, of the message that goes next to a shard.

        None if none may go. A new request goes while fewer than `most` and the window are in flight. It
        counts as sent then.
        """
    def not_sent(self, shard: typing.SupportsInt | typing.SupportsIndex) -> None:
        """
        The socket has not taken what next() has just given for this shard: it goes again.
        """
    def options_set(
        self,
        shard: typing.SupportsInt | typing.SupportsIndex,
        number: typing.SupportsInt | typing.SupportsIndex,
    ) -> None:
        """
        The answer to options came.
        """
    def pull(
        self, headers: collections.abc.Sequence[bytes], parameters: typing_extensions.Buffer
    ) -> None:
        """
        Pulls every chunk; headers has a header for each.
        """
    def ready(self, first_ready: typing.SupportsInt | typing.SupportsIndex) -> None:
        """
        The gradients from this chunk to the last are complete.

        ValueError if a push cannot name the slots of a chunk that have no gradient.
        """
    def receive(
        self, shard: typing.SupportsInt | typing.SupportsIndex, frames: list[typing.Any]
    ) -> StepNotice | None:
        """
        Takes an answer, header first. None if it was dealt with, or rightly ignored.
        """
    def rejoin(
        self,
        incarnation: typing.SupportsInt | typing.SupportsIndex,
        table: typing.SupportsInt | typing.SupportsIndex,
        write: collections.abc.Callable[[int, int], bytes],
    ) -> None:
        """
        Has what has no answer go again, under another incarnation; settle_written() comes first.

        table: the number of the options. write: as attach() takes it.
        """
    def set_options(
        self, number: typing.SupportsInt | typing.SupportsIndex, header: bytes, payload: bytes
    ) -> None:
        """
        Sends options to every shard before the pushes of the open step.
        """
    def settle_written(self) -> int:
        """
        The server has died: takes for answered what it has written into the segment.

        Returns how many chunks of the open step are lost, since they were being written.
        """
    def tell(
        self,
        headers: collections.abc.Sequence[bytes],
        values: typing_extensions.Buffer,
        number: typing.SupportsInt | typing.SupportsIndex = 0,
    ) -> None:
        """
        Sends every chunk of values, to be answered by `ok`.
        """
    @property
    def is_attached(self) -> bool: ...
    @property
    def is_done(self) -> bool: ...
    @property
    def newest(self) -> list[tuple[int, int]]:
        """
        What the newest answer with a chunk's parameters said, by chunk.

        A pair: the chunk's version, and the step of the push that was answered, 0 for a pull.
        """
    @property
    def shards(self) -> int: ...
    @property
    def version(self) -> int:
        """
        The largest version of a chunk, of the parameters that came last.
        """

class Intake:
    """
    Takes the messages of one ROUTER socket, and looks after its peers.

    A thread of its own closes the connections that cost more than a peer may; it takes no Python. All
    methods are for the thread that uses the socket.
    """
    def __init__(
        self,
        library: str,
        context: typing.SupportsInt | typing.SupportsIndex,
        socket: typing.SupportsInt | typing.SupportsIndex,
        monitor: str,
        *,
        connections: typing.SupportsInt | typing.SupportsIndex,
        message_nbytes: typing.SupportsInt | typing.SupportsIndex,
        backlog_nbytes: typing.SupportsInt | typing.SupportsIndex,
        unfinished_nbytes: typing.SupportsInt | typing.SupportsIndex,
        header_nbytes: typing.SupportsInt | typing.SupportsIndex,
    ) -> None:
        """
        library: the shared object of pyzmq. context, socket: its handles of them. monitor: the
        address at which the socket tells of connections, already. connections: how many there may be.
        message_nbytes: of the longest message. backlog_nbytes: what a peer may have sent while nothing is
        taken. unfinished_nbytes: of all messages together whose end has not come. header_nbytes: of the
        longest header.

        RuntimeError if libzmq's functions cannot be found.
        """
    def attend(self) -> None:
        """
        Call it when `fd` can be read.
        """
    def begin(self, port: typing.SupportsInt | typing.SupportsIndex) -> None:
        """
        The socket listens at this port now.
        """
    def close(self) -> None:
        """
        Ends the thread, which must be before the context does.
        """
    def condemn_failed(self) -> None:
        """
        The server itself failed at the newest message, whose sender loses its connection soon.
        """
    def condemn_unread(self, route: bytes) -> None:
        """
        The peer with this route does not read, and loses its connection soon.
        """
    def drain(self) -> None:
        """
        Drops the frames that follow in the message.
        """
    def is_connected(self, route: bytes) -> bool:
        """
        Whether the connection with this route, of which a message has come, still stands.
        """
    def receive(self) -> typing.Any:
        """
        Takes route and header of the next message.

        Beside these it gives whether a payload follows, and whether the sender is known as a member; None
        if no message has come. A payload has to be taken from the socket, and then drain() be called
        if a further frame follows.
        """
    def refuse(self) -> None:
        """
        The newest message was refused; who sends many such loses its connection.
        """
    def take_closed(self) -> tuple[list[tuple[str, int]], list[tuple[str, str]]]:
        """
        How many connections were closed since the last call, by reason; and some of them, with their reason and host.
        """
    def take_refused(self) -> int:
        """
        How many connections ended in the handshake since the last call.
        """
    def vouch(self) -> None:
        """
        The sender of the newest message is a member.
        """
    @property
    def fd(self) -> int:
        """
        Readable when the guard asks something.
        """
    @property
    def user(self) -> str:
        """
        The name under which ZAP let in the sender of the newest message; empty without.
        """

class EchoWorker:
    """
    Sends memory to `serve_echo`, and takes it back.

    It uses a lane's means, but no engine: what `Client.push_pull` takes beyond that, engines take.
    """
    def __init__(
        self,
        library: str,
        socket: typing.SupportsInt | typing.SupportsIndex,
        memory: typing_extensions.Buffer,
        *,
        chunk_nbytes: typing.SupportsInt | typing.SupportsIndex,
        window: typing.SupportsInt | typing.SupportsIndex,
        spin_s: typing.SupportsFloat | typing.SupportsIndex,
        copy_below_nbytes: typing.SupportsInt | typing.SupportsIndex,
    ) -> None:
        """
        library: the path of what pyzmq has loaded. socket: the handle of a DEALER socket, which
        outlives it. memory: a writable buffer. window: how many chunks are on their way at most. spin_s,
        copy_below_nbytes: as of StepLane.
        """
    def exchange(self) -> None:
        """
        Sends all of the memory, and waits until all of it is back in its place.
        """

class ShardLane:
    """
    Moves messages between a data socket and a shard's engine.

    It takes no Python and no GIL while it does. For the thread that uses the socket.
    """
    def __init__(
        self,
        intake: Intake,
        *,
        knows_senders: bool,
        burst: typing.SupportsInt | typing.SupportsIndex,
    ) -> None:
        """
        intake: of the data socket; it has begun. knows_senders: whether the socket lets in
        those alone who have a key. burst: how many messages it takes in a row before other sources have
        their turn.
        """
    def add_fd(self, fd: typing.SupportsInt | typing.SupportsIndex) -> None:
        """
        Waits for this descriptor too. It is the last place.
        """
    def add_socket(self, socket: typing.SupportsInt | typing.SupportsIndex) -> None:
        """
        Waits for messages of this socket too, given by its handle. It is the last place.
        """
    def close_ring(self, worker: typing.SupportsInt | typing.SupportsIndex) -> None:
        """
        Serves a worker's ring no longer, if it has one.
        """
    def open_ring(
        self,
        worker: typing.SupportsInt | typing.SupportsIndex,
        segment: typing_extensions.Buffer,
        *,
        place: typing.SupportsInt | typing.SupportsIndex,
        shard: typing.SupportsInt | typing.SupportsIndex,
        pipe: typing.SupportsInt | typing.SupportsIndex,
        route: bytes,
        key: str,
    ) -> bytes:
        """
        Serves a worker's ring in this memory, in place of the one that it had; returns its route.

        place: where the rings begin. shard: whose of them; below 16. pipe: the descriptor by which the
        worker wakes this side, which the lane closes. route, key: of the worker's connection.
        """
    def poll(
        self,
        engine: typing.Any,
        timeout_s: typing.SupportsFloat | typing.SupportsIndex,
        most: typing.SupportsInt | typing.SupportsIndex,
        takes_data: bool,
    ) -> list[int]:
        """
        Moves messages until something else is due; returns the places that are ready.

        engine: that takes the messages; None leaves all of them. timeout_s: at most; it also returns after
        a signal. most: how many messages. takes_data: whether messages of the data socket are taken at all.
        Place 0 is ready if a message is left for `take_rare`, behind which all others wait.
        """
    def remove(self, place: typing.SupportsInt | typing.SupportsIndex) -> None:
        """
        Waits no longer for what is at this place, from 1; later places move up.
        """
    def send_by_ring(self, route: bytes, header: bytes) -> bool:
        """
        Sends a header by the ring with this route; returns whether the route is a ring's.
        """
    def take_rare(self) -> typing.Any:
        """
        The message that the engine has left.

        Route, header, payload or None, whether it had further frames, the key of its sender, whether that
        is known as a member, and whether the message came by a ring.
        """
    def take_unreading(self) -> list[int]:
        """
        The workers that have left no room for their answers since the last call.
        """

class StepStop:
    """
    Why a lane's call has ended before all was done.

    is_quiet: no answer has come for `look_ms`, or a connection is gone. Otherwise `shard` has sent an
    answer that the engine does not deal with alone, as `notice` says. header, payloads, payload_nbytes:
    of that answer, how many frames came behind its header, and the size of the first of them.
    """
    @property
    def header(self) -> bytes: ...
    @property
    def is_quiet(self) -> bool: ...
    @property
    def notice(self) -> StepNotice: ...
    @property
    def payload_nbytes(self) -> int: ...
    @property
    def payloads(self) -> int: ...
    @property
    def shard(self) -> int: ...

class StepLane:
    """
    Moves messages between a worker's engine and its sockets.

    It does so without the GIL, and without Python but for what is rare. For the one thread that uses
    the sockets, which outlive it.
    """
    def __init__(
        self,
        library: str,
        engine: StepEngine,
        sockets: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex],
        *,
        look_ms: typing.SupportsInt | typing.SupportsIndex,
        spin_s: typing.SupportsFloat | typing.SupportsIndex,
        copy_below_nbytes: typing.SupportsInt | typing.SupportsIndex,
    ) -> None:
        """
        library: the path of what pyzmq has loaded, as of Intake. sockets: the handle of a
        DEALER socket to each shard. look_ms: how long `finish` waits for an answer. spin_s: if answers have
        come sooner than this, it spins for the last one. copy_below_nbytes: smaller payloads are copied, and
        not sent from where they lie.
        """
    def advance(self) -> StepStop | None:
        """
        Sends what the windows allow, and takes the answers that have come. Never waits.

        Returns None, or why it has ended: call it again when that is dealt with.
        """
    def finish(self, at_once: typing.SupportsInt | typing.SupportsIndex) -> StepStop | None:
        """
        Sends all requests and takes each answer as it comes; returns as `advance` does.

        at_once: how many requests may be in flight to a shard.
        """
    def replace(
        self,
        shard: typing.SupportsInt | typing.SupportsIndex,
        socket: typing.SupportsInt | typing.SupportsIndex,
    ) -> None:
        """
        Uses another socket for a shard.
        """
    def take_waited(self) -> float:
        """
        How long `finish` has waited for answers since the last call, in seconds.
        """
    def use_ring(
        self,
        shard: typing.SupportsInt | typing.SupportsIndex,
        *,
        place: typing.SupportsInt | typing.SupportsIndex,
        pipe: typing.SupportsInt | typing.SupportsIndex,
    ) -> None:
        """
        Sends by a shard's ring too from now on, until its connection is lost.

        place: where the rings begin in the engine's memory. pipe: the descriptor by which the shard is woken.
        It does nothing where a newer `attach` waits for its answer.
        """

def build_info() -> dict[str, bool | str]:
    """
    How this module was built: version, compiler, build_type, sanitized.
    """

def find_libzmq(path: str) -> None:
    """
    Raises RuntimeError unless this shared object, which is loaded, has the functions of libzmq 4, or one that it needs has them.
    """

def instruction_set() -> str:
    """
    The instruction set in use: the fastest, or the one that LEASH_ISA names.
    """

def instruction_sets() -> list[str]:
    """
    The instruction sets that this CPU runs, the slowest first.
    """

def keep_freed_memory() -> bool:
    """
    From now on this process keeps the memory that it frees, up to a few hundred megabytes, instead of paying for it again in page faults. False if malloc refuses, or is not glibc's. For a process of Leash's own.
    """

def serve_echo(intake: Intake) -> None:
    """
    Sends every message of a socket back as it came, until a signal raises.

    intake: of the socket; it has begun.
    """
