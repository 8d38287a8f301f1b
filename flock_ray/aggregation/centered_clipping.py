"""Centred clipping."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from flock_ray.aggregation.geometry import distances_to, norms
from flock_ray.aggregation.gram_rule import GramRule
from flock_ray.lora.gram import Gram

STEPS = 3


class CenteredClipping(GramRule):
    """The mean of updates that are shortened to a radius around a centre, which then becomes the centre.

    Karimireddy et al. 2021, "Learning from history for Byzantine robust optimization", arXiv:2012.10333: three steps
    v <- v + mean_i((U_i - v) min(1, tau / |U_i - v|)). The first centre is the start and tau the median length, so that
    nothing is to be tuned. The shares are at most 1 in total; the rest is weight on the start.
    """

    def shares(self, products: Gram) -> Sequence[float]:
        """Shares of the last centre."""
        count, radius = len(products), median(norms(products))
        shares = [0.0] * count
        for _ in range(STEPS):
            kept = [
                min(1.0, radius / distance) if distance else 1.0 for distance in distances_to(products, shares)
            ]  # fmt: skip
            stays = 1 - math.fsum(kept) / count
            shares = [share * stays + one / count for share, one in zip(shares, kept, strict=True)]
        return shares
