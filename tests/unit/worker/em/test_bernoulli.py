"""Bernoulli mixtures against the formulas of Bishop 2006, section 9.3.3, written out naively."""

from itertools import product
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from leash.worker.em import BernoulliMixture

Array = NDArray[np.float64]


def coins(n: int = 400) -> Array:
    """Two kinds of samples of six zeros or ones."""
    rng = np.random.default_rng(5)
    means = np.array([[0.9, 0.8, 0.7, 0.2, 0.1, 0.3], [0.1, 0.3, 0.2, 0.9, 0.6, 0.8]])
    ones: Array = (rng.random((n, 6)) < means[rng.integers(0, 2, n)]).astype(float)
    return ones


def naive_joint(samples: Array, weights: Array, means: Array) -> Array:
    """p(x, k) = π_k Π_i μ_ki^x_i (1 - μ_ki)^(1 - x_i), equation 9.47."""
    joint = np.empty((len(samples), len(weights)))
    for n, k in product(range(len(samples)), range(len(weights))):
        joint[n, k] = weights[k] * np.prod(
            [m if x else 1 - m for x, m in zip(samples[n], means[k], strict=True)]
        )
    return joint


def naive_em(samples: Array, weights: Array, means: Array, iterations: int) -> tuple[Any, ...]:
    bounds = []
    for _ in range(iterations):
        joint = naive_joint(samples, weights, means)
        bounds.append(np.log(joint.sum(1)).mean())
        shares = joint / joint.sum(1, keepdims=True)
        counts = shares.sum(0)
        weights, means = counts / len(samples), shares.T @ samples / counts[:, None]
    return weights, means, bounds


def test_each_iteration_is_the_textbooks() -> None:
    samples = coins()
    weights, means = np.array([0.3, 0.7]), np.random.default_rng(1).uniform(0.2, 0.8, (2, 6))
    expected_weights, expected_means, bounds = naive_em(samples, weights, means, 25)
    ours = BernoulliMixture(
        2, smoothing=0.0, tol=0.0, max_iter=25, weights_init=weights, means_init=means
    )
    with pytest.warns(UserWarning, match="has not converged"):
        ours.fit(samples)
    np.testing.assert_allclose(ours.lower_bounds_, bounds, rtol=1e-12)
    np.testing.assert_allclose(ours.weights_, expected_weights, rtol=1e-10)
    np.testing.assert_allclose(ours.means_, expected_means, rtol=1e-10)
    joint = naive_joint(samples, ours.weights_, ours.means_)
    np.testing.assert_allclose(ours.score_samples(samples), np.log(joint.sum(1)), rtol=1e-12)
    np.testing.assert_allclose(
        ours.predict_proba(samples), joint / joint.sum(1, keepdims=True), atol=1e-12
    )
    free = 2 * 6 + 1
    log_likelihood = np.log(joint.sum(1)).sum()
    assert ours.bic(samples) == pytest.approx(-2 * log_likelihood + free * np.log(400))
    assert ours.aic(samples) == pytest.approx(-2 * log_likelihood + 2 * free)


def test_one_component_is_the_frequency_with_the_smoothing_added() -> None:
    samples = coins()
    ours = BernoulliMixture(1, smoothing=2.0).fit(samples)
    np.testing.assert_allclose(ours.means_[0], (samples.sum(0) + 2) / (len(samples) + 4))


@pytest.mark.parametrize("smoothing", [0.0, 1.0])
def test_what_was_never_seen_is_unlikely_but_not_impossible(smoothing: float) -> None:
    samples = np.zeros((50, 3))
    ours = BernoulliMixture(1, smoothing=smoothing).fit(samples)
    score = ours.score_samples(np.ones((1, 3)))
    assert np.isfinite(score).all()
    assert (score < -10).all()


def test_bytes_and_floats_give_the_same() -> None:
    samples = coins()
    of_floats = BernoulliMixture(3, random_state=1).fit(samples)
    of_bytes = BernoulliMixture(3, random_state=1).fit(samples.astype(np.uint8))
    assert of_bytes.lower_bound_ == pytest.approx(of_floats.lower_bound_, rel=1e-12)


def test_samples_that_it_makes_are_zeros_and_ones_in_its_proportions() -> None:
    ours = BernoulliMixture(2, random_state=1).fit(coins())
    drawn, components = ours.sample(40_000)
    assert set(np.unique(drawn)) == {0.0, 1.0}
    for component in range(2):
        own = drawn[components == component]
        np.testing.assert_allclose(own.mean(0), ours.means_[component], atol=0.02)


def test_a_component_without_samples_stays_what_it_was() -> None:
    means = np.array([[0.5] * 6, [0.2] * 6])
    ours = BernoulliMixture(2, smoothing=0.0, weights_init=[1.0, 0.0], means_init=means, max_iter=1)
    # ln of the weight 0 that was given; and one iteration is no convergence.
    with np.errstate(divide="ignore"), pytest.warns(ConvergenceWarning):
        ours.fit(coins())
    np.testing.assert_allclose(ours.means_[1], 0.2)
    np.testing.assert_allclose(ours.means_[0], coins().mean(0))


@pytest.mark.parametrize(
    ("settings", "samples", "text"),
    [
        ({}, np.full((9, 2), 0.5), "expected samples of zeros and ones"),
        ({"n_components": 10}, np.zeros((9, 2)), "n_components=10: .* got 9"),
        ({"smoothing": -1.0}, np.zeros((9, 2)), "smoothing: expected a number from 0"),
        ({"means_init": [[2.0, 0.5]]}, np.zeros((9, 2)), "means_init: expected probabilities"),
    ],
)
def test_what_cannot_be_is_named(settings: dict[str, Any], samples: Array, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        BernoulliMixture(**settings).fit(samples)
