import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

from leash.ps.interrupt import SIGNALS
from support.processes import OWNER

# A test has a time limit; a single example on a busy machine has none.
settings.register_profile("leash", deadline=None)
settings.load_profile("leash")

# What a test leaves behind is told from what others do on this machine, and other workers of xdist.
os.environ[OWNER] = str(os.getpid())

# A shell has what it starts in the background ignore Ctrl-C, and so would all that tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--torture", action="store_true",
        help="every habit of tests/oracle with every setting, instead of pairwise combinations; "
        "and long hauls to their end",
    )  # fmt: skip
    parser.addoption(
        "--packages", help="the folder of the sdist and the wheel that tests/packages tries"
    )


@pytest.fixture(scope="session")
def torture(request: pytest.FixtureRequest) -> bool:
    """Whether a test is to go on for as long as it takes, instead of a short share of it."""
    return bool(request.config.getoption("--torture"))


@pytest.fixture(autouse=True)
def no_handler_of_a_signal_is_left() -> Iterator[None]:
    """What a test does about signals ends with it: later ones in its process send some too."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    after = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        signal.signal(number, handler)
    assert after == before
