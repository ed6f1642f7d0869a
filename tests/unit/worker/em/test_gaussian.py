"""Gaussian mixtures against scikit-learn's, from the same start."""

import warnings
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.mixture import GaussianMixture as Oracle

from leash.worker.em import GaussianMixture

Array = NDArray[np.float64]
KINDS = ["full", "diag"]
every_kind = pytest.mark.parametrize("kind", KINDS)


def digits(features: int = 12) -> Array:
    """Real samples, off the origin, on scales that differ; no two are alike."""
    pixels, _ = load_digits(return_X_y=True)
    chosen: Array = pixels[:, np.argsort(-pixels.var(0))[:features]]
    chosen += np.random.default_rng(1).normal(0, 0.5, chosen.shape)
    return chosen * np.linspace(0.1, 10, features) + 3.0


def both(kind: str, samples: Array, **settings: Any) -> tuple[GaussianMixture, Any]:
    """Fitted with the same settings; neither need have converged."""
    common = {"covariance_type": kind, "random_state": 3, **settings}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return (
            GaussianMixture(**common).fit(samples),  # type: ignore[return-value]
            Oracle(**common).fit(samples),
        )


@every_kind
@pytest.mark.parametrize("components", [1, 2, 7])
@pytest.mark.parametrize("start", ["kmeans", "k-means++", "random", "random_from_data"])
def test_every_iterations_likelihood_is_scikit_learns(
    kind: str, components: int, start: str
) -> None:
    ours, theirs = both(
        kind, digits(), n_components=components, init_params=start, reg_covar=1e-2, max_iter=30
    )
    # With one sample for each component scikit-learn's first weights have a sum of k / n, not 1.
    first = 0 if start in ("kmeans", "random") else 1
    np.testing.assert_allclose(ours.lower_bounds_[first:], theirs.lower_bounds_[first:], rtol=1e-9)
    assert (ours.n_iter_, ours.converged_) == (theirs.n_iter_, theirs.converged_)


@every_kind
def test_what_a_fit_leaves_is_scikit_learns(kind: str) -> None:
    samples = digits()
    ours, theirs = both(kind, samples, n_components=4)
    for name in ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_"):
        np.testing.assert_allclose(
            getattr(ours, name), getattr(theirs, name), rtol=1e-6, atol=1e-8, err_msg=name
        )
    assert ours.lower_bound_ == pytest.approx(theirs.lower_bound_, rel=1e-9)
    assert ours.score(samples) == pytest.approx(theirs.score(samples), rel=1e-9)
    np.testing.assert_allclose(ours.score_samples(samples), theirs.score_samples(samples), 1e-7)
    np.testing.assert_array_equal(ours.predict(samples), theirs.predict(samples))
    np.testing.assert_allclose(
        ours.predict_proba(samples), theirs.predict_proba(samples), rtol=0, atol=1e-6
    )
    assert ours.bic(samples) == pytest.approx(theirs.bic(samples), rel=1e-9)
    assert ours.aic(samples) == pytest.approx(theirs.aic(samples), rel=1e-9)


@every_kind
def test_a_given_start_is_taken_as_scikit_learn_takes_it(kind: str) -> None:
    samples = digits(5)
    precision = np.diag([0.1, 0.2, 0.3, 0.4, 0.5]) if kind == "full" else np.linspace(0.1, 0.5, 5)
    start = {
        "weights_init": [0.2, 0.3, 0.5], "means_init": samples[:3],
        "precisions_init": np.stack([precision] * 3),
    }  # fmt: skip
    ours, theirs = both(kind, samples, n_components=3, max_iter=20, **start)
    np.testing.assert_allclose(ours.lower_bounds_, theirs.lower_bounds_, rtol=1e-9)


@every_kind
def test_no_iteration_makes_the_samples_less_likely(kind: str) -> None:
    ours, _ = both(kind, digits(), n_components=5, tol=0.0, max_iter=60, reg_covar=0.0)
    assert (np.diff(ours.lower_bounds_) > -1e-9).all()


def test_of_several_starts_the_likeliest_counts() -> None:
    samples = digits(6)
    settings: dict[str, Any] = {"n_components": 6, "init_params": "random_from_data"}
    one, _ = both("diag", samples, **settings)
    many, _ = both("diag", samples, **settings, n_init=6)
    assert many.lower_bound_ > one.lower_bound_


@every_kind
def test_samples_that_it_makes_have_its_moments_and_fit_back(kind: str) -> None:
    ours, _ = both(kind, digits(4), n_components=3)
    drawn, components = ours.sample(60_000)
    assert drawn.shape == (60_000, 4)
    shares = np.bincount(components, minlength=3) / len(components)
    np.testing.assert_allclose(shares, ours.weights_, atol=0.01)
    for component in range(3):
        own = drawn[components == component]
        covariance = ours.covariances_[component]
        expected = covariance if kind == "full" else np.diag(covariance)
        spread = np.sqrt(np.diag(expected))
        assert (np.abs(own.mean(0) - ours.means_[component]) < 0.05 * spread).all()
        np.testing.assert_allclose(
            np.cov(own.T) / np.outer(spread, spread), expected / np.outer(spread, spread), atol=0.05
        )


