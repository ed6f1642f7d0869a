"""A share of the seeds; `python -m tests.simulation` runs more, and shrinks what fails."""

import pytest

from simulation.cluster import simulate

SEEDS = 2000
PORTION = 50
WITHOUT_FAULTS = 300


@pytest.mark.parametrize("first", range(0, SEEDS, PORTION))
def test_whatever_goes_wrong_no_invariant_breaks(first: int) -> None:
    for seed in range(first, first + PORTION):
        outcome = simulate(seed)
        assert not outcome.violation, f"python -m tests.simulation --seed {seed}"


@pytest.mark.parametrize("first", range(SEEDS, SEEDS + WITHOUT_FAULTS, PORTION))
def test_where_nothing_goes_wrong_every_sample_is_used_once_and_the_run_is_done(first: int) -> None:
    for seed in range(first, first + PORTION):
        outcome = simulate(seed, faults=[])
        assert not outcome.violation, f"python -m tests.simulation --seed {seed} --no-faults"
        assert outcome.ended == "done"
