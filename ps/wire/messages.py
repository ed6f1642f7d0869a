"""One frozen type per verb, version 1. docs/wire-format.md is the contract.

::

    control   hello ▸ welcome   beat ▸ beaten   lease ▸ leased   report ▸ ok   status ▸ state
              log ▸ ok   remember ▸ ok   set ▸ ok   save ▸ saved   read ▸ piece   stop ▸ ok
              bye ▸ ok   dismiss ▸ dismissed
    data      init ▸ ok   push_pull ▸ params   push ▸ ok   pull ▸ params   publish ▸ ok   offer ▸ ok
              echo ▸ echoed   attach ▸ attached   options ▸ options_set
    both      anything wrong ▸ error

The annotations are the checks: `frames.decode` accepts a header only if it has exactly these
fields, each of exactly this type and within this range. A field with a default may be left out.
What depends on the run (the chunk, the slab, the sender) is checked by the handlers in ps/shard.

A message travels as a frame with this header, a msgpack map of at most 4 KiB (its verb is `t`), and
a frame with the payload, if it has one. `codecs.check_size` checks the size of a payload.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Final, TypeAlias


@dataclass(frozen=True, slots=True)
class Within:
    """The range of a number, or of the length of a text or list; both ends are included."""

    low: int
    high: int


STOPPED_BY_TIMEOUT: Final = "timeout"  # a `stopping` that is a good end; see `words.is_good_end`
# The orders of `leased`: see `Leased`.
TRAIN: Final = "train"
REST: Final = "rest"
RETURN: Final = "return"
OVER: Final = "over"

PIECE_NBYTES: Final = 1 << 18  # of a checkpoint, in one answer
STACK_MAX_NBYTES: Final = 8192  # of the payload of a `beat`
WORD_MAX: Final = 64
TEXT_MAX: Final = 512
BITS_MAX: Final = 3072  # bytes
U32_MAX: Final = (1 << 32) - 1
U63_MAX: Final = (1 << 63) - 1
EPOCH_MAX: Final = 100_000  # `state` holds a number for each of them, and must stay below 1 MiB

Id: TypeAlias = Annotated[int, Within(0, U32_MAX)]
Count: TypeAlias = Annotated[int, Within(0, U63_MAX)]
# These are summed or counted through, so their limits keep every sum far below U63_MAX.
Samples: TypeAlias = Annotated[int, Within(0, U32_MAX)]
Epoch: TypeAlias = Annotated[int, Within(0, EPOCH_MAX)]
Word: TypeAlias = Annotated[str, Within(0, WORD_MAX)]
Text: TypeAlias = Annotated[str, Within(0, TEXT_MAX)]
Ids: TypeAlias = Annotated[list[int], Within(0, 256)]
Words: TypeAlias = Annotated[list[str], Within(0, 6)]
Bits: TypeAlias = Annotated[bytes, Within(0, BITS_MAX)]
Settings: TypeAlias = Annotated[
    dict[str, Any], Within(0, 64)
]  # the values are int, float, str, bool or nil


@dataclass(frozen=True, slots=True)
class Message:
    """What all messages have; one class below it for each verb."""

    verb: ClassVar[str] = ""
    payload: ClassVar[bool | None] = False  # whether it has a payload frame; None: it may have one


# Messages of the control socket: small, and answered at once.


@dataclass(frozen=True, slots=True)
class Hello(Message):
    """A process asks to take part. Payload: its model's layout (an observer may leave it out)."""

    verb = "hello"
    payload = None
    role: Word  # "worker" or "observer"
    worker: Id  # the rank, from 1; 0 for an observer
    name: Text  # host and process, for people
    codecs: Words = field(default_factory=lambda: ["f32"])  # for gradients; the first is preferred
    number: Count = 0  # drawn at random; a hello that is sent again keeps it. 0: this is a new one
    any_rank: bool = False  # a worker takes another rank than `worker`, which may be 0 then
    place: Text = ""  # its host, and which process of that: by it a machine gets its rank back
    seat: Word = ""  # no two live processes have the same
    answer: Word = ""  # in which its pushes ask for parameters, where `codecs` do not tell it


