"""From weights to the candidate: one exact sum, equal to the last byte wherever and however it is computed."""

from __future__ import annotations

from collections.abc import Sequence

from flock_ray.lora.fixed_point import FixedPointSum, dequantize, quantize
from flock_ray.lora.serialization import Adapter, flat, unflat


class RunningCandidate:
    """The candidate of an epoch while its updates come in, none of which is kept."""

    def __init__(self, global_adapter: Adapter) -> None:
        """Start from the common global adapter of the epoch."""
        self._start = global_adapter
        self._shapes = {key: tuple(factor.shape) for key, factor in global_adapter.items()}
        self._sum = FixedPointSum(sum(factor.numel() for factor in global_adapter.values()))

    def add(self, update: Adapter, weight: int) -> None:
        """Count an update `weight` times.

        Raises:
            ValueError: it has other keys or shapes, a value outside the fixed-point range, or the weight does not fit.
        """
        if {key: tuple(factor.shape) for key, factor in update.items()} != self._shapes:
            raise ValueError("an update has other keys or shapes than the global adapter")
        self._sum.add(flat(update), weight)

    def adapter(self) -> Adapter:
        """Global adapter + weighted mean of the updates: see `combine`."""
        return unflat(dequantize(quantize(flat(self._start)) + self._sum.mean()), self._shapes)


def combine(global_adapter: Adapter, updates: Sequence[Adapter], weights: Sequence[int]) -> Adapter:
    """The candidate: global adapter + weighted mean of the updates, in int64 fixed point, read as float32.

    Every update is rounded to the grid first and integers are summed, so the order of updates changes nothing.

    Args:
        global_adapter: the common start of the epoch.
        updates: at least one, factor deltas of the same keys and shapes.
        weights: one non-negative integer an update, not all zero.

    Returns:
        New adapter with sorted keys, on the fixed-point grid.

    Raises:
        ValueError: keys or shapes differ, weights do not fit, or a value lies outside the fixed-point range.
    """
    if len(updates) != len(weights):
        raise ValueError(f"{len(updates)} updates need as many weights, not {len(weights)}")
    candidate = RunningCandidate(global_adapter)
    for update, weight in zip(updates, weights, strict=True):
        candidate.add(update, weight)
    return candidate.adapter()
