"""The messages between the coordinator and its other shards, on one stream for each shard.

::

    coordinator ▸ shard   begin serve reserve join start set give_up hold align snapshot load
                          set_version set_clock count heal healed least skip
                          each is answered with done or failed, in their order
                          leave stop release read forget       not answered
    shard ▸ coordinator   counts happened unreading asked part   at any time, not answered

Both ends are of one version and one installation: this is no part of docs/wire-format.md. The types
are checked all the same, as those of any message.
"""

from dataclasses import dataclass
from typing import Final

from leash.ps.wire.messages import Count, Id, Ids, Message, Settings, Text, Word

PARAMETERS: Final = (
    ""  # names the values of a chunk, where other names are those of optimizer state
)
UPDATES: Final = "/updates"  # names the counts of updates of a chunk's slots, in 64 bits each
USAGE: Final = "usage"  # the code of a failure that is a wrong argument


@dataclass(frozen=True, slots=True)
class Begin(Message):
    """Listen. Payload: the server's settings, a msgpack map. Done: the port."""

    verb = "begin"
    payload = True
    shard: Id
    port: Id  # 0 for any


@dataclass(frozen=True, slots=True)
class Serve(Message):
    """Make your part of this model, instead of what you have. Payload: its layout."""

    verb = "serve"
    payload = True


@dataclass(frozen=True, slots=True)
class Reserve(Message):
    """Keep a place for a newcomer. Done: a step that is new on every chunk, and stays so."""

    verb = "reserve"


@dataclass(frozen=True, slots=True)
class Join(Message):
    """A process takes part from now on; a worker takes the place that was kept.

    With a first step of 0, a worker is known from now on, and has no place yet.
    """

    verb = "join"
    worker: Id  # 0 for an observer
    incarnation: Count
    name: Text
    first_step: Count
    key: Word = ""  # the public key by which it came; empty without keys


@dataclass(frozen=True, slots=True)
class Leave(Message):
    """Nobody waits for this process from now on."""

    verb = "leave"
    worker: Id
    incarnation: Count
    state: Word


@dataclass(frozen=True, slots=True)
class Start(Message):
    """Training begins: all who are expected have come."""

    verb = "start"


@dataclass(frozen=True, slots=True)
class SetRule(Message):
    """Go on by another rule. The fields are those of the control socket's `set`."""

    verb = "set"
    policy: Word
    staleness: Count
    staleness_max: Count
    backup_workers: Count
    bound_unit: Word


@dataclass(frozen=True, slots=True)
class Stop(Message):
    """The run is about to end: refuse what waits and what comes."""

    verb = "stop"
    reason: Text


@dataclass(frozen=True, slots=True)
class Hold(Message):
    """Take no message of a worker until `release`."""

    verb = "hold"


@dataclass(frozen=True, slots=True)
class Align(Message):
    """Come to one step with all chunks, this one or a later one, and then hold until `release`.

    Done: 1 more than that step; 0 if they are not there yet, so ask again.
    """

    verb = "align"
    step: Count


@dataclass(frozen=True, slots=True)
class Release(Message):
    """Take messages of workers again."""

    verb = "release"


@dataclass(frozen=True, slots=True)
class OpenSnapshot(Message):
    """Keep what your chunks have now, whatever workers push, until `forget`.

    Done, with a payload: of each chunk what leash.ps.shard.linked_shard has packed.
    """

    verb = "snapshot"


@dataclass(frozen=True, slots=True)
class ReadSnapshot(Message):
    """Send bytes of the snapshot, as `part`."""

    verb = "read"
    chunk: Id
    array: Id  # 0: the parameters; i: the i-th of the optimizer's buffers
    begin: Count
    nbytes: Count


@dataclass(frozen=True, slots=True)
class ForgetSnapshot(Message):
    """Let go of a chunk of the snapshot, or of all."""

    verb = "forget"
    chunk: Id
    whole: bool


@dataclass(frozen=True, slots=True)
class SetVersion(Message):
    """Set the chunk's version: the run goes on from a checkpoint. Done: 0."""

    verb = "set_version"
    chunk: Id
    version: Count


