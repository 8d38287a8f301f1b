"""What the alliance did last, once more."""

from __future__ import annotations

from flock_ray.adversary.behaviour import Behaviour, Context
from flock_ray.adversary.vectors import noise_like, noised, scaled
from flock_ray.lora.serialization import Adapter

_APART = 0.05
"""Noise over the norm of what is sent: enough to be no copy of an accomplice's."""


class Resubmit(Behaviour):
    """Trains nothing and sends `scale` times how the last accepted epoch moved the global adapter.

    Fraboni et al. 2021, "Free-rider Attacks on Model Aggregation in Federated Learning" (arXiv:2006.11901): the
    disguised free rider. The last movement is often still good, so it is paid where a score alone decides. Before there
    is one it sends small noise.
    """

    which = 0
    """Movement that is sent, 0 the last one."""

    def update(self, context: Context, update: Adapter) -> Adapter:
        """The movement, with a noise of its own."""
        moved = context.movements(self.which + 1)
        if len(moved) <= self.which:
            return noise_like(update, context.own(), _APART)
        return noised(scaled(moved[self.which], self.scale), context.own(), _APART)


class ResubmitOlder(Resubmit):
    """As `Resubmit`, with the movement before the last one, for rules that know the last."""

    which = 1
