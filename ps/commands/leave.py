"""`leash leave`: tells workers of a run that goes on to end their step and leave."""

import socket

from leash.ps.errors import HeaderError, NotAllowedError, ServerUnreachableError, UsageError
from leash.ps.options.addresses import address_of
from leash.ps.options.commands import DismissOptions
from leash.ps.wire.control import ControlChannel
from leash.ps.wire.keys import key_for
from leash.ps.wire.messages import Dismiss, Dismissed
from leash.ps.words import listed


def run(options: DismissOptions) -> int:
    """Tells the server who is to leave; these hear of it within a second.

    Raises:
        UsageError: no server answers at this address, or there is no such worker.
    """
    address = address_of(options.server, options.ps_ip, options.ps_port)
    host = "" if options.rank is not None else options.host or socket.gethostname()
    with ControlChannel(address, key=key_for(options.key)) as channel:
        try:
            dismissed, _ = channel.request(
                Dismiss(options.rank or 0, host), Dismissed, timeout_s=options.wait_s
            )
        except (ServerUnreachableError, HeaderError, NotAllowedError) as error:
            raise UsageError(str(error)) from error
    if not dismissed.workers:
        whom = f"no worker on {host}" if host else f"no live worker {options.rank}"
        raise UsageError(f"{whom} takes part: see leash status, and give --rank N")
    whom = listed([str(rank) for rank in dismissed.workers])
    print(f"told worker{'s' * (len(dismissed.workers) > 1)} {whom} to leave")
    return 0
