"""The names of a worker's states and of a run's ends, and numbers as people read them."""

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, Final

NONE: Final = "–"

# In the environment: the file of a process's key, for who is not given one as --key or key=.
KEY_VARIABLE: Final = "LEASH_KEY"

# What mends an installation whose compiled core does not import.
CORE_ANEW: Final = "install Leash's wheel anew, or in a checkout: make install"

# What most often mends a NaN or an infinity in a gradient, in what is to be updated, or in a loss.
# Every NonfiniteError ends with it.
SMALLER_RATE: Final = "if the loss grew before, take a smaller --lr"

# The states of a member, in `state` and in events. A member that has left has one of these:
DONE: Final = "done"  # did all of its work; a run that did so ends with the same word
TIMED_OUT: Final = "timeout"  # its time was over before all of its work was done
STOPPED: Final = "stopped"  # ended because it was asked to
FAILED: Final = "failed"
EVICTED: Final = "evicted"  # was silent for too long, or broke the contract
REPLACED: Final = "replaced"  # another process has its rank
# One that has not left has one of these:
LIVE: Final = "live"
RESTING: Final = "resting"  # live, and nothing is left for it to train on
AWAITED: Final = "awaited"  # expected, and has not said hello

# A run whose workers have all left, but which lacks a part of the training that was asked for,
# ends with this word.
INCOMPLETE: Final = "incomplete"

# A run that its launch has given up, since its workers have failed, ends with these words.
WORKERS_FAILED: Final = "its workers failed"

# The beginnings of what a server says where it goes on from a checkpoint.
GOES_ON_FROM: Final = "goes on from"
PAGE_IS_AT: Final = "live page:"  # begins what a server says of its page
NOT_BITWISE: Final = "not bitwise as if it had never ended"

# What two figures are, for the places that show them. A worker that reports nothing, such as a loop
# of the user's own, waits from the arrival of its push until its answer goes out.
WAITING_IS: Final = "from a push to its answer"
LAG_IS: Final = "steps ahead of the slowest"
FIGURES_ARE: Final = f"waiting: share of the time {WAITING_IS}; lag: {LAG_IS}"

# What the thread of a worker that trains is doing, as its beats tell.
# In a loop of the user's own, behind a step: it has begun no other, as far as Leash sees.
BETWEEN: Final = "between"
LOADING: Final = "data"
FORWARD: Final = "forward"
BACKWARD: Final = "backward"
FORWARD_OR_BACKWARD: Final = "computing"  # where a loop of one's own does not say which
STEP: Final = "step"
WAITING: Final = "waiting"  # for the answers of the server
PHASES: Final = (BETWEEN, LOADING, FORWARD, BACKWARD, FORWARD_OR_BACKWARD, STEP, WAITING)

BYE_REASONS: Final = (DONE, TIMED_OUT, STOPPED, FAILED)  # those that a process gives itself
TAKES_PART: Final = (LIVE, RESTING)


# Why a worker has left that was not told to, for people.
WHY_GONE: Final = {STOPPED: "stopped", FAILED: "it has failed"}


# Why a run, or a process's part in it, ended before its work was done ▸ the same for people.
_STOPS: Final = {
    "SIGINT": "stopped by Ctrl-C",
    "SIGTERM": "told to end by SIGTERM, as kill and schedulers do",
    "SIGHUP": "stopped because its terminal was closed",
    "timeout": "its time was over",
    "stopped": "stopped by leash stop",
    "leash leave": "told to leave by leash leave",
}  # fmt: skip


def why_stopped(reason: str) -> str:
    """Writes for people why a run ended early: ``SIGINT`` ▸ ``stopped by Ctrl-C``."""
    return _STOPS.get(reason, reason)


def stopped_for(reason: str) -> str:
    """Writes the end of a run that somebody asked to end: ``stopped``, ``stopped: too dear``."""
    printable = "".join(letter if letter.isprintable() else " " for letter in reason)
    words = " ".join(printable.split())
    return f"{STOPPED}: {words}" if words else STOPPED


