"""Somebody else's work."""

from __future__ import annotations

from itertools import islice

from flock_ray.adversary.behaviour import Behaviour, Context
from flock_ray.adversary.past import updates_of
from flock_ray.adversary.vectors import noise_like, noised, scaled
from flock_ray.lora.serialization import Adapter

_APART = 0.05


class OthersPayload(Behaviour):
    """Trains nothing and sends `scale` times an update that an honest member sent before the last epoch.

    A plagiarist after Lin et al. 2019, "Free-riders in Federated Learning: Attacks and Defenses" (arXiv:1911.12560): at
    least two epochs old, so that it is not the movement that was just made.
    """

    def update(self, context: Context, update: Adapter) -> Adapter:
        """Of each accomplice another one, with a noise of its own; small noise before there is any."""
        place = context.drawn.index(context.member) if context.member in context.drawn else 0
        others = updates_of(context, lambda member: member not in context.accomplices, context.state.epoch - 1)
        found = [one for _, one in islice(others, place + 1)]
        if not found:
            return noise_like(update, context.own(), _APART)
        return noised(scaled(found[-1], self.scale), context.own(), _APART)
