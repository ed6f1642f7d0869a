"""`leash stop`: ends a run that goes on, with its last checkpoint and its summary."""

from leash.ps.errors import HeaderError, NotAllowedError, ServerUnreachableError, UsageError
from leash.ps.options.addresses import address_of
from leash.ps.options.commands import StopOptions
from leash.ps.wire.control import ControlChannel
from leash.ps.wire.keys import key_for
from leash.ps.wire.messages import Ok, Stop


def run(options: StopOptions) -> int:
    """Asks the server for the end of its run, and returns once it is about to end.

    Raises:
        UsageError: no server answers at this address, or it does not take this key.
    """
    address = address_of(options.server, options.ps_ip, options.ps_port)
    with ControlChannel(address, key=key_for(options.key)) as channel:
        try:
            channel.request(Stop(options.reason), Ok, timeout_s=options.wait_s)
        except (ServerUnreachableError, HeaderError, NotAllowedError) as error:
            raise UsageError(str(error)) from error
    print("the run is ending: the server writes its last checkpoint and its summary")
    return 0