@dataclass(frozen=True, slots=True)
class Welcome(Message):
    """The server tells a newcomer what it must know. Payload: the layout, once there is one.

    Attributes:
        worker: the rank that said hello; 0 for an observer.
        incarnation: a number that grows with every hello; it goes into every message from now on.
        first_step: the number of this worker's first push.
        chunk_nbytes: the most that a chunk has; see `Layout.cut`.
        window: how many requests may be in flight on one data socket.
        data_ports: the port of each shard's data socket, on the host of the control socket.
        beat_s: seconds between two beats.
        evict_s: seconds of silence after which the server goes on without this process.
        settings: what the run goes by now, word by word: policy, bound, lr, epochs, seed and so on.
        first_chunks: the number of each shard's first chunk.
        codec: the first of hello's codecs that the server knows.
        epochs: how many epochs of its share this rank has completed, by an earlier process.
        samples: of the next one, how many were answered.
        share: how many an epoch has, so far as is known; otherwise 0.
        generation: how many servers the run has had, this one included; 0 if it keeps no journal.
        heals: whether this server was started again, and asks what its workers remember.
    """

    verb = "welcome"
    payload = None
    worker: Id
    incarnation: Count
    first_step: Count
    chunk_nbytes: Count
    window: Id
    data_ports: Ids
    beat_s: float
    evict_s: float
    settings: Settings
    first_chunks: Ids = field(default_factory=lambda: [0])
    codec: Word = "f32"
    epochs: Epoch = 0
    samples: Count = 0
    share: Count = 0
    generation: Count = 0
    heals: bool = False


@dataclass(frozen=True, slots=True)
class Beat(Message):
    """A process gives a sign of life, and tells what the thread that trains is doing.

    Payload: the stack of that thread, where the server has asked for it.
    """

    verb = "beat"
    payload = None
    worker: Id
    incarnation: Count
    phase: Word = ""  # see leash.ps.words; empty if this process does not tell
    phase_s: float = 0.0  # for so long


@dataclass(frozen=True, slots=True)
class Beaten(Message):
    """The server answers a beat with how the run stands.

    Attributes:
        started: every expected worker is here, or has been.
        missing: before that, the ranks that are not here, at most 256 of them.
        initialize: this worker is to send the first values of every chunk.
        initialized: every chunk has its first values.
        epoch: how many epochs every worker has completed.
        finished: every worker has said bye, so an observer may evaluate for the last time.
        stopping: why the server is about to end; empty while it is not.
        awaited: for whom the others wait, in words; empty while that is nobody, or for a moment.
        stack: the next beat is to bring the stack of the thread that trains.
        first_step: the number of this worker's first push, where `welcome` could not tell it yet;
            otherwise 0.
        leave: why this worker is to leave; empty while it is not.
        epochs: with `first_step`, what `welcome` could not tell either: as there.
        samples: likewise.
        share: likewise.
        in_step: likewise: the run goes on in lockstep, and this worker in the step that it told of;
            otherwise it gives up that step if it had begun it.
    """

    verb = "beaten"
    started: bool
    missing: Ids
    initialize: bool
    initialized: bool
    epoch: Epoch
    finished: bool
    stopping: Text
    awaited: Text = ""
    stack: bool = False
    first_step: Count = 0
    leave: Text = ""
    epochs: Epoch = 0
    samples: Count = 0
    share: Count = 0
    in_step: bool = False


@dataclass(frozen=True, slots=True)
class Remember(Message):
    """A worker has offered what it remembers to a server that was started again; answer: `ok`.

    Attributes:
        worker: the rank.
        incarnation: from `welcome`.
        lost: how many of its steps were pushed, at least in part, and will not be pushed again.
        epochs: how many epochs of a share of its own it has completed; 0 if it has none.
        samples: of its next epoch, how many were answered.
        answered: how many samples were answered since it got its newest lease.
        lease: the number of that lease; 0 if it got none since it was welcomed last and pulled.
        holder: the incarnation to which that lease was given.
        step: the number of the step that it pushes next if all go on in lockstep; 0 if it cannot
            go on so, or is new.
        begun: it has begun to push that step, and pushes again what has no answer.
    """

    verb = "remember"
    worker: Id
    incarnation: Count
    lost: Count
    epochs: Epoch
    samples: Count
    answered: Count
    lease: Count = 0
    holder: Count = 0
    step: Count = 0
    begun: bool = False


