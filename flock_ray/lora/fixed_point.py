"""Exact sums of float32 tensors in 64-bit fixed point: the same bytes for everybody, in any order.

A value x stands for the integer round(x * 2^24). A float32 value on this grid is read back unchanged, so a combined
adapter that is quantised again in the next epoch loses nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

SCALE = 2**24
"""Grid points a unit."""

MAX_ABS = 2.0**28
"""Largest magnitude that `quantize` takes: its integers stay within 2^52, exact in float64 too."""

_INT64_LIMIT = 2**63


def quantize(values: torch.Tensor) -> torch.Tensor:
    """Round to the grid, ties to even.

    Args:
        values: float32, any shape, each finite and at most `MAX_ABS` in magnitude.

    Returns:
        int64 tensor of the same shape.

    Raises:
        ValueError: a value is not finite or above `MAX_ABS`.
    """
    if not bool((values.abs() <= MAX_ABS).all()):
        raise ValueError(f"a value is not finite or above {MAX_ABS:g} in magnitude")
    return torch.round(values.double() * SCALE).to(torch.int64)


def dequantize(integers: torch.Tensor) -> torch.Tensor:
    """Read int64 grid points within 2^53 as the nearest float32 values; exact where |value| <= 1."""
    return (integers.double() / SCALE).float()


def weighted_mean(integers: Sequence[torch.Tensor], weights: Sequence[int]) -> torch.Tensor:
    """floor(sum_i weights[i] * integers[i] / sum_i weights[i]), exact in int64.

    Args:
        integers: int64 tensors of one shape.
        weights: one non-negative weight a tensor, not all zero.

    Returns:
        int64 tensor of that shape.

    Raises:
        ValueError: weights that do not fit, or a sum that could leave int64.
    """
    if len(integers) != len(weights) or min(weights, default=-1) < 0 or sum(weights) == 0:
        raise ValueError(
            f"{len(integers)} tensors need as many non-negative weights, not all zero; got {list(weights)}"
        )
    bound = sum(weight * _max_abs(tensor) for tensor, weight in zip(integers, weights, strict=True))
    if max(bound, sum(weights)) >= _INT64_LIMIT:
        raise ValueError("the weighted sum could leave int64; lower the weights")
    total = torch.zeros_like(integers[0])
    for tensor, weight in zip(integers, weights, strict=True):
        total.add_(tensor, alpha=weight)
    return total.div_(sum(weights), rounding_mode="floor")


def _max_abs(integers: torch.Tensor) -> int:
    """Largest magnitude as a Python integer, so that -2^63 counts rightly; 0 for an empty tensor."""
    return max(abs(int(integers.min())), abs(int(integers.max()))) if integers.numel() else 0
