"""From weights to the candidate: one exact sum, equal to the last byte wherever it is computed."""

from __future__ import annotations

from collections.abc import Sequence

from flock_ray.lora.fixed_point import dequantize, quantize, weighted_mean
from flock_ray.lora.serialization import Adapter


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
        ValueError: keys differ, weights do not fit, or a value lies outside the fixed-point range.
    """
    if any(update.keys() != global_adapter.keys() for update in updates):
        raise ValueError("an update has other keys than the global adapter")
    candidate: Adapter = {}
    for key in sorted(global_adapter):
        mean = weighted_mean([quantize(update[key]) for update in updates], weights)
        candidate[key] = dequantize(quantize(global_adapter[key]) + mean)
    return candidate
