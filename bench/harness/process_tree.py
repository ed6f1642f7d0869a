"""The processes of this machine, as /proc tells them: who has started whom."""

import os
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PROC: Final = Path("/proc")


@dataclass(frozen=True, slots=True)
class ProcessStat:
    """What the file `stat` of a process tells."""

    name: str
    parent: int
    waited_ticks: int  # the CPU time of children that have ended, and that it has waited for


def read_processes(proc: Path = PROC) -> dict[int, ProcessStat]:
    """Reads all processes that there are; none where there is no such folder."""
    found: dict[int, ProcessStat] = {}
    for folder in proc.iterdir() if proc.exists() else ():
        if folder.name.isdecimal():
            with suppress(OSError):  # it has ended
                # A name may have spaces and brackets of its own.
                _, _, told = (folder / "stat").read_text().partition("(")
                name, _, rest = told.rpartition(")")
                words = rest.split()
                waited_ticks = int(words[13]) + int(words[14])
                found[int(folder.name)] = ProcessStat(name, int(words[1]), waited_ticks)
    return found


def with_descendants(process: int, among: Mapping[int, ProcessStat]) -> list[int]:
    """This process, and all that it and its descendants have started and that have not ended."""
    children: defaultdict[int, list[int]] = defaultdict(list)
    for other, stat in among.items():
        children[stat.parent].append(other)
    found = [process]
    for each in found:  # which grows meanwhile
        found += children[each]
    return found


def own_processes() -> set[int]:
    """This process, with its descendants."""
    return set(with_descendants(os.getpid(), read_processes()))
