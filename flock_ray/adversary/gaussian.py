"""Noise in place of an update."""

from __future__ import annotations

from flock_ray.adversary.behaviour import Behaviour, Context
from flock_ray.adversary.vectors import noise_like
from flock_ray.lora.serialization import Adapter


class Gaussian(Behaviour):
    """Sends Gaussian noise of `scale` times the norm of each factor of its honest update.

    Blanchard et al. 2017, "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent" (arXiv:1703.02757),
    section 5; here of an honest norm, so that its size does not give it away.
    """

    def update(self, context: Context, update: Adapter) -> Adapter:
        """Noise, of every accomplice another."""
        return noise_like(update, context.own(), self.scale)
