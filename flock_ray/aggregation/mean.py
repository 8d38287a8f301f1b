"""Unweighted federated averaging."""

from __future__ import annotations

from flock_ray.aggregation.rule import Rule, Weighting
from flock_ray.aggregation.start import Start
from flock_ray.lora.fixed_point import FixedPointSum
from flock_ray.lora.serialization import Adapter


class Mean(Rule):
    """Every accepted update counts the same (FedAvg, McMahan et al. 2017, arXiv:1602.05629, with equal data sizes).

    It sums as updates come and keeps none.
    """

    def start(self, start: Start) -> None:
        """An empty sum."""
        self._start, self._total, self._count = start, FixedPointSum(start.points.numel()), 0

    def add(self, update: Adapter) -> None:
        """Add the update to the sum."""
        self._total.add(self._start.row(update), 1)
        self._count += 1

    def finish(self) -> Weighting:
        """Weight 1 for each update."""
        return Weighting((1,) * self._count, self._count, self._total)
