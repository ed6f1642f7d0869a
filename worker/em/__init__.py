"""Mixture models by EM, alone or through the parameter server."""

from worker.em.bernoulli import BernoulliMixture
from worker.em.gaussian import GaussianMixture

__all__ = ["BernoulliMixture", "GaussianMixture"]
