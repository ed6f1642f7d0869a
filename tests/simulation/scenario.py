"""Draws from a seed what is simulated: the run, its workers, its network; not what goes wrong."""

import math
import random
from dataclasses import dataclass, field, replace
from typing import Any, Final

from leash.ps.options.server import ServerOptions
from simulation.checks.toy import CHUNK_NBYTES, LAYOUTS, MOST_WORKERS

POLICIES: Final = ("bsp", "ssp", "asp", "dssp", "backup", "drop", "versions")
LR: Final = 1.0
SHORT_S: Final = 30.0  # a patience that an outage may outlast
KILLED: Final = -9  # the status of a server that nobody starts again


def stream(seed: int, kind: str) -> random.Random:
    """A source of randomness of its own, for each kind of thing that is drawn."""
    return random.Random(f"{seed}:{kind}")


@dataclass(frozen=True)
class Scenario:
    """One run, if nothing goes wrong."""

    seed: int
    policy: str
    limits: dict[str, Any]  # options of the policy
    layout: int  # an index into LAYOUTS
    shards: int
    transport: str  # "tcp" or "shm"
    can_attach: bool  # whether a server may map its workers' memory
    codec: str
    batches: tuple[int, ...]  # of each worker; their sum is a power of two
    steps: int  # of each worker; with leases together as many
    epochs: int
    data_plan: str  # "static" or "lease"
    compute_s: tuple[float, ...]  # of each worker's step
    pieces: int  # in how many parts the gradients become ready; 1: all at once
    window: int
    evict_s: float
    checkpoint_every: str
    step_events: int
    absent_every: int  # in each so manieth step of a worker one slot has no gradient; 0: never
    drift: tuple[float, ...] = field(default=())  # of each worker's clock
    delay_s: float = 0.001  # of a message, about
    patience_s: float = 600.0
    rejoin_s: float = 200.0  # longer than any outage
    keys: str = ""  # "hello": each process has a key, which gets its rank by it; "file": before it
    least: int | None = None  # with how many workers the run begins; None: with all
    any_rank: bool = False  # whether the server gives the ranks

    def is_absent(self, rank: int, step: int) -> bool:
        """Whether a worker's step has no gradient for the first slot."""
        every = self.absent_every
        return every > 0 and (step + rank) % every == 0

    @property
    def is_exact(self) -> bool:
        """Whether the parameters have to be those of one process, bit by bit."""
        return (self.policy, self.data_plan, self.codec) == ("bsp", "static", "f32")

    @property
    def adds_up(self) -> bool:
        """Whether the parameters tell how often each worker's pushes were applied."""
        return self.policy not in ("bsp", "backup") and self.codec == "f32"

    @property
    def workers(self) -> int:
        return len(self.batches)

    @property
    def samples(self) -> int:
        """Of one epoch, all workers together."""
        return sum(self.batches) * self.steps_of_epoch

    @property
    def steps_of_epoch(self) -> int:
        """Of each worker."""
        return self.steps // self.epochs

    @property
    def span_s(self) -> float:
        """How long the run takes, about."""
        step_s = max(self.compute_s) + 4 * self.delay_s
        return 0.3 + self.steps * step_s

    def options(self, **more: Any) -> ServerOptions:
        """The options that the server is started with."""
        options = ServerOptions(
            workers=self.least or self.workers,
            max_workers=None if self.least is None else self.workers,
            chunk_kib=CHUNK_NBYTES // 1024, shards=self.shards, lr=LR,
            seed=self.seed, lr_scaling="none", step_events=self.step_events,
            policy="ssp" if self.policy == "versions" else self.policy, window=self.window,
            evict_s=self.evict_s, rejoin_s=self.rejoin_s, data_plan=self.data_plan,
            epochs=self.epochs, checkpoint_every=self.checkpoint_every, **self.limits, **more,
        )  # fmt: skip
        options.check()
        return options


