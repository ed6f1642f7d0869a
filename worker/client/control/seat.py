"""Which process of which machine this is, so that a machine that returns gets its rank back.

Processes of a host take places in turn, ``gpu-3/0``, ``gpu-3/1`` and so on, each for as long as it
lives: it binds a socket of that name, which the kernel lets go whatever ends the process. The name
of the host outlives a reboot. The token is of this boot and this network namespace, so that no two
live processes have the same one, even where two hosts have one name.
"""

import hashlib
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PLACES: Final = 4096  # a host has no more
BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
NETWORK: Final = Path("/proc/self/ns/net")
TOKEN_DIGITS: Final = 32


@dataclass(frozen=True)
class Seat:
    """A place on a host that no other live process has.

    Attributes:
        place: the host's name and a number from 0, such as ``gpu-3/0``.
        token: a text that no two live processes have.
        held: what keeps others away for as long as it is there.
    """

    place: str = ""
    token: str = ""
    held: socket.socket | None = None

    def leave(self) -> None:
        """Lets the place go."""
        if self.held is not None:
            self.held.close()


NOWHERE: Final = Seat()  # of a process that does not tell


def take_seat(address: str, host: str | None = None) -> Seat:
    """Takes the first free place of this host in the run of a server.

    Args:
        address: of the server.
        host: the name of the host; what the system says by default.

    Returns:
        The place; `NOWHERE` on a system that has no such sockets, or if all are taken.
    """
    host = socket.gethostname() if host is None else host
    for number in range(PLACES):
        name = f"{host}/{number}"
        digest = hashlib.sha256(f"{address} {name}".encode()).hexdigest()
        held = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            held.bind(f"\0leash-seat-{digest}")
        except OSError:
            held.close()
        else:
            return Seat(name, _token(name, address), held)
    return NOWHERE


def _token(name: str, address: str) -> str:
    """Names a place on this boot of this machine, as its processes see the network."""
    try:
        where = f"{BOOT_ID.read_text('ascii').strip()} {os.stat(NETWORK).st_ino}"
    except OSError:
        return ""
    return hashlib.sha256(f"{where} {address} {name}".encode()).hexdigest()[:TOKEN_DIGITS]
