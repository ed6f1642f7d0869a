"""Takes for each chunk of a shard the newest parameters that any worker was answered with.

A server that was started again has the values of a checkpoint. Its workers may have newer ones.
Which are newer their versions tell, within one generation; those of a later generation always are,
since it began with the newest of the one before.
"""

from typing import Final

from leash.ps.wire.messages import Offer


class Healing:
    """Knows of each chunk how new its values are. For one thread."""

    def __init__(self, generation: int) -> None:
        """Begins with the values that the shard has.

        Args:
            generation: of the server that had them; 0 if nobody knows, or there are none.
        """
        self._generation: Final = generation
        self._taken: Final[dict[int, Offer]] = {}  # the newest of each chunk

    def is_newer(self, offer: Offer, version: int) -> bool:
        """Whether an offer is newer than what the shard has.

        Args:
            offer: of a worker.
            version: of the chunk that it is about, as it is now.
        """
        before = self._taken.get(offer.chunk)
        generation = self._generation if before is None else before.generation
        return (offer.generation, offer.version) > (generation, version)

    def take(self, offer: Offer) -> None:
        """Notes that the shard has these values from now on."""
        self._taken[offer.chunk] = offer

    def step_of(self, chunk: int) -> int:
        """The step whose answer a chunk's values are; 0 if that is not known."""
        return self._taken[chunk].step if chunk in self._taken else 0

    @property
    def chunks(self) -> int:
        """How many chunks have got other values."""
        return len(self._taken)
