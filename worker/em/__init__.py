"""Mixture models by EM, alone or through the parameter server: `leash em`.

Imports: the client, data sets and their files, the trainer's waiting, the command line, options,
runs, the wire.
"""

from leash.worker.em.bernoulli import BernoulliMixture
from leash.worker.em.gaussian import GaussianMixture

__all__ = ["BernoulliMixture", "GaussianMixture"]
