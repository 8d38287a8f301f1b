"""The same honest member over and over."""

from __future__ import annotations

from flock_ray.adversary.behaviour import Behaviour, Context
from flock_ray.adversary.past import chosen_victim, updates_of
from flock_ray.adversary.vectors import noised
from flock_ray.lora.serialization import Adapter

_APART = 1e-3


class Mimic(Behaviour):
    """Sends what one honest member sent last, so that its data counts for more than it should.

    Karimireddy et al. 2022, "Byzantine-Robust Learning on Heterogeneous Datasets via Bucketing" (arXiv:2006.09365): no
    defence can tell it from honest updates. Commitments hide what others send in the same epoch, so it is an earlier
    update of the member, with a noise of `scale` times 1e-3 of its norm.
    """

    def update(self, context: Context, update: Adapter) -> Adapter:
        """The newest valid update of the chosen member; the honest one while nobody outside has sent any."""
        honest = [(m, u) for m, u in updates_of(context, lambda m: m not in context.accomplices, context.state.epoch)]
        if not honest:
            return update
        victim = chosen_victim(context, sorted({member for member, _ in honest}))
        newest = next(one for member, one in honest if member == victim)
        return noised(newest, context.own(), self.scale * _APART)
