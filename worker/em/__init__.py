"""Mixture models by EM, alone or through the parameter server."""

from leash.worker.em.bernoulli import BernoulliMixture
from leash.worker.em.gaussian import GaussianMixture

__all__ = ["BernoulliMixture", "GaussianMixture"]
