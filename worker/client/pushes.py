"""The pushes of a worker's steps, which under bsp go on with a server that was started again.

Under bsp all workers are in the same step, so that none has to be lost: what has no answer is
pushed again to the new server. Elsewhere the worker hears that the server was started again, and
joins it without that step.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from leash.ps.errors import RestartedError, UsageError
from leash.ps.options.addresses import RANK_MEND
from leash.ps.policy import BSP
from leash.ps.wire.frames import encode
from leash.ps.words import BETWEEN, WAITING
from leash.worker.client.control.membership import Membership
from leash.worker.client.exchange import Exchange
from leash.worker.client.joining import Joining
from leash.worker.client.memory import Slab
from leash.worker.client.remembered import Remembered

TOO_LATE: Final = (
    "the server was started again, and the others have gone on without step {} of this worker"
)


@dataclass(frozen=True, slots=True)
class StepInfo:
    """What happened to one step of a worker, by the replies to its push.

    Attributes:
        step: the number of the push, from 1.
        version: how many updates the model had seen when the replies went out; the most over
            chunks, since one whose slots have no gradient sees none.
        lag: how many steps this worker was ahead of the slowest; the largest over chunks.
        staleness: how many updates by others came between this worker's last pull and this push;
            the largest over chunks.
        wait_s: seconds spent waiting for the replies.
    """

    step: int
    version: int
    lag: int
    staleness: int
    wait_s: float


class Pushes:
    """Pushes the steps of one worker, one after the other."""

    def __init__(
        self, member: Membership, exchange: Exchange, joining: Joining, remembered: Remembered
    ) -> None:
        """Has pushed none.

        Args:
            member: this process's part in the run.
            exchange: its data connections.
            joining: joins a server that was started again.
            remembered: what it tells that.
        """
        self._member: Final = member
        self._exchange: Final = exchange
        self._joining: Final = joining
        self._remembered: Final = remembered
        self._samples = 0  # behind the newest step

    def begin(
        self, gradients: Slab, parameters: Slab, samples: int, absent: Collection[int],
        held: Slab | None,
    ) -> None:  # fmt: skip
        """Opens a step. One that is still open is forgotten.

        Args:
            gradients: a slab; complete from the end on.
            parameters: a slab, overwritten chunk by chunk.
            samples: how many there are behind the gradient.
            absent: numbers of the layout's slots that have no gradient.
            held: a slab with the parameters that this worker has; None for none.

        Raises:
            UsageError: this process is an observer.
            LeashError: what has ended this worker's part.
        """
        self._check()
        member, exchange = self._member, self._exchange
        if not member.rank:
            raise UsageError(f"rank 0 is an observer, which pushes nothing; {RANK_MEND}")
        due = exchange.options.due(member.rank, member.welcome.incarnation)
        engine = exchange.engine
        engine.begin(
            exchange.steps + 1, samples, gradients.data, parameters.data, absent,
            None if held is None else held.data, exchange.options.number,
        )  # fmt: skip
        exchange.steps += 1
        exchange.is_step_open = True
        exchange.answers, self._samples = parameters, samples
        for request, payload in due:
            engine.set_options(request.number, encode(request), payload)

    def advance(self, first_ready: int) -> None:
        """Sends what may go, and takes the answers that have come. Never waits.

        Args:
            first_ready: the gradients of this chunk and all behind it are complete.

        Raises:
            LeashError: what ends this worker's part.
        """
        self._ready(first_ready)
        if self._exchange.repeats:
            return
        try:
            self._exchange.lane.advance()
        except RestartedError:
            if not self._may_repeat:
                raise
            self._exchange.repeats = True  # `finish` sends what is missing

    def finish(self) -> StepInfo:
        """Sends the rest of the open step, and waits for all answers.

        Returns:
            What happened to the step.

        Raises:
            LeashError: what ends this worker's part.
        """
        self._ready(0)
        exchange, doing = self._exchange, self._member.doing
        doing.begin(WAITING)
        wait_s = self._await_answers()
        doing.begin(BETWEEN)
        exchange.options.is_known = True
        exchange.is_step_open = False
        self._remembered.counted.step(self._samples)
        end = exchange.engine.finish()
        return StepInfo(exchange.steps, end.version, end.lag, end.staleness, wait_s)

    def give_up(self) -> None:
        """Gives up the open step, if there is one, which is not pushed again."""
        exchange, remembered = self._exchange, self._remembered
        exchange.repeats = False
        if exchange.is_step_open:
            remembered.lost, remembered.step = max(remembered.lost, 1), 0
        elif self._is_in_lockstep and not remembered.step:
            remembered.step = exchange.steps + 1

    def _ready(self, first_ready: int) -> None:
        """Lets the chunks go that have become ready, each to its shard."""
        assert self._exchange.is_step_open, "begin_step comes first"
        try:
            self._exchange.engine.ready(first_ready)
        except ValueError as error:
            raise UsageError(str(error)) from error

    # A server that was started again.

    @property
    def _may_repeat(self) -> bool:
        """Whether steps without an answer may be pushed again to a server that was started again.

        Under other policies than bsp, what another worker has offered may contain them.
        """
        return self._remembered.is_kept and self._is_in_lockstep

    @property
    def _is_in_lockstep(self) -> bool:
        policy = self._member.welcome.settings.get("policy")
        return self._exchange.has_pulled and policy == BSP.name

    def _check(self) -> None:
        """Raises what ends this worker's part; but where no step is lost by it, it joins again."""
        try:
            self._member.check()
        except RestartedError:
            if not self._may_repeat:
                raise
            self._go_on_elsewhere(self._exchange.steps + 1, is_open=False)

    def _await_answers(self) -> float:
        """Sends the rest of the open step, and waits for all answers; returns how long it took."""
        exchange = self._exchange
        while True:
            if exchange.repeats:
                self._go_on_elsewhere(exchange.steps, is_open=True)
            try:
                return exchange.lane.finish()
            except RestartedError:
                if not self._may_repeat:
                    raise
                exchange.repeats = True

    def _go_on_elsewhere(self, step: int, *, is_open: bool) -> None:
        """Joins a server that was started again, and goes on there as if it were the same one.

        Args:
            step: the one that is open, or the next one.
            is_open: whether it is; then what has no answer is pushed again.

        Raises:
            RestartedError: the others have gone on without it.
        """
        member, exchange, remembered = self._member, self._exchange, self._remembered
        engine, firsts = exchange.engine, member.welcome.first_chunks
        encoding = exchange.encoding
        remembered.lost = min(1, engine.settle_written())
        remembered.step, remembered.begun = step, is_open
        exchange.repeats = True  # whose samples count once the new server has answered it
        try:
            self._joining.rejoin()
        finally:
            exchange.repeats = False
        welcome = member.welcome
        is_same = welcome.first_chunks == firsts and exchange.encoding is encoding
        if not exchange.is_in_step or not is_same:
            raise RestartedError(TOO_LATE.format(step))
        exchange.go_on(engine, step if is_open else None)
        remembered.has_now(welcome.generation)
