"""From weights to the candidate: an exact sum, the same to the last byte on every machine and in every order."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from flock_ray.lora.fixed_point import FixedPointSum, add_quantized, dequantize, quantize
from flock_ray.lora.serialization import Adapter, flat, unflat


class Start:
    """The common global adapter of an epoch, as grid points that updates are added to."""

    def __init__(self, adapter: Adapter) -> None:
        """Round the adapter to the grid, which changes nothing if it was made by `combine`."""
        self.shapes = {key: tuple(factor.shape) for key, factor in sorted(adapter.items())}
        self.points = quantize(flat(adapter))

    @cached_property
    def _floats(self) -> NDArray[np.float64]:
        """The points in float64, for `add_quantized`."""
        floats: NDArray[np.float64] = self.points.double().numpy()
        return floats

    def row(self, update: Adapter) -> torch.Tensor:
        """The update's entries in one row.

        Raises:
            ValueError: it has other keys or shapes.
        """
        if {key: tuple(factor.shape) for key, factor in update.items()} != self.shapes:
            raise ValueError("an update has other keys or shapes than the global adapter")
        return flat(update)

    def plus(self, points: torch.Tensor) -> Adapter:
        """The start plus int64 grid points, as an adapter."""
        return unflat(dequantize(self.points + points), self.shapes)

    def with_one(self, update: Adapter) -> Adapter:
        """The candidate of a single update, the same bytes as from `combine`."""
        return unflat(add_quantized(self._floats, self.row(update)), self.shapes)


class RunningCandidate:
    """The candidate of an epoch, updated as updates arrive; it keeps none of them."""

    def __init__(self, start: Start) -> None:
        """Begin without any update."""
        self._start, self._sum = start, FixedPointSum(start.points.numel())

    def add(self, update: Adapter, weight: int) -> None:
        """Add an update with this weight.

        Raises:
            ValueError: it has other keys or shapes, a value outside the fixed-point range, or the weight does not fit.
        """
        self._sum.add(self._start.row(update), weight)

    def adapter(self) -> Adapter:
        """Global adapter + weighted mean of the updates: see `combine`."""
        return self._start.plus(self._sum.mean())


def combine(global_adapter: Adapter, updates: Sequence[Adapter], weights: Sequence[int]) -> Adapter:
    """The candidate: global adapter + weighted mean of the updates, in int64 fixed point, read as float32.

    Every update is rounded to the grid first and integers are summed, so the order of updates does not matter.

    Args:
        global_adapter: the common start of the epoch.
        updates: at least one, factor deltas of the same keys and shapes.
        weights: one non-negative integer per update, not all zero.

    Returns:
        New adapter with sorted keys, on the fixed-point grid.

    Raises:
        ValueError: keys or shapes differ, weights do not fit, or a value lies outside the fixed-point range.
    """
    if len(updates) != len(weights):
        raise ValueError(f"{len(updates)} updates need as many weights, not {len(weights)}")
    candidate = RunningCandidate(Start(global_adapter))
    for update, weight in zip(updates, weights, strict=True):
        candidate.add(update, weight)
    return candidate.adapter()
