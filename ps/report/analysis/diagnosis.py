"""Diagnoses which kind of slowness a run suffers from, what it costs, and what would help.

A worker is held back from the arrival of its push until the policy lets its answer go. (Waiting,
which other figures tell, also includes the time in which both travel.) If every worker always took
its median time m, a bound would let all tick as often as the slowest: they would be held back for
the share 1 - mean(m) / max(m) of their time, whatever the bound is. This part counts as persistent
slowness. The rest counts as steps that stumble now and then, which a larger bound hides. The time
of workers that were done before the last is lost, too.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Final, Literal

from leash.ps.report.analysis.absences import absences, who_was_gone
from leash.ps.report.analysis.advice import (
    cheaper_exchange,
    leases,
    plans_for_unequal_speeds,
    wider_bound,
)
from leash.ps.report.analysis.paces import LONG, SLOWER, StepPace, paces
from leash.ps.report.analysis.run import Run
from leash.ps.report.analysis.spending import knows_waiting, spent, waiting
from leash.ps.words import WAITING_IS, listed, percent, seconds

WORTH_A_WORD: Final = 0.10  # a smaller share of the workers' time is no reason to change anything
STUMBLING: Final = 0.05  # a worker stumbles with this share of its time in long steps, or
UNEVEN: Final = 1.5  # with a 95th percentile of this many medians
NAMED: Final = 5  # so many workers are named; more are counted
# A shorter training, in seconds at full scale, does not tell whether a slowness lasts.
TELLING_S: Final = 5.0

Kind = Literal[
    "none", "persistent", "transient", "both", "exchange", "unknown",
    "lost",  # a worker, for good
    "returned",  # a lost worker, in a run that would be "none"
]  # fmt: skip


@dataclass(frozen=True)
class Costs:
    """Shares of all workers' time, from 0 to 1."""

    held: float = 0.0  # held back, for the sake of each other
    persistent: float = 0.0  # the part of `held` because some workers are lastingly slower
    done_early: float = 0.0  # after a worker was done, while others went on

    @property
    def transient(self) -> float:
        """The part of `held` that a larger bound could win back at most."""
        return max(0.0, self.held - self.persistent)


@dataclass(frozen=True)
class Diagnosis:
    """What a run suffers from, in words and figures."""

    kind: Kind
    headline: str  # one sentence, with what to try
    details: tuple[str, ...] = ()
    costs: Costs = Costs()
    slow_workers: tuple[int, ...] = ()  # the ranks of slow workers


def diagnose(run: Run) -> Diagnosis:
    """Diagnoses what this run suffers from: first who was lost, then who was slow."""
    told, gone = _slowness(run), absences(run)
    if not gone:
        return told
    kind: Kind = "returned" if told.kind == "none" else told.kind
    if any(absence.until_s is None for absence in gone):
        kind = "lost"
    slowness = told.headline[0].upper() + told.headline[1:]
    return replace(told, kind=kind, headline=f"{who_was_gone(gone)}. {slowness}")


def _slowness(run: Run) -> Diagnosis:
    if not run.steps:
        return Diagnosis("unknown", "No step was taken, so there is nothing to tell.")
    if len(run.tracks) == 1:
        return Diagnosis("none", "One worker alone: there was nobody to wait for.")
    by_worker = paces(run)
    if not knows_waiting(run) or len(by_worker) < len(run.tracks) / 2:
        return _unknown(run)
    slow = [pace for pace in by_worker.values() if pace.is_slow]
    costs = _costs(run, by_worker)
    kind = _kind(costs, by_worker)
    if kind in ("persistent", "both") and _is_short(run):
        kind, headline = "unknown", _too_short(run, by_worker, slow)
    else:
        headline = _HEADLINES[kind](run, by_worker, slow, costs)
    return Diagnosis(
        kind, headline, tuple(_details(kind, by_worker, costs)), costs,
        tuple(pace.worker for pace in slow),
    )  # fmt: skip


def _is_short(run: Run) -> bool:
    return run.seconds / run.scale < TELLING_S


