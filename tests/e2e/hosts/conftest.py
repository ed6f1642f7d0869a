"""Three machines that the tests of this folder share."""

from collections.abc import Iterator

import pytest

from e2e.hosts.machines import Machines, why_none


@pytest.fixture(scope="session")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    if (why := why_none()) is not None:
        pytest.skip(f"no machines of their own: {why}")
    with Machines(tmp_path_factory.mktemp("machines")) as machines:
        yield machines
