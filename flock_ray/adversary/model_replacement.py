"""A backdoor that takes the place of the mean."""

from __future__ import annotations

from flock_ray.adversary.backdoor import Backdoor
from flock_ray.adversary.behaviour import Context
from flock_ray.adversary.vectors import scaled
from flock_ray.lora.serialization import Adapter

_DOSE = 0.5


class ModelReplacement(Backdoor):
    """Trains a backdoor and scales its update by the number of proposers, so that the mean becomes its model.

    Bagdasaryan et al. 2020, "How To Backdoor Federated Learning" (arXiv:1807.00459), section 4.2: gamma = n / eta, here
    shared among the accomplices that were drawn. `scale` multiplies it.
    """

    default_scale = 1.0

    @property
    def dose(self) -> float:
        """Share of the rows with the trigger."""
        return _DOSE

    def update(self, context: Context, update: Adapter) -> Adapter:
        """gamma times the update."""
        proposers = len(set(context.state.roles.proposers))
        return scaled(update, self.scale * proposers / max(1, len(context.drawn)))
