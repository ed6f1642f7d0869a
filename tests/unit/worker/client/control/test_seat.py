"""The place of a process on its host."""

import subprocess
import sys

from leash.worker.client.control.seat import NOWHERE, take_seat

ADDRESS = "tcp://127.0.0.1:1"
TAKES_AND_DIES = f"""
import os, signal
from leash.worker.client.control.seat import take_seat
print(take_seat({ADDRESS!r}, "here").place, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_processes_of_a_host_take_places_in_turn_and_a_free_one_is_taken_again() -> None:
    seats = [take_seat(ADDRESS, "here") for _ in range(3)]
    assert [seat.place for seat in seats] == ["here/0", "here/1", "here/2"]
    assert len({seat.token for seat in seats}) == 3
    seats[1].leave()
    again = take_seat(ADDRESS, "here")
    assert (again.place, again.token) == (seats[1].place, seats[1].token)
    for seat in (seats[0], again, seats[2]):
        seat.leave()


def test_a_process_that_is_killed_leaves_its_place_to_the_next() -> None:
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", TAKES_AND_DIES], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout) == (-9, "here/0\n"), done.stderr


def test_hosts_and_runs_do_not_share_places() -> None:
    seats = [
        take_seat(ADDRESS, "a"), take_seat(ADDRESS, "b"), take_seat("tcp://127.0.0.1:2", "a")
    ]  # fmt: skip
    assert [seat.place for seat in seats] == ["a/0", "b/0", "a/0"]
    assert len({seat.token for seat in seats}) == 3
    for seat in seats:
        seat.leave()


def test_who_tells_nothing_has_no_place() -> None:
    assert (NOWHERE.place, NOWHERE.token) == ("", "")
    NOWHERE.leave()
