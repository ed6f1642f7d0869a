from collections.abc import Iterator

import pytest
import torch

from oracle.run import ENDS


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """The models are small: a second thread would cost more than it helps."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
    for end in ENDS:
        end.result()  # every server has ended as it should
    ENDS.clear()