def test_it_can_be_cloned_and_asked_for_its_settings() -> None:
    copy = clone(GaussianMixture(5, covariance_type="diag", random_state=7))
    assert copy.get_params()["n_components"] == 5
    assert copy.set_params(tol=0.5).tol == 0.5
    with pytest.raises(NotFittedError, match="call fit first"):
        copy.predict(digits())


def test_a_fit_that_has_not_converged_says_so() -> None:
    with pytest.warns(ConvergenceWarning, match="has not converged in 2 iterations"):
        fitted = GaussianMixture(4, max_iter=2, random_state=1).fit(digits())
    assert not fitted.converged_


# Where the numbers are hard.


@every_kind
def test_everything_stays_in_log_space_far_from_all_components(kind: str) -> None:
    ours, theirs = both(kind, digits(), n_components=3)
    far = digits()[:5] + 1e6
    scores = ours.score_samples(far)
    assert np.isfinite(scores).all()
    assert (scores < -1e6).all()
    np.testing.assert_allclose(scores, theirs.score_samples(far), rtol=1e-6)
    np.testing.assert_allclose(ours.predict_proba(far).sum(1), 1)


@every_kind
def test_a_component_without_samples_stays_where_it_was_and_weighs_nothing(kind: str) -> None:
    samples = np.random.default_rng(0).standard_normal((300, 3))
    given = np.array([[0.0, 0, 0], [1e4, 1e4, 1e4]])
    ours = GaussianMixture(
        2, covariance_type=kind, means_init=given, precisions_init=np.stack(
            [np.eye(3) if kind == "full" else np.ones(3)] * 2
        ),
    ).fit(samples)  # fmt: skip
    np.testing.assert_allclose(ours.weights_, [1, 0], atol=1e-12)
    np.testing.assert_allclose(ours.means_[1], given[1])
    np.testing.assert_allclose(ours.means_[0], samples.mean(0), atol=1e-9)
    assert np.isfinite(ours.score(samples))


@every_kind
def test_samples_that_are_all_alike_are_borne_by_the_floor_of_the_covariance(kind: str) -> None:
    ours = GaussianMixture(2, covariance_type=kind, reg_covar=1e-3).fit(np.ones((50, 3)))
    assert np.isfinite(ours.lower_bound_)
    np.testing.assert_allclose(ours.means_, 1)


@every_kind
def test_a_collapsed_component_without_a_floor_is_named(kind: str) -> None:
    samples = np.concatenate([np.zeros((20, 3)), np.random.default_rng(0).normal(9, 1, (20, 3))])
    with pytest.raises(ValueError, match=r"component \d of 2: .* collapsed .* Raise reg_covar"):
        GaussianMixture(2, covariance_type=kind, reg_covar=0.0, random_state=0).fit(samples)


def test_a_singular_covariance_is_named() -> None:
    samples = np.random.default_rng(0).standard_normal((100, 2))[:, [0, 1, 1]]  # a column twice
    with pytest.raises(ValueError, match="component 1 of 1: its covariance is not positive"):
        GaussianMixture(1, reg_covar=0.0).fit(samples)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"n_components": 21}, "n_components=21: expected at least as many samples, got 20"),
        ({"n_components": 0}, "n_components: expected a whole number from 1, got 0"),
        ({"max_iter": 0}, "max_iter: expected a whole number from 1"),
        ({"tol": -1.0}, "tol: expected a number from 0"),
        ({"reg_covar": -1.0}, "reg_covar: expected a number from 0"),
        ({"covariance_type": "tied"}, "covariance_type: expected full or diag, got tied"),
        ({"init_params": "best"}, "init_params: expected one of kmeans, .*got 'best'"),
        ({"weights_init": [2.0]}, "weights_init: expected numbers from 0 whose sum is 1"),
        ({"means_init": [[1.0]]}, r"means_init: .* shape \(1, 3\), got \(1, 1\)"),
    ],
)
def test_a_setting_that_cannot_be_is_named(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        GaussianMixture(**settings).fit(np.random.default_rng(0).standard_normal((20, 3)))


@pytest.mark.parametrize(
    ("samples", "text"),
    [
        (np.zeros(5), r"as rows of a table, got shape \(5,\)"),
        (np.zeros((0, 3)), "as rows of a table"),
        (np.array([[1.0, np.nan]]), "expected finite samples"),
        (np.array([["a", "b"]]), "expected samples of numbers"),
    ],
)
def test_samples_that_cannot_be_are_refused(samples: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        GaussianMixture().fit(samples)


def test_samples_of_another_width_are_refused() -> None:
    fitted = GaussianMixture().fit(digits(4))
    with pytest.raises(ValueError, match="expected samples of 4 features, got 3"):
        fitted.predict(digits(3))
