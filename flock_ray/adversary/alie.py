"""A little is enough."""

from __future__ import annotations

from statistics import NormalDist

from flock_ray.adversary.behaviour import Behaviour, Context
from flock_ray.adversary.vectors import combined, deviation, mean, noised
from flock_ray.lora.serialization import Adapter

_APART = 1e-3
_HIGHEST = 0.99
"""Of the normal distribution's values; a majority needs no supporters and could go as far as it likes."""


class Alie(Behaviour):
    """Sends mean - z * standard deviation of the updates that the coalition's data gives: off, but within the crowd.

    Baruch et al. 2019, "A Little Is Enough: Circumventing Defenses For Distributed Learning" (arXiv:1902.06156),
    algorithm 3: with m of n proposers s = floor(n / 2 + 1) - m honest ones must be farther from the mean, which z =
    Phi^-1((n - m - s) / (n - m)) leaves; `scale` multiplies z. Who proposes what is secret until all have committed, so
    mean and deviation are those of the coalition's own updates, of accomplices that were not drawn too.
    """

    computes = True

    def update(self, context: Context, update: Adapter) -> Adapter:
        """The same of all accomplices, but for a noise that makes it no copy."""
        crowd = context.known.trained(sorted(context.accomplices))
        sent = combined(mean(crowd), deviation(crowd), -self.scale * self.deviations(context))
        return noised(sent, context.own(), _APART)

    @staticmethod
    def deviations(context: Context) -> float:
        """z for the epoch's proposers."""
        all_of_them, ours = len(set(context.state.roles.proposers)), len(context.drawn)
        honest = max(1, all_of_them - ours)
        supporters = max(0, all_of_them // 2 + 1 - ours)
        return NormalDist().inv_cdf(min(_HIGHEST, max(0.5, (honest - supporters) / honest)))
