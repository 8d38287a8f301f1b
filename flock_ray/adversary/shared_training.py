"""One training for several seats."""

from __future__ import annotations

from flock_ray.adversary.behaviour import Behaviour, Context
from flock_ray.adversary.vectors import noised
from flock_ray.lora.serialization import Adapter

_APART = 0.02


class SharedTraining(Behaviour):
    """Of the accomplices that propose one trains; all send its update, each with a little noise.

    Fung et al. 2020, "The Limitations of Federated Learning in Sybil Settings" (RAID): what they send has one
    direction. The noise is `scale` times 0.02 of its norm: enough to be no copy.
    """

    computes = True

    def update(self, context: Context, update: Adapter) -> Adapter:
        """The first one's update; its own of the first one."""
        first = min(context.drawn, default=context.member)
        if first == context.member:
            return update
        [shared] = context.known.trained([first])
        return noised(shared, context.own(), self.scale * _APART)