def draw(seed: int, *, workers: int | None = None, steps: int | None = None) -> Scenario:
    """Draws the scenario of a seed.

    Args:
        seed: of everything.
        workers: how many instead of those that the seed says.
        steps: of each, likewise.
    """
    rng = stream(seed, "scenario")
    policy = rng.choice(POLICIES)
    drawn_workers = rng.choice((1, 2, 2, 3, 4, 4, 5, 6, 7, 8))
    drawn_steps = rng.choice((4, 8, 12, 20, 30, 50))
    count = drawn_workers if workers is None else min(workers, MOST_WORKERS)
    if policy == "backup" and count == 1:
        policy = "asp"
    # A bound in versions is kept by each chunk for itself, so that several may stand still.
    layout = 0 if policy == "versions" else rng.choices(range(len(LAYOUTS)), (4, 2, 3, 2))[0]
    epochs = rng.choice((1, 1, 2, 4))
    most = drawn_steps if steps is None else steps
    base_s = rng.choice((0.0005, 0.002, 0.01))
    codec = rng.choice(("f32", "f32", "f32", "topk", "f16", "bf16"))
    transport = rng.choice(("tcp", "tcp", "shm"))
    limits = _limits(policy, count, rng)
    least, any_rank = _crew(count, limits, stream(seed, "comings"))
    scenario = Scenario(
        seed=seed,
        policy=policy,
        limits=limits,
        layout=layout,
        shards=rng.choice((1, 1, 2, 3)),
        transport=transport,
        can_attach=rng.random() < 0.9,
        codec=codec,
        batches=_batches(count, rng),
        steps=max(epochs, most // epochs * epochs),
        epochs=epochs,
        data_plan="static" if policy == "bsp" and rng.random() < 0.5 else
        rng.choice(("static", "lease")),
        compute_s=tuple(base_s * rng.choice((0.5, 1.0, 1.0, 1.5, 4.0)) for _ in range(count)),
        pieces=rng.choice((1, 1, 1, 2, 4)),
        window=rng.choice((1, 2, 16)),
        evict_s=rng.choice((1.0, 3.0, 5.0)),
        checkpoint_every=rng.choice(("never", "60s", "1s", "1e", "20u")),
        step_events=rng.choice((0, 0, 0, 0, 1)),
        absent_every=rng.choice((0, 0, 2, 3)) if codec in ("f32", "topk") else 0,
        drift=tuple(1.0 + rng.uniform(-0.01, 0.01) for _ in range(MOST_WORKERS)),
        delay_s=rng.choice((0.0001, 0.001, 0.005)),
        patience_s=stream(seed, "patience").choice((math.inf, 600.0, 600.0, SHORT_S)),
        least=least,
        any_rank=any_rank,
        keys="" if any_rank else stream(seed, "keys").choice(("", "", "hello", "file")),
    )  # fmt: skip
    if least is not None:
        return replace(scenario, data_plan="lease")
    # Fixed shares go by the rank, which has to be known beforehand.
    return replace(scenario, any_rank=any_rank and scenario.data_plan == "lease")


def _crew(workers: int, limits: dict[str, Any], rng: random.Random) -> tuple[int | None, bool]:
    """With how many workers the run begins, if more may come; whether the server gives ranks."""
    lowest = limits.get("backup_workers", 0) + 1
    comes_and_goes, any_rank = rng.random() < 0.3, rng.random() < 0.3
    if not comes_and_goes or workers <= lowest:
        return None, any_rank
    return rng.randrange(lowest, workers), any_rank


def _limits(policy: str, workers: int, rng: random.Random) -> dict[str, Any]:
    match policy:
        case "ssp":
            return {"bound": rng.choice((1, 2, 3, 8))}
        case "versions":
            return {"bound": rng.choice((1, 2, 3, 8)), "bound_unit": "versions"}
        case "dssp":
            low = rng.choice((0, 1, 3))
            return {"bound": low, "bound_max": low + rng.choice((1, 4, 12))}
        case "backup":
            return {"backup_workers": rng.randrange(1, workers)}
        case "drop":
            return {"max_staleness": rng.choice((0, 1, 2 * workers))}
    return {}


def _batches(workers: int, rng: random.Random) -> tuple[int, ...]:
    """Sizes of batches whose sum is a power of two, so that bsp's weights are exact."""
    total = 1
    while total < 2 * workers:
        total *= 2
    total *= rng.choice((1, 2))
    cuts = sorted(rng.sample(range(1, total), workers - 1))
    return tuple(b - a for a, b in zip([0, *cuts], [*cuts, total], strict=True))
