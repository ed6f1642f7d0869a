"""All errors that Leash raises on purpose.

::

    LeashError
    ├── UsageError              a wrong argument, so a ValueError too; one line names the mend
    │   ├── ArgumentError       the same, where the argument has a name and an option of that name
    │   └── CheckpointError     a checkpoint that cannot be read, or is none
    ├── ServerUnreachableError  nobody answers at the address, or the server went silent
    └── ProtocolError           what a peer sent cannot be honoured; each has a code on the wire
        ├── HeaderError         bad_header       not a header of this protocol, or a wrong field
        ├── WrongSocketError    wrong_socket     a request for a control socket at a data socket
        ├── FrameCountError     bad_frames       more or fewer frames than the verb has
        ├── PayloadSizeError    bad_payload      the payload's size does not fit the header
        ├── LayoutError         bad_layout       not a layout
        ├── LayoutMismatchError layout_mismatch  a layout, but another model's
        ├── PlanMismatchError   plan_mismatch    other data, or other epochs, than the run's
        ├── UnknownChunkError   unknown_chunk    the model has no such chunk
        ├── UnknownWorkerError  unknown_worker   said no hello, or its rank is not in this run
        ├── NotReadyError       not_ready        no model yet, or its values have not come
        ├── FencedError         fenced           a newer process has taken this worker's place
        ├── EvictedError        evicted          silent for too long; say hello again
        │   └── RestartedError                   the server was started again; say hello again
        ├── ResyncError         resync           a gap in the steps; carries the server's clock
        ├── NonfiniteError      nonfinite        a NaN or an infinity in a gradient
        ├── TooManyError        too_many         a limit of the server is reached
        ├── OptionsError        bad_options      options for groups that the optimizer cannot have
        ├── MissingOptionsError missing_options  a push that goes by options that have not come
        ├── SegmentError        bad_segment      a worker's memory that the server cannot share
        ├── NotAllowedError     not_allowed      not with the key that its sender has
        ├── SupersededError     superseded       a newer request took this one's place
        └── StoppingError       stopping         the server is about to end, and says why
            └── ShardLostError  stopping         a process of the server is gone
"""

import reprlib
from typing import ClassVar, Final

from leash.ps.words import SMALLER_RATE


class LeashError(Exception):
    """Every error that Leash raises on purpose is one of these.

    Catch it around training to tell Leash's failures from your own. Its text says what was
    expected, what came, and where.
    """


class UsageError(LeashError, ValueError):
    """An argument, an option or a file that the user gave cannot be used.

    Constructors and commands raise it before a run begins, and `PSOptimizer.step` for a value in
    ``param_groups`` that cannot be. Its text is one line that names the mend. A command that ends
    with it has exit status 2.
    """


class ArgumentError(UsageError):
    """An argument of a function has a value that it cannot have.

    Functions of the library raise it, `PSOptimizer`, `Client` and `Encoding` among them. Its text
    names the argument, its value and the mend: ``transport='shm': …``. A command that has an option
    of the same name says `as_option` instead.

    Attributes:
        name: of the argument.
        value: that it was given.
        mend: what to give instead, or why it cannot be.
    """

    def __init__(self, name: str, value: object, mend: str) -> None:
        """Makes the text from its parts.

        Args:
            name: of the argument.
            value: that it was given.
            mend: what to give instead, or why it cannot be.
        """
        super().__init__(f"{name}={value!r}: {mend}")
        self.name: Final = name
        self.value: Final = value
        self.mend: Final = mend

    @property
    def as_option(self) -> str:
        """Words it for people who typed a command, as ``--transport shm: …``."""
        return f"--{self.name.replace('_', '-')} {self.value}: {self.mend}"


class ServerUnreachableError(LeashError):
    """No server answers at the address, or the server has been silent for too long.

    A worker's process raises it: while it joins, when nobody answered within ``wait_s``; later,
    when beats stay without an answer or a connection does not come back. Check the address, the
    port and the firewall (``leash doctor`` does), and whether the server still runs.
    """


class CheckpointError(UsageError):
    """The file that ``leash server --resume`` names is no checkpoint of this run.

    The server raises it at its start: the file is missing, damaged or of another kind, or its
    ``--optimizer`` is another than the run's. The text names the file; give another one.
    """


class ProtocolError(LeashError):
    """What a peer sent cannot be honoured.

    A server raises it while it handles a request and sends it back as an ``error``; the process
    that made the request raises it again, with the same class and text. Either side also raises it
    for an answer that does not belong to what was asked.

    Attributes:
        code: the class's name on the wire, as ``docs/wire-format.md`` lists them. A code that this
            version does not know is raised as a plain ProtocolError.
    """

    code: ClassVar[str] = "protocol"


