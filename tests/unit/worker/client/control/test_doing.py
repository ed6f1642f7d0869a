"""What a training thread is doing, told by another."""

import threading

from leash.ps.wire.messages import STACK_MAX_NBYTES
from leash.ps.words import BACKWARD, BETWEEN, STEP
from leash.worker.client.control.doing import Doing


def test_a_phase_lasts_until_another_begins() -> None:
    now = [10.0]
    doing = Doing(lambda: now[0])
    now[0] = 12.0
    assert doing.told() == (BETWEEN, 2.0)
    doing.begin(BACKWARD)
    now[0] = 15.0
    doing.begin(BACKWARD)  # goes on
    assert doing.told() == (BACKWARD, 3.0)
    doing.begin(STEP)
    assert doing.told() == (STEP, 0.0)


def test_the_stack_is_that_of_the_thread_that_trains_whoever_asks() -> None:
    doing = Doing()
    stacks: list[bytes] = []
    asking = threading.Thread(target=lambda: stacks.append(doing.stack()))
    asking.start()
    asking.join(10)
    assert b"test_doing.py" in stacks[0]
    assert b"target=lambda" not in stacks[0]


def test_of_a_long_stack_the_newest_calls_are_told() -> None:
    doing = Doing()
    # Python folds calls that repeat; two lines of source in turn do not.
    stack = deeper(300, doing)
    assert STACK_MAX_NBYTES - 8 <= len(stack) <= STACK_MAX_NBYTES
    assert stack.decode().rstrip().endswith("faulthandler.dump_traceback(file, all_threads=True)")


def deeper(calls: int, doing: Doing) -> bytes:
    return doing.stack() if calls == 0 else deepest(calls - 1, doing)


def deepest(calls: int, doing: Doing) -> bytes:
    return deeper(calls, doing)


def test_a_thread_that_has_ended_has_no_stack() -> None:
    made: list[Doing] = []
    thread = threading.Thread(target=lambda: made.append(Doing()))
    thread.start()
    thread.join(10)
    assert made[0].stack() == b""
