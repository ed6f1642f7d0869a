"""What a server's terminal shows while a run goes on, and when it has ended."""

import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from leash.ps.options.server import ServerOptions
from leash.ps.policy import MAY_STALL, VERSIONS
from leash.ps.runs.unfinished import unfinished_text
from leash.ps.server.coordinator import Coordinator
from leash.ps.server.shards.shards import Shards
from leash.ps.shard.members import Members
from leash.ps.shard.metrics import Metrics
from leash.ps.words import (
    DONE,
    EVICTED,
    INCOMPLETE,
    SMALLER_RATE,
    accuracy_text,
    in_epoch_after,
    named_workers,
    why_stopped,
)

PROGRESS_S: Final = 10.0  # between two lines that say how fast the run is
LONG_WAIT_S: Final = 10.0  # whoever holds others up for so long is named
SAY_AGAIN_S: Final = 60.0


class Progress:
    """Says what has changed since it last looked."""

    def __init__(
        self, options: ServerOptions, coordinator: Coordinator, members: Members, metrics: Metrics,
        shards: Shards, say: Callable[[str], None], now: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._options: Final = options
        self._coordinator: Final = coordinator
        self._members: Final = members
        self._metrics: Final = metrics
        self._shards: Final = shards
        self._say: Final = say
        self._now: Final = now
        self._next_s = now()  # when the next line of speed is due
        self._shown: Final[dict[str, Any]] = {}
        self._hold_ups: Final[dict[int, float]] = {}  # rank ▸ when to say again that others wait
        self._evicted: Final[dict[int, int]] = {}  # rank ▸ incarnation of which that was said

    def show(self) -> None:
        """Says what is new. Call it a few times a second."""
        if not self._metrics.started:
            missing = self._members.missing
            self._show("missing", missing, self._whom)
            return
        started, rule = "rule" in self._shown, self._coordinator.rule
        self._show("rule", str(rule), lambda r: f"from now on {r}" if started else f"started, {r}")
        self._show("away", self._coordinator.work_left.coming_back, _coming_back)
        while self._coordinator.crew.news:
            self._say(self._coordinator.crew.news.popleft())
        self._show_evictions()
        self._show_hold_ups()
        self._show("stalls", self._may_stall(), lambda _: MAY_STALL)
        self._show_results()
        if self._now() >= self._next_s:
            self._next_s = self._now() + PROGRESS_S
            rate = self._metrics.steps / max(self._metrics.train_seconds, 1e-9)
            live = len(self._members.live)
            self._say(f"{self._metrics.steps} steps, {rate:.1f}/s, {live} workers")

    def _whom(self, missing: Sequence[int]) -> str:
        if not self._members.come_and_go:
            return f"waiting for {named_workers(missing)}"
        more = "another worker" if len(missing) == 1 else f"{len(missing)} more workers"
        return f"waiting for {more} to begin"

    def tell(self, about: str, text: str) -> None:
        """Says a line, unless it is what was said last about the same."""
        self._show(about, text, str)

    def say_end(self, ended: str, unfinished: Sequence[dict[str, Any]]) -> None:
        """Says how the run has ended, how far it was, and what is missing.

        Args:
            ended: the word for it, as in summary.json.
            unfinished: what was not trained, likewise.
        """
        self._show_results()  # the last may have come behind the last look
        how_far = f"ended after {self._metrics.steps} steps"
        if ended == INCOMPLETE:  # in no epoch: those who stayed came to their end
            how_far += f": {INCOMPLETE}"
        elif ended != DONE:
            epoch = in_epoch_after(self._metrics.epoch, self._options.epochs)
            how_far += f"{epoch}: {why_stopped(ended)}"
        if unfinished:
            how_far += f": not trained: {unfinished_text(unfinished)}"
        self._say(how_far)

    # How it is done.

    def _show_results(self) -> None:
        """Says which epoch is complete, and what the newest evaluation has found."""
        self._show("epoch", self._metrics.epoch, lambda e: f"epoch {e} is complete")
        for evaluation in self._metrics.evaluations[-1:]:
            loss = evaluation.loss
            told = "loss not finite" if loss is None else f"loss {loss:.4f}"
            mend = f"; {SMALLER_RATE}" if loss is None else ""
            if evaluation.accuracy is not None:
                told = f"accuracy {accuracy_text(evaluation.accuracy)}"
            self.tell("evaluation", f"test {told} after epoch {evaluation.epoch}{mend}")

    def _show_hold_ups(self) -> None:
        """Says for whom others wait: once it is long, seldom after that, and when it is over."""
        for held in self._coordinator.holdups.told(LONG_WAIT_S):
            worker, now_s = held.member.worker, self._now()
            if now_s >= self._hold_ups.get(worker, now_s):
                self._hold_ups[worker] = now_s + SAY_AGAIN_S
                self._say(f"waiting for {self._coordinator.holdups.words_of(held)}")
        for worker in self._hold_ups.keys() - self._coordinator.holdups.all.keys():
            del self._hold_ups[worker]
            self._say(f"nobody waits for worker {worker} any more")

    def _show_evictions(self) -> None:
        """Says without whom the run goes on, and who of them has come back."""
        for rank, member in sorted(self._members.workers.items()):
            is_told = self._evicted.get(rank) == member.incarnation
            if member.state == EVICTED and not is_told:
                self._evicted[rank] = member.incarnation
                silence_s = self._members.silence_s(member)
                is_silent = silence_s >= self._members.evict_s
                why = f"has been silent for {silence_s:.0f} s" if is_silent else "was evicted"
                self._say(f"{member} {why}: the run goes on without it, until it comes back")
            elif rank in self._evicted and not is_told:
                del self._evicted[rank]
                self._say(f"{member} is back")

    def _may_stall(self) -> bool:
        """Whether workers may come to wait for one another, each on another chunk."""
        model = self._shards.model
        by_versions = self._coordinator.rule.bound_unit == VERSIONS
        return by_versions and model is not None and len(model.chunks) > 1

    def _show(self, what: str, value: Any, text: Callable[[Any], str]) -> None:
        """Says `text(value)` if the value is another than when this was called last."""
        if value and self._shown.get(what) != value:
            self._say(text(value))
        self._shown[what] = value


def _coming_back(ranks: Sequence[int]) -> str:
    return f"waiting for {named_workers(ranks)} to come back: what is left to train is theirs alone"
