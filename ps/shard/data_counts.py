"""The counts of a shard's data socket, and their sums over all shards."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from leash.ps._core import EngineCounts

# Counted beside the codes of errors, of which none is called so.
FAILED_HERE: Final = "failed here"  # failures at other things than messages
CLOSED: Final = "closed"  # connections that cost too much
STRANGERS: Final = "connection"  # connections without a key that is known


@dataclass(slots=True)
class DataCounts:
    """Counts of the messages of one data socket, or of several."""

    replies: int = 0
    staleness_sum: int = 0
    max_staleness: int = 0
    max_lag: int = 0
    duplicates: int = 0
    nonfinite_chunks: int = 0
    bytes_pushed: int = 0  # in payloads, or in segments
    bytes_answered: int = 0
    dropped: int = 0  # replies to pushes that were too stale to be applied
    refusals: Counter[str] = field(default_factory=Counter)  # error code, or below, ▸ how many

    def add(self, other: "DataCounts | EngineCounts") -> None:
        """Adds counts of other messages."""
        self.replies += other.replies
        self.staleness_sum += other.staleness_sum
        self.max_staleness = max(self.max_staleness, other.max_staleness)
        self.max_lag = max(self.max_lag, other.max_lag)
        self.duplicates += other.duplicates
        self.nonfinite_chunks += other.nonfinite_chunks
        self.bytes_pushed += other.bytes_pushed
        self.bytes_answered += other.bytes_answered
        self.dropped += other.dropped
        self.refusals.update(other.refusals)

    @property
    def refused(self) -> int:
        """How many messages were refused."""
        return self.refusals.total() - sum(
            self.refusals[word] for word in (FAILED_HERE, CLOSED, STRANGERS)
        )

    @property
    def mean_staleness(self) -> float:
        """The mean over the pushes that were applied."""
        return self.staleness_sum / max(1, self.replies - self.dropped)


def together(parts: Iterable[DataCounts]) -> DataCounts:
    """Adds up the counts of all shards."""
    total = DataCounts()
    for part in parts:
        total.add(part)
    return total