@dataclass(frozen=True, slots=True)
class Lease(Message):
    """A worker asks for samples to train on.

    It is done with all that it was leased before, unless it says how much it still trains on.
    """

    verb = "lease"
    worker: Id
    incarnation: Count
    number: Count  # counts requests from 1, after every hello; a repeated request keeps its number
    samples: Samples  # how many the training set has
    epochs: Epoch  # how many this worker wants to train for
    batch_size: Samples  # as the worker was started
    samples_per_s: float  # while it computes, not while it waits; 0 while it is unknown
    # How many samples of earlier leases it pushes before those that it asks for: it draws ahead.
    ahead: Samples = 0


@dataclass(frozen=True, slots=True)
class Leased(Message):
    """The server grants a worker positions in an epoch's permutation, or says why there are none.

    Attributes:
        worker: the rank that asked.
        number: the request that this answers.
        order: "train" on these positions; "rest", nothing is left for now, so ask again soon;
            "return", say hello again and ask, because something is left; "over", the training is.
        epoch: from 1. This and all fields below are 0 unless the order is to train.
        first: the first position in the epoch's permutation, from 0.
        count: how many positions from there on.
        batch_size: samples of one step.
        local_steps: steps between two pushes; those left at the end of the lease are pushed too.
    """

    verb = "leased"
    worker: Id
    number: Count
    order: Word
    epoch: Epoch
    first: Samples
    count: Samples
    batch_size: Samples
    local_steps: Count


@dataclass(frozen=True, slots=True)
class Report(Message):
    """A process reports how it gets on. Fields that its kind does not use are 0."""

    verb = "report"
    worker: Id
    incarnation: Count
    kind: Word  # "plan", "training", "epoch" (a worker completed one), "evaluation" (an observer's)
    epoch: Epoch  # the one that this worker completed, or that was evaluated; a plan's last
    step: Count
    samples: Count  # how many it has trained on so far, or evaluated, or has in its share
    loss: float  # the mean per sample since the last report, or over the test set
    accuracy: float  # on the test set, from 0 to 1
    compute_s: float  # spent so far on forward, backward and data
    wait_s: float  # spent so far between a push and its reply
    number: Count = 0  # counts reports from 1, after every hello; one that comes again counts once


@dataclass(frozen=True, slots=True)
class Log(Message):
    """A worker tells what its loop has logged. Payload: rows; see leash.ps.trackers.rows."""

    verb = "log"
    payload = True
    worker: Id
    incarnation: Count
    process: Count  # drawn at random by the process; it keeps it through all of its incarnations
    first: Count  # the number of the first row; a process counts its rows from 1
    lost: Count = 0  # how many rows it has left out before these, since they were too many


@dataclass(frozen=True, slots=True)
class Status(Message):
    """Any process may ask how the run stands."""

    verb = "status"
    stacks: bool = False  # has the server ask all workers for their stacks, which `state` then has


@dataclass(frozen=True, slots=True)
class State(Message):
    """The server says how the run stands. Payload: a msgpack map; see docs/wire-format.md."""

    verb = "state"
    payload = True


@dataclass(frozen=True, slots=True)
class Set(Message):
    """Any process may give the run another policy. 0 stands for a limit that the policy lacks."""

    verb = "set"
    policy: Word  # see leash.ps.policy
    staleness: Count = 0  # ssp: the bound; dssp: the lower limit; drop: the largest applied
    staleness_max: Count = 0  # dssp: the upper limit
    backup_workers: Count = 0  # backup: how many workers a round does not wait for
    bound_unit: Word = "clocks"  # what ssp's bound counts: "clocks" or "versions"


@dataclass(frozen=True, slots=True)
class Save(Message):
    """Any process may ask for a checkpoint, and ask again until it is there."""

    verb = "save"
    number: Count  # drawn at random; a request that is sent again keeps it


@dataclass(frozen=True, slots=True)
class Saved(Message):
    """The server says whether the checkpoint is written."""

    verb = "saved"
    number: Count
    ready: bool
    nbytes: Count  # the size of the file; 0 while it is not ready


