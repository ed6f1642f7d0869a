"""The grammar of --slow, --compute and --network: how people write a worker's slowness.

`--slow exp:0.2` makes a worker sleep before every step, for a time that is drawn anew from an
exponential distribution with a mean of 0.2 s. The draws are made by delays.py, from the run's seed.

::

    slowness  =  term { "+" term }                      terms add up
    term      =  amount [ "@" [FROM] ".." [UNTIL] ]     only between these seconds of the run
    amount    =  SECONDS
              |  "exp:" MEAN
              |  "normal:" MEAN "," DEVIATION           cut off at 0
              |  "uniform:" LOW "," HIGH
              |  "pareto:" SHAPE "," SCALE              SCALE is the smallest; the mean is
                                                        SHAPE * SCALE / (SHAPE - 1)
              |  "pause:every=" SECONDS ",for=" SECONDS     the first at a random moment
              |  "pause:chance=" SHARE ",for=" SECONDS      in so large a share of the steps

A list has one slowness for each worker, with "/" between them, or "," if none has a colon. No
character of the grammar means anything to a shell.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from leash.ps.errors import UsageError

SLOWNESS_EXAMPLES: Final = (
    "0.2, exp:0.2, pareto:2,0.1, normal:0.3,0.05, uniform:0.1,0.3, pause:every=30,for=5, "
    "0.2+pause:chance=0.02,for=5 or 0.2@..60+0.8@60.."
)
# For the help of --slow.
FORMS_HELP: Final = (
    "0.2, a list by rank 0.2,0.3, a distribution exp:0.2, pauses such as "
    "0.2+pause:chance=0.02,for=5, or by time 0.2@..60+0.8@60.."
)
SEPARATORS_HELP: Final = "a list of what has a colon takes / for its commas"


@dataclass(frozen=True, slots=True)
class Draw:
    """Seconds that are drawn from a distribution."""

    name: str  # one of DISTRIBUTIONS, "constant", or "chance" for pauses by chance
    parameters: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Pause:
    """The worker stands still now and then."""

    every_s: float  # from the end of a pause to the next one
    for_s: float


@dataclass(frozen=True, slots=True)
class Term:
    """One term of a slowness, and the part of the run in which it counts."""

    amount: Draw | Pause
    from_s: float = 0.0
    until_s: float = math.inf


@dataclass(frozen=True, slots=True)
class Slowness:
    """How slow one worker is; read from text once, then handed on."""

    text: str  # as it was written, which is what a child process gets as its own --slow
    terms: tuple[Term, ...]

    def __str__(self) -> str:
        return self.text


def parse_slowness(text: str) -> Slowness:
    """Reads the slowness of one worker.

    Raises:
        UsageError: the text does not follow the grammar; the error shows a form that does.
    """
    # The plus sign of an exponent, as in 1e+3, separates no terms.
    return Slowness(text, tuple(_term(part) for part in re.split(r"(?<![eE])\+", text)))


def split_by_worker(text: str) -> list[str]:
    """Splits a list by rank into its items; a text for all workers is one item."""
    return text.split("/" if "/" in text or ":" in text else ",")


def _term(text: str) -> Term:
    amount, at, window = text.partition("@")
    if not at:
        return Term(_amount(text))
    start, dots, end = window.partition("..")
    if not dots or not (start or end):
        raise _wrong(text, "a time is FROM..UNTIL in seconds", "0.2@..60+0.8@60..")
    from_s = _seconds(start, text) if start else 0.0
    until_s = _seconds(end, text) if end else math.inf
    if from_s >= until_s:
        raise _wrong(text, "it ends before it begins", "0.8@60..120")
    return Term(_amount(amount), from_s, until_s)


def _amount(text: str) -> Draw | Pause:
    name, colon, rest = text.partition(":")
    if not colon:
        return Draw("constant", (_seconds(text, text),))
    if name == "pause":
        return _pause(text, rest)
    if name not in DISTRIBUTIONS:
        known = ", ".join([*DISTRIBUTIONS, "pause"])
        raise UsageError(
            f"{text}: no such slowness; there are {known}, such as {SLOWNESS_EXAMPLES}"
        )
    form = DISTRIBUTIONS[name]
    numbers = rest.split(",")
    if len(numbers) != len(form.parameters):
        raise _wrong(text, f"{name} takes {' and '.join(form.parameters)}", form.example)
    values = tuple(_seconds(number, text) for number in numbers)
    if not form.is_possible(*values):
        raise _wrong(text, form.condition, form.example)
    return Draw(name, values)


def _pause(text: str, rest: str) -> Draw | Pause:
    values = dict(pair.partition("=")[::2] for pair in rest.split(","))
    if values.keys() not in ({"every", "for"}, {"chance", "for"}):
        raise _wrong(text, "a pause has a length, and a time between two or a chance",
                     "pause:every=30,for=5 or pause:chance=0.02,for=5")  # fmt: skip
    for_s = _seconds(values["for"], text)
    if "every" in values:
        return Pause(_seconds(values["every"], text), for_s)
    chance = _seconds(values["chance"], text)
    if chance > 1:
        raise _wrong(text, "a chance is at most 1", "pause:chance=0.02,for=5")
    return Draw("chance", (chance, for_s))


def _seconds(number: str, text: str) -> float:
    try:
        value = float(number)
    except ValueError:
        raise UsageError(f"{text}: expected numbers, such as {SLOWNESS_EXAMPLES}") from None
    if not (math.isfinite(value) and value >= 0):
        raise UsageError(f"{text}: give seconds, 0 or more")
    return value


def _wrong(text: str, why: str, example: str) -> UsageError:
    return UsageError(f"{text}: {why}, such as {example}")


@dataclass(frozen=True, slots=True)
class Form:
    """The form in which a distribution is written."""

    parameters: tuple[str, ...]
    example: str
    is_possible: Callable[..., bool] = lambda *_: True
    condition: str = ""


# leash.ps.slowness.delays draws from each of these.
DISTRIBUTIONS: Final = {
    "exp": Form(("its mean",), "exp:0.2"),
    "normal": Form(("its mean", "its deviation"), "normal:0.3,0.05"),
    "uniform": Form(
        ("its smallest", "its largest"), "uniform:0.1,0.3",
        lambda low, high: low <= high, "the smallest comes first",
    ),
    "pareto": Form(
        ("its shape", "its scale"), "pareto:2,0.1",
        lambda shape, _: shape > 1, "with a shape of 1 or less it has no mean",
    ),
}  # fmt: skip

NOT_SLOWED: Final = parse_slowness("0")
