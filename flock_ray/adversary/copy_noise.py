"""One honest update, sent for ever."""

from __future__ import annotations

from flock_ray.adversary.behaviour import Behaviour, Context
from flock_ray.adversary.past import updates_of
from flock_ray.adversary.vectors import noised
from flock_ray.lora.serialization import Adapter


class CopyNoise(Behaviour):
    """Trains once, then sends that update again with Gaussian noise of `scale` times its norm.

    Lin et al. 2019, "Free-riders in Federated Learning: Attacks and Defenses" (arXiv:1911.12560), section 4: noise
    hides that nothing new was trained.
    """

    default_scale = 0.5

    def update(self, context: Context, update: Adapter) -> Adapter:
        """Its first valid update with noise; the honest one if it sent none yet."""
        own = updates_of(context, lambda member: member == context.member, context.state.epoch, newest=False)
        first = next((one for _, one in own), None)
        return update if first is None else noised(first, context.own(), self.scale)
