"""Exact sums of float32 tensors in 64-bit fixed point: the same bytes on every machine, in any order.

Rows are processed in numpy, in a single thread: torch would wake all of its threads for each short operation.

A value x is represented by the integer round(x * 2^24). A float32 value on this grid is read back unchanged, so a
combined adapter that is quantised again in the next epoch loses nothing.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

SCALE = 2**24
"""Grid points per unit."""

MAX_ABS = 2.0**28
"""Largest magnitude that `quantize` accepts: its integers stay within 2^52, exact in float64 too."""

MAX_POINTS = 2**52
"""The same in grid points."""

_INT64_LIMIT = 2**63
_FLOAT64_EXACT = 2**53
_CHUNK = 2**16  # values that are rounded and added while they are in the processor's cache


def quantize(values: torch.Tensor) -> torch.Tensor:
    """Round to the grid, ties to even.

    Args:
        values: float32, any shape, each finite and at most `MAX_ABS` in magnitude.

    Returns:
        int64 tensor of the same shape.

    Raises:
        ValueError: a value is not finite or above `MAX_ABS`.
    """
    _largest(values)
    return torch.from_numpy(_rounded(values.numpy()).astype(np.int64))


def dequantize(integers: torch.Tensor) -> torch.Tensor:
    """Convert int64 grid points within 2^53 to the nearest float32 values; exact where |value| <= 1."""
    return integers.double().mul_(1 / SCALE).float()


def add_quantized(points: NDArray[np.float64], values: torch.Tensor) -> torch.Tensor:
    """`dequantize(points + quantize(values))`, without integers: sums of two grid points are exact in float64.

    Args:
        points: [size] grid points, each within 2^52.
        values: [size] float32, as for `quantize`.

    Raises:
        ValueError: a value is not finite or above `MAX_ABS`.
    """
    assert len(points) == len(values)
    _largest(values)
    row, result = values.numpy(), np.empty(len(points), np.float32)
    for first in range(0, len(row), _CHUNK):
        part = slice(first, first + _CHUNK)
        np.multiply(points[part] + _rounded(row[part]), 1 / SCALE, out=result[part], casting="same_kind")
    return torch.from_numpy(result)


def extremes(values: torch.Tensor) -> tuple[float, float]:
    """Smallest and largest of at least one float32 value on the CPU; both NaN if any value is."""
    row = values.numpy()
    return float(row.min()), float(row.max())


class FixedPointSum:
    """Weighted sum of rows of float32 values on the grid, exact whatever their order, in the memory of three rows."""

    def __init__(self, size: int) -> None:
        """Start an empty sum of rows of `size` values."""
        self._limit = 0  # bound on the magnitude of the sum's entries
        self._sum = torch.zeros(size, dtype=torch.int64)
        # Additions in float64 are several times faster than in int64, and exact while nothing passes 2^53.
        self._recent = np.zeros(size)
        self._recent_limit = 0

    def add(self, values: torch.Tensor, weight: int) -> None:
        """Add `weight` times `quantize(values)`.

        Args:
            values: [size] float32, as for `quantize`.
            weight: not negative.

        Raises:
            ValueError: `values` are out of range, the weight is negative, or the sum could leave int64.
        """
        if weight < 0:
            raise ValueError(f"a sum takes non-negative weights, not {weight}")
        limit = weight * _largest(values)
        if max(self._limit + limit, weight) >= _INT64_LIMIT:
            raise ValueError("the weighted sum could leave int64; lower the weights")
        if not weight:
            return
        self._limit += limit
        if self._recent_limit + limit > _FLOAT64_EXACT:
            self._settle()
        if limit > _FLOAT64_EXACT:
            self._sum.add_(quantize(values), alpha=weight)
            return
        self._recent_limit += limit
        row = values.numpy()
        for first in range(0, len(row), _CHUNK):
            part, recent = row[first : first + _CHUNK], self._recent[first : first + _CHUNK]
            scaled = _rounded(part)
            recent += scaled if weight == 1 else np.multiply(scaled, weight, dtype=np.float64)

    def _settle(self) -> None:
        self._sum += torch.from_numpy(self._recent.astype(np.int64))
        self._recent.fill(0)
        self._recent_limit = 0

    def over(self, denominator: int, factor: int = 1) -> torch.Tensor:
        """floor(factor * sum / denominator): [size] int64.

        Args:
            denominator: in [1, 2^63).
            factor: above 0.

        Raises:
            ValueError: the denominator is out of range, or a product with the factor could leave int64.
        """
        if not 0 < denominator < _INT64_LIMIT:
            raise ValueError(f"a sum is divided by a positive 64-bit integer, not {denominator}")
        self._settle()
        whole = self._sum.div(denominator, rounding_mode="floor")
        if factor == 1:
            return whole
        if factor * max(denominator, self._limit // denominator + 1) >= _INT64_LIMIT:
            raise ValueError(f"{factor} times the weighted sum could leave int64; lower the weights")
        rest = self._sum - whole * denominator  # the product of the sum itself could be too long
        return whole * factor + (rest * factor).div_(denominator, rounding_mode="floor")


def _rounded(row: NDArray[np.float32]) -> NDArray[np.float32]:
    """Grid points of float32 values, ties to even: scaled by a power of two, which is exact in float32."""
    scaled = row * np.float32(SCALE)
    np.rint(scaled, out=scaled)
    return scaled


def _largest(values: torch.Tensor) -> int:
    """Bound on the magnitudes of `quantize(values)`."""
    if not values.numel():
        return 0
    low, high = extremes(values)
    if not (low >= -MAX_ABS and high <= MAX_ABS):
        raise ValueError(f"a value is not finite or above {MAX_ABS:g} in magnitude")
    return math.ceil(max(-low, high) * SCALE)
