"""All errors that Leash raises on purpose.

::

    LeashError
    ├── UsageError              a wrong argument, so a ValueError too; one line names the mend
    │   ├── ArgumentError       the same, where the argument has a name and an option of that name
    │   └── CheckpointError     a checkpoint that cannot be read, or is none
    ├── ServerUnreachableError  nobody answers at the address, or the server went silent
    └── ProtocolError           what a peer sent cannot be honoured; each has a code on the wire
        ├── HeaderError         bad_header       not a header of this protocol, or a wrong field
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
        ├── ResyncError         resync           a gap in the steps; carries the server's clock
        ├── NonfiniteError      nonfinite        a NaN or an infinity in a gradient
        ├── TooManyError        too_many         a limit of the server is reached
        ├── SegmentError        bad_segment      a worker's memory that the server cannot share
        ├── SupersededError     superseded       a newer request took this one's place
        └── StoppingError       stopping         the server is about to end, and says why
            └── ShardLostError  stopping         a process of the server is gone
"""

import reprlib
from typing import ClassVar, Final


class LeashError(Exception):
    """Root of the tree."""


class UsageError(LeashError, ValueError):
    """A wrong argument. Its text is one line that names the mend; exit status 2."""


class ArgumentError(UsageError):
    """A wrong value of one argument of a function: ``transport='shm': …``.

    Where a command has an option of the same name, it says `as_option` instead.
    """

    def __init__(self, name: str, value: object, mend: str) -> None:
        super().__init__(f"{name}={value!r}: {mend}")
        self.name: Final = name
        self.value: Final = value
        self.mend: Final = mend

    @property
    def as_option(self) -> str:
        """The text for whoever typed a command: ``--transport shm: …``."""
        return f"--{self.name.replace('_', '-')} {self.value}: {self.mend}"


class ServerUnreachableError(LeashError):
    """No server answers at the address, or it has been silent for too long."""


class CheckpointError(UsageError):
    """A checkpoint that cannot be read, or is none."""


class ProtocolError(LeashError):
    """What a peer sent cannot be honoured. ``code`` names it on the wire."""

    code: ClassVar[str] = "protocol"


class HeaderError(ProtocolError):
    code = "bad_header"


class FrameCountError(ProtocolError):
    code = "bad_frames"


class PayloadSizeError(ProtocolError):
    code = "bad_payload"


class LayoutError(ProtocolError):
    code = "bad_layout"


class LayoutMismatchError(ProtocolError):
    code = "layout_mismatch"


class PlanMismatchError(ProtocolError):
    code = "plan_mismatch"


class UnknownChunkError(ProtocolError):
    code = "unknown_chunk"


class UnknownWorkerError(ProtocolError):
    code = "unknown_worker"


class NotReadyError(ProtocolError):
    code = "not_ready"


class FencedError(ProtocolError):
    code = "fenced"


class EvictedError(ProtocolError):
    code = "evicted"


class ResyncError(ProtocolError):
    """A gap in a worker's steps. ``clock`` is what the server has applied of that worker."""

    code = "resync"

    def __init__(self, text: str, clock: int = 0) -> None:
        super().__init__(text)
        self.clock = clock


class NonfiniteError(ProtocolError):
    code = "nonfinite"


class TooManyError(ProtocolError):
    code = "too_many"


class SegmentError(ProtocolError):
    code = "bad_segment"


class SupersededError(ProtocolError):
    code = "superseded"


class StoppingError(ProtocolError):
    code = "stopping"


class ShardLostError(StoppingError):
    """A process of the server is gone, or no longer answers. Its text names it."""


_ON_THE_WIRE: Final[tuple[type[ProtocolError], ...]] = (
    ProtocolError, HeaderError, FrameCountError, PayloadSizeError, LayoutError,
    LayoutMismatchError, PlanMismatchError, UnknownChunkError, UnknownWorkerError, NotReadyError,
    FencedError, EvictedError, ResyncError, NonfiniteError, TooManyError, SegmentError,
    SupersededError, StoppingError,
)  # fmt: skip
ERROR_BY_CODE: Final = {cls.code: cls for cls in _ON_THE_WIRE}

_SHORT: Final = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60


def shown(value: object) -> str:
    """What a peer sent, for an error's text: short, and however deep it is nested."""
    return _SHORT.repr(value)[:80]