def _unknown(run: Run) -> Diagnosis:
    share = waiting(run)
    told = "" if share is None else f" Waiting, {WAITING_IS}: {percent(share)} of their time."
    why = "Too little was recorded to tell who was slow: --step-events 1 records every step."
    if run.is_thinned:
        why = "So many steps are taken that not all are read: leash report will tell who was slow."
    return Diagnosis("unknown", why + told)


# What it costs.


def _costs(run: Run, by_worker: dict[int, StepPace]) -> Costs:
    spendings = spent(run)
    idle_s = {track.worker: _idle_s(run, track.done_s) for track in run.tracks}
    here_s = sum(float(s.here.sum()) for s in spendings.values())
    total_s = max(here_s + sum(idle_s.values()), 1e-9)
    held = sum(float(s.held_back.sum()) for s in spendings.values()) / total_s
    persistent = min(held, _lockstep([*by_worker.values()]) * here_s / total_s)
    return Costs(held, persistent, sum(idle_s.values()) / total_s)


def _lockstep(all_paces: Sequence[StepPace]) -> float:
    """The share that is held back if all tick as the slowest does, by halves where known."""
    halves = zip(*(pace.halves for pace in all_paces), strict=True)
    parts = [[median.settled_s for median in half] for half in halves]
    parts = parts or [[pace.whole.settled_s for pace in all_paces]]
    return fmean(1 - fmean(part) / max(part) if max(part) > 0 else 0.0 for part in parts)


def _idle_s(run: Run, done_s: float | None) -> float:
    return max(0.0, run.seconds - done_s) if done_s is not None else 0.0


def _kind(costs: Costs, by_worker: dict[int, StepPace]) -> Kind:
    lasting = costs.persistent + costs.done_early >= WORTH_A_WORD
    passing = costs.transient >= WORTH_A_WORD
    if lasting and passing:
        # A part below a quarter of the other is no second cause: the model is not more exact.
        minor = min(costs.transient, costs.persistent + costs.done_early)
        if 4 * minor > max(costs.transient, costs.persistent + costs.done_early):
            return "both" if _stumbles(by_worker) else "persistent"
        lasting = costs.persistent + costs.done_early > costs.transient
    if lasting:
        return "persistent"
    if passing:
        return "transient" if _stumbles(by_worker) else "exchange"
    return "none"


def _stumbles(by_worker: dict[int, StepPace]) -> bool:
    return any(p.stumbling_share >= STUMBLING or p.spread >= UNEVEN for p in by_worker.values())


# Headlines.


def _persistent(
    run: Run, by_worker: dict[int, StepPace], slow: list[StepPace], costs: Costs
) -> str:
    who = _who(run, by_worker, slow)
    if costs.done_early > costs.persistent:
        return f"{who}: {_done_early(run)}"
    return f"{who}: bounds cannot hide that{plans_for_unequal_speeds(run)}"


def _too_short(run: Run, by_worker: dict[int, StepPace], slow: list[StepPace]) -> str:
    who = _who(run, by_worker, slow)
    return f"{who}: {seconds(run.seconds)} of training are too few to tell whether that lasts"


def _done_early(run: Run) -> str:
    first = min((track.done_s for track in run.tracks if track.done_s is not None), default=0.0)
    gap = seconds(run.seconds - first)
    return f"the others had done their shares of the data up to {gap} before the end{leases(run)}"


def _transient(run: Run, by_worker: dict[int, StepPace], _: list[StepPace], __: Costs) -> str:
    worst = max(by_worker.values(), key=lambda pace: (pace.stumbling_share, pace.spread))
    return f"steps stumble now and then ({_stumble(worst)}): {wider_bound(run)}"


def _both(run: Run, by_worker: dict[int, StepPace], slow: list[StepPace], costs: Costs) -> str:
    return (
        f"{_persistent(run, by_worker, slow, costs)}. Besides, "
        f"{_transient(run, by_worker, slow, costs)}"
    )


def _exchange(run: Run, by_worker: dict[int, StepPace], __: list[StepPace], costs: Costs) -> str:
    typical_s = min(pace.median_s for pace in by_worker.values())
    return (
        f"no worker is slow, yet they were held back for {percent(costs.held)} of their time: a "
        f"step's own work takes only {seconds(typical_s)}, so taking turns costs as much; "
        f"{cheaper_exchange(run)}"
    )


