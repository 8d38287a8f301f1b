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
        adapter: the candidate, with sorted keys, on the fixed-point grid; None where all weights are 0.
        weights: one of each update, in the order in which they were added.
    """

    adapter: Adapter | None
    weights: tuple[int, ...]


class Aggregation:
    """Updates on their way to the candidate, start + floor(sum of weight * update / denominator), by one rule.

    Every update is rounded to the grid and integers are summed, so the order of updates changes no byte. What the
    weights lack to the denominator is weight on the start. Rules that are no weighted sum make the points that are
    added to the start themselves.
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

    def finish(self, updates: Iterable[Adapter]) -> Aggregate:
        """The candidate and the weights.

        Args:
            updates: those that were added, once more in the same order; not touched if the rule made the points itself.

        Raises:
            ValueError: the weights are too large for an exact sum, or see `add`.
        """
        weighting = self._rule.finish()
        weights, denominator = weighting.weights, weighting.denominator
        assert len(weights) == self._count and min(weights, default=0) >= 0 and sum(weights) <= denominator
        if not any(weights):
            return Aggregate(None, weights)
        points = weighting.points
        if points is None:
            total = FixedPointSum(self._start.points.numel())
            for update, weight in zip(updates, weights, strict=True):
                total.add(self._start.row(update), weight)
            points = total.over(denominator)
        return Aggregate(self._start.plus(points), weights)


def aggregate(start: Start, rule: Rule, updates: Sequence[Adapter]) -> Aggregate:
    """The candidate of updates that are all there, by ascending member; errors as in `Aggregation`."""
    aggregation = Aggregation(start, rule)
    for update in updates:
        aggregation.add(update)
    return aggregation.finish(updates)