@dataclass(frozen=True, slots=True)
class SetClock(Message):
    """Have the first workers begin after this clock, as an earlier run ended there. Done: 0."""

    verb = "set_clock"
    clock: Count


@dataclass(frozen=True, slots=True)
class Load(Message):
    """Take these values for a chunk, or its optimizer state. Done: 1 if they were taken."""

    verb = "load"
    payload = True
    chunk: Id
    state: Word


@dataclass(frozen=True, slots=True)
class CountUp(Message):
    """Send your newest `counts` before you answer."""

    verb = "count"


@dataclass(frozen=True, slots=True)
class Done(Message):
    """The shard has done what was asked; `value` is the result."""

    verb = "done"
    payload = None
    value: Count


@dataclass(frozen=True, slots=True)
class Failed(Message):
    """The shard says why the last request has changed nothing."""

    verb = "failed"
    code: Word  # of a ProtocolError, or USAGE
    text: Text


@dataclass(frozen=True, slots=True)
class GiveUp(Message):
    """Give up the rounds of backup that workers wait for: see `leash.ps.server.shards`. Done: 0."""

    verb = "give_up"


@dataclass(frozen=True, slots=True)
class Heal(Message):
    """Take what workers offer, until `start`. Your values are of this generation. Done: 0."""

    verb = "heal"
    generation: Count


@dataclass(frozen=True, slots=True)
class CountHealed(Message):
    """Say how many chunks have been healed. Done: their number."""

    verb = "healed"


@dataclass(frozen=True, slots=True)
class LeastStep(Message):
    """Say the smallest step over your chunks. Done: 1 more than that; 0 if you have none."""

    verb = "least"


@dataclass(frozen=True, slots=True)
class SkipHealed(Message):
    """Count the steps of all workers as taken that are in the values of healed chunks. Done: 0."""

    verb = "skip"


@dataclass(frozen=True, slots=True)
class Counts(Message):
    """The shard sends its counts so far, which is also its sign of life.

    Payload: the workers that wait for an answer, 32 bits each.
    """

    verb = "counts"
    payload = None
    initialized: bool  # whether every chunk of the shard has values
    parked: Count
    replies: Count
    staleness_sum: Count
    max_staleness: Count
    max_lag: Count
    duplicates: Count
    nonfinite_chunks: Count
    bytes_pushed: Count
    bytes_answered: Count
    dropped: Count
    refusals: Settings  # error code ▸ how many
    heard: Ids  # the workers that have sent something since the last counts
    version: Count = 0  # how many updates the shard has seen; the largest over its chunks


@dataclass(frozen=True, slots=True)
class SnapshotPart(Message):
    """The shard sends what `read` asked for, as payload; without one, why there is none."""

    verb = "part"
    payload = None
    chunk: Id
    array: Id
    begin: Count
    failure: Text = ""


@dataclass(frozen=True, slots=True)
class Happened(Message):
    """The shard has an event for events.jsonl. Payload: its details, a msgpack map."""

    verb = "happened"
    payload = True
    event: Word


@dataclass(frozen=True, slots=True)
class Unreading(Message):
    """The shard has a worker that does not read its answers."""

    verb = "unreading"
    worker: Id


@dataclass(frozen=True, slots=True)
class Asked(Message):
    """The shard got a signal that asks it to end."""

    verb = "asked"
    signal: Id


FROM_COORDINATOR: Final[tuple[type[Message], ...]] = (
    Begin, Serve, Reserve, Join, Leave, Start, SetRule, GiveUp, Stop, Hold, Align, Release,
    OpenSnapshot, ReadSnapshot, ForgetSnapshot, Load, SetVersion, SetClock, CountUp, Heal,
    CountHealed, LeastStep, SkipHealed,
)  # fmt: skip
FROM_SHARD: Final[tuple[type[Message], ...]] = (
    Done, Failed, Counts, SnapshotPart, Happened, Unreading, Asked,
)  # fmt: skip
