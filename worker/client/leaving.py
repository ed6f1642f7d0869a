"""How a process leaves a run: the last reports and the bye, for as long as others wait for them."""

import time
from contextlib import suppress
from typing import Final

from leash.ps.errors import EvictedError, LeashError, NotReadyError, RestartedError
from leash.ps.wire.messages import Beaten
from leash.ps.words import DONE, TIMED_OUT
from leash.worker.client.control.liveness import STOP_S
from leash.worker.client.control.membership import Membership
from leash.worker.client.exchange import Exchange
from leash.worker.client.joining import Joining
from leash.worker.client.remembered import Remembered

# Who has come to the end of its work tells so as long as it is patient: others wait for that.
AT_THE_END: Final = (DONE, TIMED_OUT)


def take_leave(
    reason: str, member: Membership, exchange: Exchange, joining: Joining, remembered: Remembered
) -> None:
    """Tells the last reports and says bye, also to a server that was started again meanwhile.

    Args:
        reason: "done", "timeout", "stopped" or "failed".
        member: this process's part in the run.
        exchange: its data connections, which it closes.
        joining: joins a server that was started again.
        remembered: what it offers to that.
    """
    failure = member.liveness.failure
    goes_on = failure is None or isinstance(failure, EvictedError)
    is_patient = reason in AT_THE_END and goes_on
    if is_patient:
        joining.remember()
    exchange.close()
    until_s = time.monotonic() + (member.patience_s if is_patient else STOP_S)
    member.tell_the_last(until_s)
    if not is_patient:
        until_s = time.monotonic()
    with suppress(LeashError):  # it needs no bye from who has no part in the run any more
        member.say_bye(reason, until_s)
        while isinstance(member.session.error, RestartedError) and time.monotonic() < until_s:
            _go_back(until_s, joining, remembered)
            member.say_bye(reason, until_s)


def _go_back(until_s: float, joining: Joining, remembered: Remembered) -> None:
    """Joins a server that was started again before it had this worker's bye.

    It waits for all who took part, and may have older values than this worker.
    """

    def look(_: Beaten | None) -> None:
        if time.monotonic() >= until_s:
            raise NotReadyError("the server waits for others")

    joining.join_over_new_connection()
    with suppress(EvictedError):  # it was started once more
        joining.await_values(remembered.values, look)
    joining.part()
