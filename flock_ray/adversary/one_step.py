"""Next to no training."""

from __future__ import annotations

from flock_ray.adversary.behaviour import Behaviour, Context
from flock_ray.lora.serialization import Adapter


class OneStep(Behaviour):
    """Trains `scale` steps, one if nothing else is said, and claims all of them.

    The lazy client of Lin et al. 2019, "Free-riders in Federated Learning: Attacks and Defenses" (arXiv:1911.12560):
    its manifest says what honest ones say.
    """

    computes = True

    def update(self, context: Context, update: Adapter) -> Adapter:
        """What so few steps give."""
        [short] = context.known.trained([context.member], steps=max(1, round(self.scale)))
        return short
