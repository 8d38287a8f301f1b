"""Inner product manipulation."""

from __future__ import annotations

from flock_ray.adversary.behaviour import Behaviour, Context
from flock_ray.adversary.vectors import mean, noised, scaled
from flock_ray.lora.serialization import Adapter

_APART = 1e-3


class Ipm(Behaviour):
    """Sends -scale times the mean of the updates that the coalition's data gives.

    Xie et al. 2020, "Fall of Empires: Breaking Byzantine-tolerant SGD by Inner Product Manipulation"
    (arXiv:1903.03936): small enough to be near honest updates, and yet the aggregate's product with the true direction
    becomes negative.
    """

    default_scale = 0.5
    computes = True

    def update(self, context: Context, update: Adapter) -> Adapter:
        """The same of all accomplices, but for a noise that makes it no copy."""
        crowd = context.known.trained(sorted(context.accomplices))
        return noised(scaled(mean(crowd), -self.scale), context.own(), _APART)
