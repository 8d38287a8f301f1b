"""Rules for tests."""

from __future__ import annotations

from collections.abc import Sequence

from flock_ray.aggregation.rule import Rule, Weighting
from flock_ray.aggregation.start import Start
from flock_ray.lora.serialization import Adapter, flat


class Fixed(Rule):
    """Weights and denominator that a test chose; sums nothing itself."""

    def __init__(self, weights: Sequence[int], denominator: int = 0) -> None:
        super().__init__({})
        self._weighting = Weighting(tuple(weights), denominator or sum(weights))

    def start(self, start: Start) -> None:
        pass

    def add(self, update: Adapter) -> None:
        pass

    def finish(self) -> Weighting:
        return self._weighting


class Collected(Rule):
    """The mean as a rule makes it that must see all updates first."""

    def start(self, start: Start) -> None:
        self.updates: list[Adapter] = []

    def add(self, update: Adapter) -> None:
        self.updates.append(update)

    def finish(self) -> Weighting:
        return Weighting((1,) * len(self.updates), len(self.updates))


class WithoutLargest(Collected):
    """Weight 0 for the update of the largest norm, 1 for the others; one part in as many parts is the start's."""

    def finish(self) -> Weighting:
        norms = [float(flat(update).double().norm()) for update in self.updates]
        weights = tuple(int(norm < max(norms)) for norm in norms)
        return Weighting(weights, len(weights))
