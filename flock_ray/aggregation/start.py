"""The common start of an epoch's updates, on the fixed-point grid."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from flock_ray.lora.fixed_point import MAX_POINTS, add_quantized, dequantize, quantize
from flock_ray.lora.serialization import Adapter, flat, unflat


class Start:
    """The global adapter that an epoch starts from, as grid points that updates are added to.

    Attributes:
        adapter: as it was given.
        shapes: of its factors, by sorted key.
        points: [size] int64, all entries in the order of `flat`.
    """

    def __init__(self, adapter: Adapter) -> None:
        """Round the adapter to the grid, which changes nothing if it came from `Aggregation`."""
        self.adapter = adapter
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
        """The start plus int64 grid points, as an adapter; what `quantize` would not take is clamped."""
        return unflat(dequantize((self.points + points).clamp_(-MAX_POINTS, MAX_POINTS)), self.shapes)

    def with_part(self, update: Adapter, num_parts: int) -> Adapter:
        """The start plus floor(update / num_parts)."""
        return self.plus(quantize(self.row(update)).div_(num_parts, rounding_mode="floor"))

    def with_one(self, update: Adapter) -> Adapter:
        """The start plus a single update of weight 1: the same bytes as the mean of it alone."""
        return unflat(add_quantized(self._floats, self.row(update)), self.shapes)