class HeaderError(ProtocolError):
    """A header is not one of this protocol, or one of its fields cannot be.

    The receiver of the message raises it: for another version, an unknown verb, a field that is
    missing, unknown, of another type or out of range, or a codec that cannot carry the chunk. The
    text names the field. Between a client and a server of Leash it means that their versions
    differ: install the same one on both sides.
    """

    code = "bad_header"


class WrongSocketError(ProtocolError):
    """A request for the control socket came to a data socket, or the other way round.

    A server raises it. Most often somebody took a port of its data for the server's: a command and
    a client then raise it as a `UsageError` that names their address. Give the port that the server
    was started with, which is the one below its first data port.
    """

    code = "wrong_socket"


class FrameCountError(ProtocolError):
    """A message has more or fewer frames than its verb has.

    The receiver of the message raises it. Only a program other than Leash's own client sends such
    a message: mend that program.
    """

    code = "bad_frames"


class PayloadSizeError(ProtocolError):
    """A payload's size does not fit its chunk and codec, or its contents are not well-formed.

    The receiver of the payload raises it, before a number of it is used. The text names the chunk,
    the size that was expected and the one that came: mend the program that sent it.
    """

    code = "bad_payload"


class LayoutError(ProtocolError):
    """Something is not a layout, or is one that the server has no memory for.

    `Layout` raises it for two slots of one name, an unknown dtype or kind, and sizes beyond its
    limits; a server for a ``hello`` without a well-formed layout, or with a model that its memory
    cannot hold. The text names the slot or the size: rename the tensor, or take a larger host.
    """

    code = "bad_layout"


class LayoutMismatchError(ProtocolError):
    """A process has another model than the run that it wants to join.

    The server raises it at ``hello``, and a client when the served layout is not its own. The text
    names the first slot that differs: train the same model, with the same dtypes, everywhere.
    """

    code = "layout_mismatch"


class PlanMismatchError(ProtocolError):
    """A worker asks for samples of other data, or for other epochs, than the run has.

    The server raises it when a worker asks for a lease: the size of the training set or the number
    of epochs differs from what the first worker said, or the run has fixed shares
    (``--data-plan static``). The text names both numbers: start all workers with the same data.
    """

    code = "plan_mismatch"


class UnknownChunkError(ProtocolError):
    """The model has no chunk of this number, or another shard owns it.

    A shard raises it; the text names the chunks that it has. Only a program other than Leash's own
    client asks for such a chunk: mend that program.
    """

    code = "unknown_chunk"


class UnknownWorkerError(ProtocolError):
    """The server does not know the worker that a message names.

    The server raises it when the rank is not among those of the run, when this process has not said
    hello to it (the server was started anew meanwhile, for example), or when an observer pushes.
    Take one of the ranks that the text names, or join again.
    """

    code = "unknown_worker"


class NotReadyError(ProtocolError):
    """A request came before the server could answer it.

    The server raises it while it has no model, while a chunk has no values, or while workers of the
    run are missing; the text names them. Wait and ask again: `Client.begin` does so.
    """

    code = "not_ready"


class FencedError(ProtocolError):
    """A newer process has taken this worker's place.

    The server raises it for every message of the older process. It means that two processes were
    started with the same rank; the text names the newer one. End this one, or give it a rank of its
    own.
    """

    code = "fenced"


class EvictedError(ProtocolError):
    """The server goes on without this worker, which was silent for too long or has said bye.

    The server raises it when the worker pushes or asks for a lease; the step that it pushed is
    lost. `PSOptimizer.step` deals with it by itself. Who uses a `Client` calls `Client.rejoin`,
    pulls, and goes on. If it happens often, raise the server's ``--evict-s``.
    """

    code = "evicted"


class RestartedError(EvictedError):
    """The server was started again, and does not know this process.

    A process that takes part raises it where the server says `unknown_worker`. `PSOptimizer` deals
    with it by itself. Who uses a `Client` does as for an `EvictedError`.
    """


class ResyncError(ProtocolError):
    """A worker's push leaves out a step.

    A shard raises it for a push whose step is more than one above the worker's clock. Leash's own
    client never causes it. To go on, say hello again and pull.

    Attributes:
        clock: the newest step of this worker that the chunk has taken.
    """

    code = "resync"

    def __init__(self, text: str, clock: int = 0) -> None:
        """Keeps the clock beside the text.

        Args:
            text: the chunk and the worker, the step that was expected and the one that came.
            clock: the newest step of this worker that the chunk has taken.
        """
        super().__init__(text)
        self.clock = clock


