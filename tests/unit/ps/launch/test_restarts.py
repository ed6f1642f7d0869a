import pytest

from leash.ps.launch.restarts import Restarts, has_crashed


@pytest.mark.parametrize(
    ("status", "ended"),
    [
        (-9, None), (-11, None), (-6, None), (-64, None),  # SIGKILL, SIGSEGV, SIGABRT, of real time
        (-9, "SIGINT"),  # what an earlier server of the run has left
        (-9, "incomplete"),
        (1, None), (120, None),  # a failure
        (1, "failed"),  # a traceback, after which it still wrote what it could
    ],
)  # fmt: skip
def test_a_server_has_crashed_that_nobody_ended(status: int, ended: str | None) -> None:
    assert has_crashed(status, ended)


@pytest.mark.parametrize(
    ("status", "ended"),
    [
        (0, "done"), (0, "timeout"), (0, None),
        (2, None),  # a wrong argument
        (1, "incomplete"), (1, "all workers are gone"),
        (1, "shard 1 (process 7) was lost: killed by SIGKILL"),  # as its workers were told
        (130, "SIGINT"), (143, "SIGTERM"), (129, "SIGHUP"), (143, None), (-15, None), (-2, None),
        (-11, "done"),  # all is written
    ],
)  # fmt: skip
def test_one_that_was_asked_to_end_or_has_ended_its_run_has_not(
    status: int, ended: str | None
) -> None:
    assert not has_crashed(status, ended)


def test_each_restart_is_counted_and_told_with_its_reason() -> None:
    restarts = Restarts(2)
    assert restarts.is_due(-9, None)
    assert restarts.note(-9, "") == "the server was killed (SIGKILL); started again, 1 of 2"
    assert restarts.is_due(1, None)
    assert (
        restarts.note(1, "KeyError: 3") == "the server failed: KeyError: 3; started again, 2 of 2"
    )
    assert not restarts.is_due(-9, None)


def test_without_restarts_none_is_due() -> None:
    assert not Restarts(0).is_due(-9, None)
