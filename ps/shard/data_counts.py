"""The counts of a shard's data socket, and their sums over all shards."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from leash.ps._core import Reply


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
    refusals: Counter[str] = field(default_factory=Counter)  # error code ▸ how many

    def count_reply(self, reply: Reply) -> None:
        """Counts the answer to a push."""
        self.replies += 1
        self.max_lag = max(self.max_lag, reply.lag)
        if reply.dropped:
            self.dropped += 1
            return
        self.staleness_sum += reply.staleness
        self.max_staleness = max(self.max_staleness, reply.staleness)

    @property
    def mean_staleness(self) -> float:
        """The mean over the pushes that were applied."""
        return self.staleness_sum / max(1, self.replies - self.dropped)


def together(parts: Iterable[DataCounts]) -> DataCounts:
    """Adds up the counts of all shards."""
    total = DataCounts()
    for part in parts:
        total.replies += part.replies
        total.staleness_sum += part.staleness_sum
        total.max_staleness = max(total.max_staleness, part.max_staleness)
        total.max_lag = max(total.max_lag, part.max_lag)
        total.duplicates += part.duplicates
        total.nonfinite_chunks += part.nonfinite_chunks
        total.bytes_pushed += part.bytes_pushed
        total.bytes_answered += part.bytes_answered
        total.dropped += part.dropped
        total.refusals += part.refusals
    return total
