"""Which options the server applies a worker's steps by, and whether it knows them yet."""

from leash.ps.errors import UsageError
from leash.ps.wire.messages import GroupOptions
from leash.ps.wire.options_table import OptionsTable
from leash.ps.wire.sockets import data_max_nbytes


class SentOptions:
    """The table of options that a worker's steps name by its number.

    A table goes to every shard before the first step that goes by it. Only the end of such a step
    proves that every shard has it; a step that was broken off may have taken the table with it.

    Attributes:
        number: of the table by which the next step goes; 0 for the server's own options.
        is_known: whether every shard has that table.
    """

    def __init__(self) -> None:
        self._wanted: OptionsTable | None = None
        self._packed = b""
        self.forget()

    def forget(self) -> None:
        """Begins again with a server that has no table of this worker, which has said hello."""
        self.number = 0
        self.is_known = True
        self._numbered: OptionsTable | None = None

    def want(self, table: OptionsTable, chunk_nbytes: int) -> None:
        """Notes the table by which the next step is to go.

        Args:
            table: options for groups of slots.
            chunk_nbytes: the server's, from which the largest message follows.

        Raises:
            UsageError: the table is larger than that.
        """
        packed = table.pack()
        if len(packed) > data_max_nbytes(chunk_nbytes):
            raise UsageError(
                f"the options of {len(table.groups)} parameter groups take {len(packed)} bytes, "
                f"and a message to this server has at most {data_max_nbytes(chunk_nbytes)}: make "
                "fewer groups, or start the server with a larger --chunk-kib"
            )
        self._wanted, self._packed = table, packed

    def due(self, worker: int, incarnation: int) -> list[tuple[GroupOptions, bytes]]:
        """Gives the message that every shard needs before the next step; none if all have it.

        Args:
            worker: the rank.
            incarnation: of this process, from the answer to its hello.
        """
        if self._wanted is not None and self._wanted != self._numbered:
            self.number += 1
            self._numbered, self.is_known = self._wanted, False
        if self.is_known:
            return []
        return [(GroupOptions(worker, incarnation, self.number), self._packed)]
