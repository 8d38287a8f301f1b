"""The best of what is public."""

from __future__ import annotations

from flock_ray.adversary.behaviour import Behaviour, Context
from flock_ray.adversary.vectors import noise_like, noised, scaled
from flock_ray.lora.algebra import add
from flock_ray.lora.serialization import Adapter

_APART = 0.05
_FACTORS = ((-1.0, -0.3, 1.0, 3.0), (1.0, 3.0, -1.0))
"""Of the last movement, and of the one before it."""


class BestPublic(Behaviour):
    """Trains nothing; tries seven public moves on its own data and sends the best, `scale` times.

    The disguised free rider of Fraboni et al. 2021 (arXiv:2006.11901) with a line search: measuring is cheaper than
    training, and what it sends has been seen to help.
    """

    computes = True

    def update(self, context: Context, update: Adapter) -> Adapter:
        """The move of least loss, with a noise of its own; small noise before there is any."""
        moves = [
            scaled(moved, factor)
            for moved, factors in zip(context.movements(len(_FACTORS)), _FACTORS, strict=False)
            for factor in factors
        ]
        if not moves:
            return noise_like(update, context.own(), _APART)
        start, known = context.start, context.known
        losses = [known.loss(context.member, add(start, move)) for move in moves]
        best = moves[min(range(len(moves)), key=losses.__getitem__)]
        return noised(scaled(best, self.scale), context.own(), _APART)
