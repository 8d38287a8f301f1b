"""An update of nothing."""

from __future__ import annotations

from flock_ray.adversary.behaviour import Behaviour, Context
from flock_ray.adversary.vectors import noise_like
from flock_ray.lora.serialization import Adapter


class Zero(Behaviour):
    """Sends next to nothing: it dilutes the mean, and is paid where presence is.

    Fraboni et al. 2021, "Free-rider Attacks on Model Aggregation in Federated Learning" (arXiv:2006.11901): the plain
    free rider returns the model as it got it. Copies are slashed, so each adds noise of `scale` times an honest norm.
    """

    default_scale = 1e-3

    def update(self, context: Context, update: Adapter) -> Adapter:
        """The noise alone."""
        return noise_like(update, context.own(), self.scale)