def is_good_end(reason: str) -> bool:
    """Whether a run that ends early for this reason has not failed.

    Its time was over, or somebody has asked for its end.
    """
    return reason in (TIMED_OUT, STOPPED) or reason.startswith(f"{STOPPED}: ")


def epoch_after(completed: int, planned: int | None) -> str:
    """Writes in which epoch something is that has completed so many: ``epoch 3 of 10``.

    Empty before the first where nobody knows how many there are: a loop of the user's own may have
    none.
    """
    if planned is None:
        return f"epoch {completed + 1}" if completed else ""
    return f"epoch {min(completed + 1, planned)} of {planned}"


def in_epoch_after(completed: int, planned: int | None) -> str:
    """The same as a clause behind others: ``, in epoch 3 of 10``, or empty."""
    epoch = epoch_after(completed, planned)
    return f", in {epoch}" if epoch else ""


def ranges(numbers: Iterable[int]) -> str:
    """Writes ascending whole numbers in short: [1, 3, 4, 5] ▸ ``1, 3-5``."""
    runs = groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])
    ends = [(run[0][1], run[-1][1]) for run in (list(pairs) for _, pairs in runs)]
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in ends)


def named_workers(ranks: Sequence[int]) -> str:
    """Names workers by their ranks, which ascend: ``worker 2``, ``workers 1-4, 7``."""
    return f"worker{'s' if len(ranks) > 1 else ''} {ranges(ranks)}"


def seconds(value: float) -> str:
    """Writes the time of a step or a run: ``0.0523`` ▸ ``52 ms``."""
    if value >= 7200:
        return f"{value / 3600:.1f} h"
    if value >= 600:
        return f"{value / 60:.0f} min"
    for limit, factor, unit in ((0.9995, 1, "s"), (0.9995e-3, 1e3, "ms"), (0.0, 1e6, "µs")):
        if value >= limit:
            return f"{_three_digits(value * factor)} {unit}"
    return f"{value:g} s"


def percent(share: float, digits: int = 0) -> str:
    """Writes a share from 0 to 1 in percent; one that is above 0 never as 0 %."""
    if 0 < share < 0.005 and digits == 0:
        return "under 1 %"
    return f"{100 * share:.{digits}f} %"


def accuracy_text(share: float) -> str:
    """Writes a test accuracy from 0 to 1, alike wherever one is shown."""
    return percent(share, 2)


def wait_fraction(wait_s: float, compute_s: float) -> float | None:
    """The waiting of a worker, or of several: the share of their time that they waited.

    Args:
        wait_s: seconds from pushes to their answers.
        compute_s: all other seconds of their steps.

    Returns:
        A share from 0 to 1; None if there was no time yet.
    """
    return wait_s / (wait_s + compute_s) if wait_s + compute_s > 0 else None


def count(value: float) -> str:
    """Writes a count with a narrow space between thousands."""
    return f"{value:,.0f}".replace(",", "\u202f")


def decimal(value: float) -> str:
    """Writes a number with about three digits."""
    return _three_digits(value)


def listed(words: Sequence[str]) -> str:
    """``["1", "2", "3"]`` ▸ ``1, 2 and 3``."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def setting(value: Any) -> str:
    """Writes a value of config.yaml."""
    if value is None:
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _three_digits(value: float) -> str:
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:.{min(digits, 6)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def duration(seconds: float) -> str:
    """Writes whole seconds as on a clock: 3723 ▸ 1:02:03."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def did_you_mean(word: str, known: Mapping[str, str]) -> str:
    """Asks for the known word that is spelled most alike; empty if none is alike.

    Args:
        word: that nobody knows.
        known: as it is spelled ▸ as it is shown.

    Returns:
        Such as ``did you mean --policy? ``, for the middle of a line.
    """
    near = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {known[near[0]]}? " if near else ""


def for_json(value: Any) -> Any:
    """Puts None for numbers that JSON does not have, anywhere in dicts and lists."""
    if isinstance(value, dict):
        return {key: for_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [for_json(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
