"""What is counted of one worker: its steps, how far it is in its share, how it spends its time."""

import math
from dataclasses import dataclass, field

from leash.ps.runs.position import SharePosition


@dataclass(slots=True)
class WorkerCounts:
    """The counts of one rank, over all of its incarnations."""

    steps: int = 0
    samples: int = 0
    answered: int = 0  # samples whose step was answered
    unanswered: int = 0  # samples of a step that waits for its answer
    epoch: int = 0  # how many it has completed
    planned_epochs: int = 0  # how many it is to train for, on a share of its own; 0 if it has none
    share: int = 0  # samples in an epoch of that share
    completed: set[int] = field(default_factory=set)  # the epochs of it that are complete
    joined_answered: int = 0  # `answered` when its newest incarnation joined
    epoch_answered: int = 0  # what `answered` was when the epoch began that it is in
    lag: int = 0  # in its newest reply
    loss: float | None = None
    compute_s: float = 0.0  # what this incarnation has reported
    wait_s: float = 0.0  # likewise
    earlier_compute_s: float = 0.0  # what the incarnations before it have reported
    earlier_wait_s: float = 0.0  # likewise
    pushed_s: float = 0.0  # when its newest push arrived
    first_reply_s: float | None = None  # when its first answer went out
    replied_s: float = 0.0  # when its newest did
    parked_s: float = 0.0  # from pushes to their answers, but for the first
    samples_per_s: float = 0.0
    mark_s: float = 0.0  # when samples_per_s was last worked out
    mark_samples: int = 0  # how many samples there were then
    told_s: float = -math.inf  # when one of its reports last became an event

    @property
    def spent_s(self) -> tuple[float, float]:
        """The seconds that it has waited and computed: as it reports, or as the server saw it."""
        wait_s = self.earlier_wait_s + self.wait_s
        compute_s = self.earlier_compute_s + self.compute_s
        if wait_s + compute_s > 0 or self.first_reply_s is None:
            return wait_s, compute_s
        return self.parked_s, self.replied_s - self.first_reply_s - self.parked_s

    def answer(self, now_s: float) -> None:
        """Notes that its newest push is answered."""
        if self.first_reply_s is None:
            self.first_reply_s = now_s
        else:
            self.parked_s += now_s - self.pushed_s
        self.replied_s = now_s

    def begin_again(self) -> None:
        """Begins with a new incarnation, which counts its seconds from 0.

        Its predecessor gets no answers any more.
        """
        self.earlier_compute_s += self.compute_s
        self.earlier_wait_s += self.wait_s
        self.compute_s = self.wait_s = 0.0
        self.unanswered = 0
        self.joined_answered = self.answered
        self.complete_answered()

    def complete_answered(self) -> None:
        """Counts the epochs whose samples are answered: it may have gone before it could report."""
        while self.share and self.answered - self.epoch_answered >= self.share:
            self.complete(self.epoch + 1)

    def plan(self, epochs: int, share: int) -> None:
        """Notes what a new process of this rank is to train on.

        It goes on where its predecessor was, or with a whole epoch if its share is another.
        """
        if share != self.share:
            self.epoch_answered = self.joined_answered
        self.planned_epochs, self.share = epochs, share

    def go_on(self, position: SharePosition) -> None:
        """Goes on where this rank was in an earlier run."""
        self.epoch, self.share = position.epochs, position.share
        self.completed = set(range(1, self.epoch + 1))
        self.epoch_answered = self.answered - position.samples

    def complete(self, epoch: int) -> None:
        """Notes that this rank has completed an epoch."""
        self.epoch = max(self.epoch, epoch)
        if epoch not in self.completed:
            self.completed.add(epoch)
            self.epoch_answered += self.share

    @property
    def position(self) -> SharePosition:
        """How far it is in its share, by the samples that were answered."""
        samples, epochs = max(0, self.answered - self.epoch_answered), self.epoch
        if self.share:  # the report of an epoch comes later than its last answer goes out
            epochs, samples = epochs + samples // self.share, samples % self.share
        return SharePosition(epochs, samples, self.share)

    @property
    def epochs_left(self) -> list[int]:
        """The epochs of its share that it has not completed."""
        return [e for e in range(1, self.planned_epochs + 1) if e not in self.completed]

    @property
    def samples_left(self) -> int:
        """The samples of `epochs_left`, less those answered of the epoch that it is in."""
        answered = min(max(0, self.answered - self.epoch_answered), self.share)
        return max(0, self.share * len(self.epochs_left) - answered)