class NonfiniteError(ProtocolError):
    """A gradient has a NaN or an infinity in it.

    A shard raises it for a push, unless the server was started with ``--nonfinite skip`` or
    ``apply``. Nothing of that chunk was applied, but the step counts, so nobody waits for it. The
    text names the step, the worker and the slot, and the mend that helps most often, a smaller
    learning rate. Or clip gradients, or choose another ``--nonfinite``. Without overlap a worker
    refuses such a gradient itself: nothing of the step leaves, and it does not count.
    """

    code = "nonfinite"

    def __init__(self, text: str) -> None:
        """Makes the error.

        Args:
            text: what is not finite, and where. The mend is put behind it, unless it has come with
                the text from a peer.
        """
        super().__init__(text if text.endswith(SMALLER_RATE) else f"{text}; {SMALLER_RATE}")


class TooManyError(ProtocolError):
    """A limit of the server is reached.

    The server raises it for one observer too many, and for a push of a chunk whose push before
    still waits for its answer. End observers that are no longer needed, or wait for that answer, as
    Leash's own client does.
    """

    code = "too_many"


class OptionsError(ProtocolError):
    """The optimizer cannot have the options that a worker gives for its parameter groups.

    The server raises it for a value that torch.optim refuses too, and for one that needs a buffer
    which the server's optimizer does not keep. `PSOptimizer.step` raises a `UsageError` before it
    comes to this.
    """

    code = "bad_options"


class MissingOptionsError(ProtocolError):
    """A push is to be applied by options that the server does not have.

    A shard raises it, and has changed nothing: the message with the options was lost with its
    connection. Leash's own client sends them again by itself.
    """

    code = "missing_options"


class SegmentError(ProtocolError):
    """The server cannot share the memory that a worker offers it.

    The server raises it when a worker attaches: the memory is gone, belongs to another user, is not
    sealed or has another size; and for a push without a payload from a worker that has attached
    none. A client with transport "auto" then takes TCP, and one with "shm" raises `UsageError`.
    """

    code = "bad_segment"


class SupersededError(ProtocolError):
    """The same request came again, and the newer copy waits for the answer now.

    A shard raises it for the older copy, after a connection broke and everything without an answer
    was sent again. Leash's own client deals with it by itself.
    """

    code = "superseded"


class NotAllowedError(ProtocolError):
    """The key with which a message came is not for that.

    A server with keys raises it: the key was revoked, its role is for other requests (an observer
    only reads, and `leash set`, `leash save` and `leash stop` take an admin's), or the message
    speaks for a rank or a process that came by another key. Give the right file as ``key=``,
    ``--key`` or LEASH_KEY.
    """

    code = "not_allowed"


class StoppingError(ProtocolError):
    """The run is ending, so this process's part in it is over.

    The server raises it for pushes and leases once it is about to end, and says why; a client
    raises it when a beat brings this word, or when its own deadline has passed. A run that has
    reached its ``--timeout`` ends with the text "timeout", which is no failure. Close the client or
    optimizer, and end.
    """

    code = "stopping"


class ShardLostError(StoppingError):
    """A process of the server is gone, or no longer answers.

    The coordinator raises it when a shard's process ends or falls silent. A server with a run
    directory then begins again, and asks its workers for what was lost; otherwise, or after the
    third time, the run ends, and workers hear of it as a `StoppingError`. The text names the shard
    and how its process ended.
    """


_ON_THE_WIRE: Final[tuple[type[ProtocolError], ...]] = (
    ProtocolError, HeaderError, WrongSocketError, FrameCountError, PayloadSizeError, LayoutError,
    LayoutMismatchError, PlanMismatchError, UnknownChunkError, UnknownWorkerError, NotReadyError,
    FencedError, EvictedError, ResyncError, NonfiniteError, TooManyError, OptionsError,
    MissingOptionsError, SegmentError, NotAllowedError, SupersededError, StoppingError,
)  # fmt: skip
ERROR_BY_CODE: Final = {cls.code: cls for cls in _ON_THE_WIRE}

_SHORT: Final = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60


def shown(value: object) -> str:
    """Quotes what a peer sent in an error's text: in a few words, however deep it is nested."""
    return _SHORT.repr(value)[:80]
