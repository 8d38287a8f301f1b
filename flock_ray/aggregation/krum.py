"""Krum and Multi-Krum."""

from __future__ import annotations

import math
from collections.abc import Sequence

from flock_ray.aggregation.geometry import squared_distances
from flock_ray.aggregation.gram_rule import GramRule
from flock_ray.lora.gram import Gram


class MultiKrum(GramRule):
    """The mean of the n - f updates with the lowest scores (Blanchard et al. 2017, arXiv:1703.02757).

    The score of an update is the sum of its squared distances to the n - f - 2 others nearest to it; n >= 2f + 3. Ties
    go to the update that was added first. Libraries differ in the number of neighbours: Flower takes n - f - 2 as the
    paper does, byzfl n - f - 1.
    """

    @property
    def fewest(self) -> int:
        """n >= 2f + 3."""
        return 2 * self.num_malicious + 3

    def shares(self, products: Gram) -> Sequence[float]:
        """The same for each update that is chosen."""
        count = len(products)
        neighbours = count - self.num_malicious - 2
        scores = [
            math.fsum(sorted(row[:i] + row[i + 1 :])[:neighbours]) for i, row in enumerate(squared_distances(products))
        ]
        chosen = sorted(range(count), key=lambda i: (scores[i], i))[: self._num_chosen(count)]
        return [1 / len(chosen) if i in chosen else 0.0 for i in range(count)]

    def _num_chosen(self, count: int) -> int:
        return count - self.num_malicious


class Krum(MultiKrum):
    """The one update with the lowest score (Blanchard et al. 2017, arXiv:1703.02757): see `MultiKrum`.

    Nobody else is paid for the epoch.
    """

    def _num_chosen(self, count: int) -> int:
        return 1