@dataclass(frozen=True, slots=True)
class Read(Message):
    """Whoever has asked for a checkpoint asks for a piece of it."""

    verb = "read"
    number: Count
    offset: Count


@dataclass(frozen=True, slots=True)
class CheckpointPiece(Message):
    """The server sends a piece of a checkpoint. Payload: at most `PIECE_NBYTES` of it."""

    verb = "piece"
    payload = True
    number: Count
    offset: Count


@dataclass(frozen=True, slots=True)
class Stop(Message):
    """Any process may ask for the end of the run, with its last checkpoint and its summary."""

    verb = "stop"
    reason: Text = ""  # for people


@dataclass(frozen=True, slots=True)
class Bye(Message):
    """A process leaves, so nobody waits for it from now on."""

    verb = "bye"
    worker: Id
    incarnation: Count
    reason: Word  # "done", "timeout", "stopped" or "failed"
    why: Text = ""  # of a worker that was told to leave: by whom


@dataclass(frozen=True, slots=True)
class Dismiss(Message):
    """A person tells workers to leave: that of a rank, or all on a host. Their beats tell them."""

    verb = "dismiss"
    worker: Id = 0  # the rank; 0: those of the host
    host: Text = ""


@dataclass(frozen=True, slots=True)
class Dismissed(Message):
    """These live workers hear with their next beat that they are to leave."""

    verb = "dismissed"
    workers: Ids


@dataclass(frozen=True, slots=True)
class Ok(Message):
    """The server has done what was asked. The fields are the request's; 0 where it had none."""

    verb = "ok"
    worker: Id
    step: Count
    chunk: Id
    taken: bool  # whether the values of an init or a publish count; false if others came before
    number: Count = 0


# Messages of the data socket: each is about one chunk, or about neighbours in a segment.


@dataclass(frozen=True, slots=True)
class Init(Message):
    """A worker sends the first values of a chunk."""

    verb = "init"
    payload = True
    worker: Id
    incarnation: Count
    chunk: Id
    codec: Word


@dataclass(frozen=True, slots=True)
class PushPull(Message):
    """A worker pushes a gradient; the answer is the parameters, once the policy lets it go on.

    Without a payload the gradient lies in the worker's segment (see `attach`), and the parameters
    take its place there.
    """

    verb = "push_pull"
    payload = None
    worker: Id
    incarnation: Count
    step: Count  # the number of this push; the first one is `welcome`'s first_step
    chunk: Id
    codec: Word
    samples: Samples  # how many are behind this gradient: its weight in a mean
    chunks: Count = 1  # in a segment: how many chunks at once, `chunk` and those before it
    slab: Id = 0  # in a segment: the slab that holds the gradient, 0 or 1
    nbytes: Count = 0  # in a segment: size of the payload in the outbox; 0: values in the slab
    # The slots for which there is no gradient: bit i % 8 of byte i / 8 for the i-th slot that has a
    # part in the chunk. If they are all, nothing is pushed: there is no payload.
    absent: Bits = b""
    # With nothing to push: 1 more than the version of the chunk that the worker has. If the chunk
    # has no other by then, its parameters are not sent.
    has: Count = 0
    table: Count = 0  # number of the `options` that apply; 0: those of the server's optimizer
    answer: Word = ""  # with a payload: the codec of the parameters; by default `codec` tells it


@dataclass(frozen=True, slots=True)
class Push(Message):
    """A worker pushes a gradient; the answer is `ok`, once the policy lets it go on."""

    verb = "push"
    payload = None
    worker: Id
    incarnation: Count
    step: Count
    chunk: Id
    codec: Word
    samples: Samples
    absent: Bits = b""  # as in `push_pull`; without a payload it names all slots
    table: Count = 0  # as in `push_pull`


@dataclass(frozen=True, slots=True)
class Pull(Message):
    """A worker or observer asks for the parameters as they are now."""

    verb = "pull"
    worker: Id
    incarnation: Count
    chunk: Id
    codec: Word


@dataclass(frozen=True, slots=True)
class Publish(Message):
    """A worker makes its values of a chunk everybody's; the answer is `ok`, at once."""

    verb = "publish"
    payload = True
    worker: Id
    incarnation: Count
    number: Count  # counts what this process publishes, from 1; a repeated request keeps its number
    chunk: Id
    codec: Word


