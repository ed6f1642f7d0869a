"""What a server says when it begins: where it goes on, where it listens, how a worker joins it."""

import shlex
from collections.abc import Sequence
from typing import Final

from leash.ps.options.addresses import AUTO_RANK
from leash.ps.options.base import flag
from leash.ps.options.catalog import is_reference
from leash.ps.options.server import ServerOptions
from leash.ps.policy import BSP, Rule
from leash.ps.runs.checkpoint import Earlier
from leash.ps.wire import hosts
from leash.ps.words import GOES_ON_FROM, NOT_BITWISE, in_epoch_after

_EVERYWHERE: Final = "tcp://0.0.0.0"


def how_to_join(options: ServerOptions, ranks: Sequence[int], host: str, port: int) -> list[str]:
    """Writes the lines that say what to type on another machine.

    Args:
        options: what the server was started with.
        ranks: of the workers that the run expects.
        host: where the server listens.
        port: of its control socket.
    """
    if hosts.is_loopback(host):
        line = f"start a worker on this machine with: {_words(options, ranks, host, port)}"
        safely = "" if options.keys is not None else ", with --keys DIR or --insecure"
        return [
            line,
            f"workers on other machines need a server at --bind {_EVERYWHERE}:{port}{safely}",
        ]
    found = hosts.own_hosts(ipv6=host == hosts.EVERY_IPV6) if hosts.is_every(host) else [host]
    if not found:
        return ["this machine has no address that another one could reach"]
    line = f"start a worker elsewhere with: {_words(options, ranks, found[0], port)}"
    others = " or ".join(f"tcp://{other}:{port}" for other in found[1:])
    return [line, *([f"where that address cannot be reached, take {others}"] if others else [])]


def how_they_come_and_go(options: ServerOptions, rule: Rule) -> list[str]:
    """Writes the lines that say what it means that workers join and leave; none if they do not.

    Args:
        options: what the server was started with.
        rule: of the run.
    """
    if options.max_workers is None:
        return []
    lines = [f"begins with {options.workers} workers, and takes up to {options.max_workers} at any "
             "time; samples are leased"]  # fmt: skip
    if rule.policy.average:
        lines.append("an update is the mean over whoever is in, so the run is not bitwise "
                     "repeatable")  # fmt: skip
    return lines


def how_it_goes_on(
    earlier: Earlier, rule: Rule, ranks: Sequence[int], planned_epochs: int | None
) -> list[str]:
    """Writes the lines that say where a run goes on, and what is not as if it had never ended.

    Args:
        earlier: what the checkpoint tells.
        rule: of the run that goes on; under bsp people expect it to be bitwise the same.
        ranks: of its workers.
        planned_epochs: how many it has in all.
    """
    position, at = earlier.position, f"{GOES_ON_FROM} {earlier.path}, version {earlier.version}"
    if position is None:
        return [f"{at}: a file of format 1 tells no position, so training begins with epoch 1"]
    if position.shares or position.leases:
        at += in_epoch_after(position.epoch, planned_epochs)
    lines = [f"{at}, after step {earlier.step}"]
    reasons = [f"begun anew: {what}" for what in position.anew]
    if position.shares and position.shares.keys() != set(ranks):
        reasons.append("it had other workers")
    if position.leases and len(ranks) > 1:
        reasons.append("samples are leased as workers ask for them")
    if not earlier.is_between_steps:
        reasons.append("it was written in the midst of a step")
    if rule.policy is BSP and reasons:
        lines.append(f"{NOT_BITWISE}: {'; '.join(reasons)}")
    return lines


def _words(options: ServerOptions, ranks: Sequence[int], host: str, port: int) -> str:
    """The command line of the first worker, and the ranks of the others."""
    rank = str(ranks[0]) if options.max_workers is None else AUTO_RANK
    words = ["leash", "worker", "--server", f"tcp://{host}:{port}", "--rank", rank]
    if options.keys is not None:
        words += ["--key", "FILE"]
    task = {name: getattr(options, name) for name in ("model", "dataset")}
    if not any(task.values()):
        words += ["--dataset", "NAME"]
    elif any(map(is_reference, task.values())):
        words += [word for name, value in task.items() for word in (flag(name), value)]
    if options.data_dir is not None:
        words += ["--data-dir", "DIR"]
    return shlex.join(words) + (_others(ranks) if options.max_workers is None else "")


def _others(ranks: Sequence[int]) -> str:
    if len(ranks) == 1:
        return ""
    is_row = list(ranks) == list(range(ranks[0], ranks[0] + len(ranks)))
    others = f"up to {ranks[-1]}" if is_row else "-".join(map(str, ranks[1:]))
    return f" (and the other ranks, {others})"
