"""The options of the machines on which a run in virtual time trains."""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from leash.ps.errors import UsageError
from leash.ps.options.base import Options, check_not_negative, check_positive, flag, option
from leash.ps.options.launch import LaunchOptions
from leash.ps.slowness.by_rank import parse_slow

LATENCY_S: Final = "0.0001"
SERVER_US: Final = 200.0
# An option of a launch that has no sense in virtual time ▸ why.
REAL: Final = {
    "script": "a script of your own runs in real time",
    "resume": "a run in virtual time begins at its beginning",
    "demo_logs": "these logs tell real time",
    "report": "leash experiment makes one of all runs",
    "keys": "nothing travels in virtual time",
    "state_fd": "it tells of real time",
    "log": "the trackers' curves are of real time",
}


@dataclass(frozen=True, kw_only=True)
class MachinesGroup(Options):
    """The options of the machines and the network in virtual time."""

    title: ClassVar[str] = "machines in virtual time (seconds, written as --slow is)"

    compute: str | None = option(
        None, "what a batch takes by itself; default: what this machine needs, measured once",
        metavar="SECONDS,...",
    )  # fmt: skip
    network: str = option(LATENCY_S, "what a message takes, one way", metavar="SECONDS,...")
    bandwidth_gbit: float = option(10.0, "of the server's link, each way", metavar="GBIT/S")
    server_us: float = option(
        SERVER_US, "what the server works on a push of the whole model", metavar="MICROSECONDS"
    )

    def check(self) -> None:
        super().check()
        check_positive(self, "bandwidth_gbit")
        check_not_negative(self, "server_us")

    def settings(self) -> dict[str, Any]:
        """The values of these options alone, by name."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(MachinesGroup)}


@dataclass(frozen=True)
class VirtualLaunch:
    """A launch in virtual time: what to train and how, and on which machines."""

    options: LaunchOptions
    machines: MachinesGroup

    def check(self) -> None:
        """Refuses what a run in virtual time cannot have.

        Raises:
            UsageError: names the option, and the mend.
        """
        options, machines = self.options, self.machines
        for name, why in REAL.items():
            if getattr(options, name):
                raise UsageError(f"{flag(name)}: {why}; leave out {flag(name)}, or --virtual")
        if options.shards > 1:
            raise UsageError(f"--shards {options.shards}: the server of a run in virtual time is "
                             "one process; leave it out")  # fmt: skip
        if options.device != "cpu":
            raise UsageError(f"--device {options.device}: a run in virtual time computes on the "
                             "processor; take cpu, and say what a GPU needs with "
                             "--compute")  # fmt: skip
        if options.transport == "shm":
            raise UsageError("--transport shm: machines in virtual time share no memory; take auto")
        parse_slow(machines.network, options.most_started, "--network")
        if machines.compute is not None:
            parse_slow(machines.compute, options.most_started, "--compute")


def refuse_machines(options: MachinesGroup) -> None:
    """Refuses options of machines in virtual time where the time is real.

    Raises:
        UsageError: names the first that was given.
    """
    for field in dataclasses.fields(MachinesGroup):
        if getattr(options, field.name) != field.default:
            raise UsageError(
                f"{flag(field.name)}: says how machines in virtual time are; add --virtual"
            )
