"""`leash status`: asks a server how its run stands."""

import json
import threading
import time
from typing import Final

from rich.console import Console
from rich.text import Text

from leash.ps.commands.live_screen import Screen, screen_for
from leash.ps.commands.run_table import RunState, plain_numbers, run_table, stacks_of
from leash.ps.errors import ServerUnreachableError, UsageError
from leash.ps.options.addresses import address_of
from leash.ps.options.commands import StatusOptions
from leash.ps.wire.control import ControlChannel, request_state
from leash.ps.wire.keys import key_for
from leash.ps.words import TAKES_PART

WATCH_S: Final = 0.5
STACKS_S: Final = 8.0  # a worker tells its stack with one of its next beats


def run(options: StatusOptions) -> int:
    """Prints a table, or JSON, once or until the run ends."""
    address = address_of(options.server, options.ps_ip, options.ps_port)
    console = Console()
    with ControlChannel(address, key=key_for(options.key)) as channel:
        state = _first_state(channel, options.wait_s, stacks=options.stacks)
        if options.stacks:
            state = _with_stacks(channel, options.wait_s, state)
        if options.watch:
            with screen_for(console) as screen:
                _watch(channel, options.wait_s, state, screen)
        elif options.json:
            print(json.dumps(plain_numbers(state), indent=1))
        else:
            console.print(run_table(state))
        if options.stacks and not options.json:
            for stack in stacks_of(state):
                console.print(Text(stack), soft_wrap=True)
    return 0


def _first_state(channel: ControlChannel, wait_s: float, *, stacks: bool) -> RunState:
    """Asks for the state; raises UsageError if nobody answers, since the address must be wrong."""
    try:
        return request_state(channel, wait_s, stacks=stacks)
    except ServerUnreachableError as error:
        raise UsageError(str(error)) from error


def _watch(channel: ControlChannel, wait_s: float, state: RunState, screen: Screen) -> None:
    """Shows the state twice a second, until the run is over or the server has gone."""
    pause = threading.Event()
    screen.show(state)
    while not state["finished"]:
        pause.wait(WATCH_S)
        try:
            state = request_state(channel, wait_s)
        except ServerUnreachableError:
            screen.say("the server has ended")
            return
        screen.show(state)


def _with_stacks(channel: ControlChannel, wait_s: float, state: RunState) -> RunState:
    """Asks again until each live worker has told its stack since, or for `STACKS_S` seconds."""
    began_s, pause = time.monotonic(), threading.Event()
    while (since_s := time.monotonic() - began_s) < STACKS_S:
        tellers = [row for row in state["table"] if row["state"] in TAKES_PART and row["phase"]]
        if all(row.get("stack") and row["stack_s"] <= since_s for row in tellers):
            break
        pause.wait(WATCH_S)
        state = request_state(channel, wait_s, stacks=True)
    return state
