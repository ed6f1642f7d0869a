"""The options of `leash simulate`: how much work, on which machines, under which policies."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Final, Literal

from leash.ps.errors import UsageError
from leash.ps.options.base import (
    DEFAULT_SEED,
    Options,
    check_not_negative,
    check_positive,
    flag,
    option,
)
from leash.ps.options.plan import STATIC, Resize, batch_count, most_workers, parse_resize
from leash.ps.options.rule import RuleGroup
from leash.ps.policy import POLICIES, Rule, choose_rule
from leash.ps.simulate.cluster import Cluster, Failures
from leash.ps.slowness.by_rank import parse_heterogeneity, parse_slow
from leash.ps.slowness.grammar import FORMS_HELP, SEPARATORS_HELP

DEFAULT_STEPS: Final = 1000
DEFAULT_COMPARE: Final = "bsp, ssp 1, ssp 3, ssp 10, asp"
DEFAULT_EVICT_S: Final = 5.0
# Policy ▸ the options whose values stand behind it in --compare.
NUMBERS_OF: Final[dict[str, tuple[str, ...]]] = {
    "bsp": (),
    "ssp": ("bound",),
    "asp": (),
    "dssp": ("bound", "bound_max"),
    "backup": ("backup_workers",),
    "drop": ("max_staleness",),
}
PLOT_SUFFIXES: Final = (".svg", ".png", ".pdf")


@dataclass(frozen=True, kw_only=True)
class SimulatedRunGroup(Options):
    """The options of how much work a run has."""

    title: ClassVar[str] = "what is done"

    workers: int = option(10, "how many workers take part", metavar="N")
    resize: str | None = option(
        None, "workers join, and the newest leave: 60:8,300:3 has eight from second 60 on, and "
        "three from second 300 on", metavar="SECONDS:WORKERS,...",
    )  # fmt: skip
    steps: int | None = option(
        None, f"batches of a worker, on average; default: {DEFAULT_STEPS}, or as --samples has it",
        metavar="N",
    )  # fmt: skip
    samples: int | None = option(
        None, "size of the data set, instead of --steps: the table has the time of an epoch, too",
        metavar="N",
    )  # fmt: skip
    batch_size: int = option(32, "with --samples: samples in a batch", metavar="N")
    epochs: int = option(1, "with --samples: passes over the data", metavar="N")
    data_plan: Literal["lease", "static"] | None = option(
        None,
        "lease: who is free takes the next batch; static: equal shares. Default: static under bsp "
        "without --resize, otherwise lease",
    )
    local_steps: int = option(1, "batches between two pushes", metavar="N")
    seed: int = option(
        DEFAULT_SEED, "of all that is drawn; --slow is what it is in a run with this seed"
    )

    def check(self) -> None:
        super().check()
        names = ("workers", "steps", "samples", "batch_size", "epochs", "local_steps")
        check_positive(self, *names)
        check_not_negative(self, "seed")
        if self.steps is not None and self.samples is not None:
            raise UsageError(f"--samples {self.samples}: says how much is done, as --steps "
                             f"{self.steps} does; leave one of the two out")  # fmt: skip
        if self.changes and self.data_plan == STATIC:
            raise UsageError(f"--resize {self.resize}: fixed shares need a fixed number of "
                             "workers; leave --data-plan static out")  # fmt: skip

    @property
    def changes(self) -> list[Resize]:
        """When how many workers take part, from --resize. Raises UsageError."""
        return parse_resize(self.resize)

    @property
    def total_batches(self) -> int:
        """The batches of all workers together, when leases share them out."""
        if self.samples is None:
            return self.workers * (self.steps or DEFAULT_STEPS)
        return self.epochs * batch_count(self.samples, self.batch_size)

    @property
    def batches_each(self) -> int:
        """The batches of one worker with equal shares."""
        if self.samples is None:
            return self.steps or DEFAULT_STEPS
        share = -(-self.samples // self.workers)
        return self.epochs * batch_count(share, self.batch_size)


@dataclass(frozen=True, kw_only=True)
class ClusterGroup(Options):
    """The options of the machines and the network."""

    title: ClassVar[str] = "the cluster (times are in seconds, and written as --slow is)"

    compute: str = option("0", "what a batch takes by itself", metavar="SECONDS,...")
    slow: str = option(
        "0",
        f"what delays a worker beside that: {FORMS_HELP}; {SEPARATORS_HELP}",
        metavar="SECONDS,...",
    )
    heterogeneity: str = option(
        "1", "a worker of heterogeneity r takes 1/r times as long to compute", metavar="R,..."
    )
    network: str = option("0", "what a message takes, one way", metavar="SECONDS,...")
    model_mb: float = option(
        0.0, "size of what travels each way, through the one link of the server", metavar="MB"
    )
    bandwidth_gbit: float = option(10.0, "of that link, each way", metavar="GBIT/S")
    server_us: float = option(0.0, "what the server works on a push", metavar="MICROSECONDS")
    failures: str | None = option(
        None,
        "a worker fails once in mtbf seconds, on average, is missed after evict seconds (5 if left "
        "out), and is back after restart seconds",
        metavar="mtbf=3600,restart=30",
    )

    def check(self) -> None:
        super().check()
        check_positive(self, "bandwidth_gbit")
        check_not_negative(self, "model_mb", "server_us")
        if self.failures is not None:
            parse_failures(self.failures)
        nothing = {self.compute, self.slow, self.network} <= {"0", "0.0"}
        if nothing and not (self.model_mb or self.server_us):
            raise UsageError("nothing takes time: say what a batch takes, such as --compute 0.05, "
                             "or exp:0.05")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ComparisonGroup(Options):
    """The options of what to simulate and show."""

    title: ClassVar[str] = "what to show"

    compare: str | None = option(
        None, f"several policies, with their bounds; the default is {DEFAULT_COMPARE}",
        metavar="POLICY BOUND,...",
    )  # fmt: skip
    json: bool = option(False, "print the rows as JSON")
    plot: str | None = option(
        None, "draw how the first ten workers fare: .svg, .png or .pdf", metavar="FILE",
        is_path=True,
    )  # fmt: skip

    def check(self) -> None:
        super().check()
        parse_compare(self.compare or DEFAULT_COMPARE)
        if self.plot is not None and Path(self.plot).suffix not in PLOT_SUFFIXES:
            raise UsageError(
                f"--plot {self.plot}: give a name that ends in {', '.join(PLOT_SUFFIXES)}"
            )


def choose_rules(compare: str | None, policy: str | None, rule: Rule | None) -> list[Rule]:
    """Chooses the policies to simulate: those of --compare, or the one that --policy asks for.

    Args:
        compare: as given with --compare.
        policy: as given with --policy.
        rule: the rule of --policy, --bound and so on; None if none of them was given.

    Raises:
        UsageError: both were given, or one of them is wrong.
    """
    if compare is not None and rule is not None:
        name = "policy" if policy is not None else "bound"
        raise UsageError(f"--compare {compare}: names the policies; leave {flag(name)} out")
    return [rule] if rule is not None else parse_compare(compare or DEFAULT_COMPARE)


def parse_compare(text: str) -> list[Rule]:
    """Reads rules from ``bsp, ssp 3, dssp 3 15, backup 2, drop 20, asp``.

    Raises:
        UsageError: a policy is unknown, or does not take these numbers.
    """
    return [_rule(item.split(), text) for item in text.split(",")]


def _rule(words: list[str], text: str) -> Rule:
    names = NUMBERS_OF.get(words[0]) if words else None
    if names is None or len(words) > 1 + len(names) or not all(w.isdecimal() for w in words[1:]):
        raise UsageError(f"--compare {text}: expected policies of {', '.join(POLICIES)}, each with "
                         f"its bound if it has one, such as {DEFAULT_COMPARE}")  # fmt: skip
    numbers = dict(zip(names, map(int, words[1:]), strict=False))
    try:
        return choose_rule(
            words[0], numbers.get("bound"), numbers.get("bound_max"),
            numbers.get("backup_workers"), max_staleness=numbers.get("max_staleness"),
        )  # fmt: skip
    except UsageError as error:
        raise UsageError(f"--compare {text}: {error}") from None


def parse_failures(text: str) -> Failures:
    """Reads from ``mtbf=3600,restart=30`` how workers fail.

    Raises:
        UsageError: the text has another form, or a time is out of its range.
    """
    given = dict(pair.partition("=")[::2] for pair in text.split(","))
    try:
        values = {name: float(value) for name, value in given.items()}
    except ValueError:
        values = {}
    if not {"mtbf", "restart"} <= values.keys() <= {"mtbf", "restart", "evict"}:
        raise UsageError(f"--failures {text}: expected seconds, such as mtbf=3600,restart=30 or "
                         "mtbf=3600,restart=30,evict=5")  # fmt: skip
    failures = Failures(values["mtbf"], values["restart"], values.get("evict", DEFAULT_EVICT_S))
    if not (failures.mtbf_s > 0 and failures.restart_s >= 0 and failures.evict_s >= 0):
        raise UsageError(f"--failures {text}: give an mtbf above 0, and no time below 0")
    return failures


@dataclass(frozen=True, kw_only=True)
class SimulateOptions(SimulatedRunGroup, ClusterGroup, RuleGroup, ComparisonGroup):
    """Play a run in virtual time: what would these machines do, under this policy or that?"""

    def check(self) -> None:
        super().check()
        for rule in self.rules():
            rule.require_workers(self.workers)
        _ = self.cluster  # making it raises UsageError if a list does not fit the workers

    @cached_property
    def cluster(self) -> Cluster:
        """The simulated cluster. Raises UsageError for a list that does not fit the workers."""
        failures = parse_failures(self.failures) if self.failures else None
        most = most_workers(self.workers, self.changes)
        return Cluster(
            compute=parse_slow(self.compute, most, "--compute"),
            slow=parse_slow(self.slow, most),
            ratios=parse_heterogeneity(self.heterogeneity, most),
            network=parse_slow(self.network, most, "--network"),
            server_s=self.server_us / 1e6,
            transfer_s=self.model_mb * 8e-3 / self.bandwidth_gbit,
            failures=failures,
            at_first=self.workers,
            changes=self.changes,
        )

    def rules(self) -> list[Rule]:
        """The rules to simulate. Raises UsageError."""
        is_one = self.policy is not None or self.bound is not None or self.bound_unit != "clocks"
        return choose_rules(self.compare, self.policy, self.rule if is_one else None)