@dataclass(frozen=True, slots=True)
class Offer(Message):
    """A worker offers the newest parameters of a chunk that it was answered with.

    A server that was started again takes the newest of each chunk; the answer is `ok`.
    """

    verb = "offer"
    payload = True
    worker: Id
    incarnation: Count
    chunk: Id
    codec: Word
    generation: Count  # of the server that answered with them
    version: Count  # of the chunk, by that answer
    step: Count  # of this worker, whose answer it was; 0 if it was a pull's


@dataclass(frozen=True, slots=True)
class Params(Message):
    """The server answers with a chunk's parameters; without a payload, in the worker's segment."""

    verb = "params"
    payload = None
    worker: Id
    step: Count  # number of the push that this answers; 0 for a pull
    chunk: Id
    codec: Word
    version: Count  # how many updates the chunk has seen, from all workers
    lag: Count  # this worker's clock minus the smallest, as the reply went out
    staleness: Count  # updates by others between this worker's pull and the push answered here
    # In a segment: how many chunks at once, `chunk` and those before it. The version is then the
    # smallest of theirs, lag and staleness are the largest.
    chunks: Count = 1
    unchanged: bool = False  # the worker has this version of the chunk, so there is no payload


@dataclass(frozen=True, slots=True)
class Attach(Message):
    """A worker offers its memory to a server on its host; see leash.ps.wire.segment."""

    verb = "attach"
    worker: Id
    incarnation: Count
    pid: Id  # the worker's process
    fd: Id  # the file descriptor of the segment in that process
    nbytes: Count
    nonce: Word  # 32 hex digits, which this worker has written there
    number: Count = 0  # grows with each `attach` that this process sends
    pipe: Id = 0  # the descriptor there of a pipe by which the server is woken; 0: there is none


@dataclass(frozen=True, slots=True)
class Attached(Message):
    """The server has mapped the segment, where it has read the nonce of the request."""

    verb = "attached"
    worker: Id
    nonce: Word  # 32 hex digits
    number: Count = 0
    rings: bool = False  # whether the shard takes headers by its ring in the segment


@dataclass(frozen=True, slots=True)
class GroupOptions(Message):
    """A worker gives options for groups of slots, by which its next pushes are to be applied.

    Payload: see leash.ps.wire.options_table.
    """

    verb = "options"
    payload = True
    worker: Id
    incarnation: Count
    number: Count  # from 1; grows with each table, and pushes name it


@dataclass(frozen=True, slots=True)
class OptionsSet(Message):
    """The shard applies this worker's pushes by the options of this number from now on."""

    verb = "options_set"
    worker: Id
    number: Count


@dataclass(frozen=True, slots=True)
class Echo(Message):
    """Any process asks for its payload back, as `leash doctor` does to measure a connection."""

    verb = "echo"
    payload = True


@dataclass(frozen=True, slots=True)
class Echoed(Message):
    """The server sends the payload of `echo` back."""

    verb = "echoed"
    payload = True


@dataclass(frozen=True, slots=True)
class Error(Message):
    """The server says why a request has changed nothing (but see `nonfinite`)."""

    verb = "error"
    code: Word  # see leash.ps.errors
    text: Text  # says what was expected and what came
    worker: Id
    step: Count
    chunk: Id
    clock: Count  # resync: the newest step of this worker at the server; otherwise 0


CONTROL_REQUESTS: Final[tuple[type[Message], ...]] = (
    Hello, Beat, Lease, Report, Log, Remember, Status, Set, Save, Read, Stop, Bye,
    Dismiss,
)  # fmt: skip
DATA_REQUESTS: Final[tuple[type[Message], ...]] = (
    Init, PushPull, Push, Pull, Publish, Offer, Attach, GroupOptions, Echo,
)  # fmt: skip
ANSWERS: Final[tuple[type[Message], ...]] = (
    Welcome, Beaten, Leased, State, Saved, CheckpointPiece, Dismissed, Ok, Params, Attached,
    OptionsSet, Echoed, Error,
)  # fmt: skip
