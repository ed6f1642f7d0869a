"""`leash set`: gives a run that goes on another policy."""

from leash.ps.errors import HeaderError, NotAllowedError, ServerUnreachableError, UsageError
from leash.ps.options.addresses import address_of
from leash.ps.options.commands import SetOptions
from leash.ps.policy import MAY_STALL, VERSIONS, message_fields
from leash.ps.wire.control import ControlChannel
from leash.ps.wire.keys import key_for
from leash.ps.wire.messages import Ok, Set


def run(options: SetOptions) -> int:
    """Sends the new rule to the server, and returns when every shard goes by it.

    Raises:
        UsageError: no server answers at this address, or the run cannot go by this rule.
    """
    rule = options.rule
    address = address_of(options.server, options.ps_ip, options.ps_port)
    with ControlChannel(address, key=key_for(options.key)) as channel:
        try:
            channel.request(Set(*message_fields(rule)), Ok, timeout_s=options.wait_s)
        except (ServerUnreachableError, HeaderError, NotAllowedError) as error:
            raise UsageError(str(error)) from error
    print(f"the run goes by {rule} now")
    if rule.bound_unit == VERSIONS:
        print(MAY_STALL)
    return 0