def _none(run: Run, by_worker: dict[int, StepPace], slow: list[StepPace], costs: Costs) -> str:
    lost = f"{percent(costs.held + costs.done_early)} of the workers' time was lost to it"
    if slow:
        return f"{_who(run, by_worker, slow)}, and this run copes: {lost}"
    if _stumbles(by_worker):
        return f"no worker is slow: steps vary, and this run copes: {lost}"
    medians = sorted(pace.median_s for pace in by_worker.values())
    return (
        f"no worker is slow: a step takes every worker about the same time ({_between(medians)}), "
        f"and they were held back for {percent(costs.held)} of their time"
    )


_HEADLINES: Final = {
    "persistent": _persistent, "transient": _transient, "both": _both, "exchange": _exchange,
    "none": _none,
}  # fmt: skip


# Words.


def _who(run: Run, by_worker: dict[int, StepPace], slow: Sequence[StepPace]) -> str:
    """Says which workers are slow, when, and by how much."""
    if not slow:
        fastest = min(by_worker.values(), key=lambda pace: pace.whole.ratio)
        if not 0 < fastest.whole.ratio <= 1 / SLOWER:
            return "the workers are of unequal speed"
        return (
            f"worker {fastest.worker} is {_throughout(run)} {1 / fastest.whole.ratio:.1f} × faster"
        )
    ratios = sorted(pace.ratio for pace in slow)
    factor = f"{ratios[0]:.1f}"
    if f"{ratios[-1]:.1f}" != factor:
        factor += f" to {ratios[-1]:.1f}"
    when = {_when(run, pace) for pace in slow}
    told = when.pop() if len(when) == 1 else "at least for a time"
    if len(slow) == 1:
        return f"worker {slow[0].worker} is {told} {factor} × slower"
    if len(slow) > NAMED:
        return f"{len(slow)} of {len(by_worker)} workers are {told} {factor} × slower"
    ranks = listed([str(pace.worker) for pace in slow])
    return f"workers {ranks} are {told} {factor} × slower"


def _throughout(run: Run) -> str:
    return "so far" if _is_short(run) else "persistently"


def _when(run: Run, pace: StepPace) -> str:
    if pace.slow_half is None:
        return _throughout(run)
    return f"in the {('first', 'second')[pace.slow_half]} half of the run"


def _stumble(pace: StepPace) -> str:
    if pace.stumbling_share >= STUMBLING:
        return (f"worker {pace.worker} spends {percent(pace.stumbling_share)} of its computing in "
                f"steps longer than {LONG:.0f} × its median")  # fmt: skip
    return f"worker {pace.worker}'s slowest 5 % take over {pace.spread:.1f} × its median"


def _between(values: Sequence[float]) -> str:
    low, high = seconds(values[0]), seconds(values[-1])
    return low if low == high else f"{low} to {high}"


def _parts(costs: Costs) -> str:
    """Says why workers were held back, and what a larger bound could win back."""
    if costs.transient < 0.01:
        return ", because some are lastingly slower: a larger bound wins nothing back."
    if costs.persistent < 0.01:
        return ", which a larger bound wins back in part."
    return (
        f": {percent(costs.persistent)} because some are lastingly slower, and "
        f"{percent(costs.transient)} besides. A larger bound wins back this second part at most."
    )


def _details(kind: Kind, by_worker: dict[int, StepPace], costs: Costs) -> list[str]:
    lines = []
    if costs.held >= 0.01:
        line = f"The workers were held back for {percent(costs.held)} of their time"
        lines.append(line + (_parts(costs) if kind not in ("none", "unknown") else "."))
    if costs.done_early >= 0.01:
        lines.append(f"{percent(costs.done_early)} was lost because workers had done their part "
                     "before the last one had.")  # fmt: skip
    if kind != "none":
        medians = sorted(pace.median_s for pace in by_worker.values())
        lines.append(f"A step's own work, without waiting, takes {_between(medians)} (medians of "
                     "the workers).")  # fmt: skip
    return lines
