"""From updates to the candidate: an exact sum, the same to the last byte on every machine."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from flock_ray.aggregation.rule import Rule
from flock_ray.aggregation.start import Start
from flock_ray.lora.fixed_point import FixedPointSum
from flock_ray.lora.serialization import Adapter


@dataclass(frozen=True)
class Aggregate:
    """What updates came to.

    Attributes:
        adapters: the candidate of each step, with sorted keys, on the fixed-point grid; none where all weights are 0.
        weights: one of each update, in the order in which they were added.
    """

    adapters: tuple[Adapter, ...]
    weights: tuple[int, ...]

    @property
    def adapter(self) -> Adapter | None:
        """The candidate of the first step."""
        return self.adapters[0] if self.adapters else None


class Aggregation:
    """Updates on their way to the candidate, start + floor(step * sum of weight * update / denominator), by one rule.

    Every update is rounded to the grid and integers are summed, so the order of updates changes no byte. What the
    weights lack to the denominator is weight on the start. Rules that are no weighted sum make the points that are
    added to the start themselves, which the step multiplies.
    """

    def __init__(self, start: Start, rule: Rule) -> None:
        """Begin without any update; the rule is used for nothing else until `finish`."""
        self._start, self._rule, self._count = start, rule, 0
        rule.start(start)

    def add(self, update: Adapter) -> None:
        """Add the update of the next member, by ascending number.

        Raises:
            ValueError: it has other keys or shapes than the start, or a value outside the fixed-point range.
        """
        self._rule.add(update)
        self._count += 1

    def finish(self, updates: Iterable[Adapter], steps: Sequence[int] = (1,)) -> Aggregate:
        """The candidates and the weights.

        Args:
            updates: those that were added, once more in the same order; not touched if the rule made their sum itself.
            steps: how far to go, one candidate each.

        Raises:
            ValueError: the weights are too large for an exact sum, or see `add`.
        """
        weighting = self._rule.finish()
        weights, denominator = weighting.weights, weighting.denominator
        assert len(weights) == self._count and min(weights, default=0) >= 0 and sum(weights) <= denominator
        if not any(weights):
            return Aggregate((), weights)
        if weighting.points is not None:
            return Aggregate(tuple(self._start.plus(weighting.points * step) for step in steps), weights)
        total = weighting.total
        if total is None:
            total = FixedPointSum(self._start.points.numel())
            for update, weight in zip(updates, weights, strict=True):
                total.add(self._start.row(update), weight)
        return Aggregate(tuple(self._start.plus(total.over(denominator, step)) for step in steps), weights)


def aggregate(start: Start, rule: Rule, updates: Sequence[Adapter], steps: Sequence[int] = (1,)) -> Aggregate:
    """The candidates of updates that are all there, by ascending member; errors as in `Aggregation`."""
    aggregation = Aggregation(start, rule)
    for update in updates:
        aggregation.add(update)
    return aggregation.finish(updates, steps)
