"""An update of a model that is no longer there."""

from __future__ import annotations

from flock_ray.adversary.behaviour import Behaviour, Context
from flock_ray.lora.serialization import Adapter


class Stale(Behaviour):
    """Trains from the global adapter of `scale` accepted epochs ago, one if nothing else is said.

    The stale gradients of asynchronous training (Xie et al. 2019, "Asynchronous Federated Optimization",
    arXiv:1903.03934), sent as if they were new.
    """

    computes = True

    def update(self, context: Context, update: Adapter) -> Adapter:
        """What its training gives from there; the honest update while there is no older adapter."""
        starts = [past.start for past in reversed(context.known.past) if past.start != past.end]
        age = max(1, round(self.scale))
        if len(starts) < age:
            return update
        [stale] = context.known.trained([context.member], start=starts[age - 1])
        return stale
