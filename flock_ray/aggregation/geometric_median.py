"""The geometric median."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from flock_ray.aggregation.geometry import distances_to, norms
from flock_ray.aggregation.gram_rule import GramRule
from flock_ray.lora.gram import Gram

STEPS = 32
_SMOOTHING = 1e-6  # of the median length
_NO_DISTANCE = 1e-200  # where more than half of the updates are zero


class GeometricMedian(GramRule):
    """The point whose distances to all updates have the least sum, by smoothed Weiszfeld steps.

    Weiszfeld 1937; as an aggregation rule RFA (Pillutla et al. 2022, arXiv:1912.13445). Each of 32 steps weighs an
    update by 1 / max(nu, its distance to the point before), nu = 10^-6 of the median length. The first point is the
    start, so that a huge update moves no step by more than an honest one does. Up to half of the updates, but not half,
    may be anything.
    """

    def shares(self, products: Gram) -> Sequence[float]:
        """Shares of the last step, 1 in total."""
        nearest = max(_SMOOTHING * median(norms(products)), _NO_DISTANCE)
        shares = [0.0] * len(products)
        for _ in range(STEPS):
            pulls = [1 / max(nearest, distance) for distance in distances_to(products, shares)]
            total = math.fsum(pulls)
            shares = [pull / total for pull in pulls]
        return shares
