"""As far off as two honest updates are from each other."""

from __future__ import annotations

import math

from flock_ray.adversary.behaviour import Behaviour, Context
from flock_ray.adversary.vectors import combined, distance, mean, noised, norm
from flock_ray.lora.serialization import Adapter

_APART = 1e-3


class MinMax(Behaviour):
    """Sends mean - gamma * mean / |mean|, gamma as large as keeps it as near to all as the farthest two are.

    Shejwalkar & Houmansadr 2021, "Manipulating the Byzantine: Optimizing Model Poisoning Attacks and Defenses for
    Federated Learning" (NDSS), the attack min-max with the unit vector as perturbation, on the updates that the
    coalition's data gives. Their bisection has a closed form: with p of norm 1 and v = m - u_i, |v + gamma p| <= D up
    to gamma = sqrt((p v)^2 - |v|^2 + D^2) - p v; the least over i counts. `scale` multiplies it.
    """

    computes = True

    def update(self, context: Context, update: Adapter) -> Adapter:
        """The same of all accomplices, but for a noise that makes it no copy."""
        crowd = context.known.trained(sorted(context.accomplices))
        middle = mean(crowd)
        size = norm(middle)
        if not size:
            return update
        sent = combined(middle, middle, -self.scale * self.gamma(crowd, middle) / size)
        return noised(sent, context.own(), _APART)

    @staticmethod
    def gamma(crowd: list[Adapter], middle: Adapter) -> float:
        """The longest step away from the mean that stays within the largest distance of two updates."""
        size = norm(middle)
        widest = max(distance(left, right) for left in crowd for right in crowd)
        steps = []
        for one in crowd:
            away = combined(middle, one, -1.0)
            along = -math.fsum(float((middle[key].double() * away[key].double()).sum()) for key in middle) / size
            steps.append(math.sqrt(max(0.0, along**2 - norm(away) ** 2 + widest**2)) - along)
        return max(0.0, min(steps))
