"""The all-reduce of `leash bench`, each of whose results a worker compares with a closed form."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from leash.bench.harness.trial import Exchange, Trial
from leash.bench.harness.workload import GRADIENT, LR
from leash.bench.systems import ddp


@contextmanager
def join_checked(trial: Trial, address: str, rank: int) -> Iterator[Exchange]:
    """Joins as `ddp.join` does; an exchange fails unless w -= lr * the gradients' mean.

    All workers have the same gradient, whose mean it is. The next one is the parameters of before.
    """
    gradient, parameters = GRADIENT, 1.0
    with ddp.join(trial, address, rank) as exchange:

        def checked() -> None:
            nonlocal gradient, parameters
            gradient, parameters = parameters, parameters - LR * gradient
            values = exchange().numpy()
            assert values.shape == (trial.nbytes // 4,)
            np.testing.assert_allclose(values, parameters, rtol=1e-6)

        yield checked
