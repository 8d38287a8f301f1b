"""What an update adds to what is public, and what of it enters the candidate: the mechanism's sections 1 and 6 again.

A vector has the grid points of all factors, one array each, in the order of sorted keys. All of it is exact or rounded
once by IEEE 754, so it comes to the same bits on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from flock_ray.lora.fixed_point import dequantize, quantize
from flock_ray.lora.serialization import Adapter

Vector = list[NDArray[np.float64]]
"""Integers in float64, within 2^53."""

_LARGEST = 2.0**42
"""No entry of what is computed here is larger in magnitude."""

_SHARE = 2.0**20
"""Shares of moves are multiples of one over it."""

_DIAGONAL = 1 + 1e-6
_LEAST_PIVOT = 1e-12


def vector_of(adapter: Adapter) -> Vector:
    """The grid points of an adapter.

    Raises:
        ValueError: a value is outside the fixed-point range.
    """
    return [quantize(adapter[key]).numpy().astype(np.float64) for key in sorted(adapter)]


def moves_between(adapters: Sequence[Adapter]) -> list[Vector]:
    """Each adapter less the one before it."""
    points = [vector_of(adapter) for adapter in adapters]
    return [[new - old for new, old in zip(after, before, strict=True)] for before, after in pairwise(points)]


class Public:
    """The moves that the public knows, prepared to split the updates of one epoch."""

    def __init__(self, moves: Sequence[Vector]) -> None:
        """Take the moves, oldest first; one of length 0 is left out."""
        lengths = [length(move) for move in moves]
        self._moves = [move for move, size in zip(moves, lengths, strict=True) if size]
        self._lengths = [size for size in lengths if size]
        products = inner_products(self._moves, self._moves)
        self._lower = cholesky(
            [
                [
                    _DIAGONAL if k == j else product / (self._lengths[k] * self._lengths[j])
                    for j, product in enumerate(row)
                ]
                for k, row in enumerate(products)
            ]
        )

    def split(self, update: Vector) -> tuple[Vector, Vector]:
        """(residual, what enters) of an update: without its public part, and with that part no longer than the rest."""
        public = self._public_part(update)
        public_length = length(public)
        if not public_length:
            return update, update
        residual = [_clamped(own - known) for own, known in zip(update, public, strict=True)]
        kept = min(1.0, length(residual) / public_length)
        entering = [_clamped(own + np.rint(known * kept)) for own, known in zip(residual, public, strict=True)]
        return residual, entering

    def entering(self, update: Adapter) -> Adapter:
        """What of an update enters the candidate, as an adapter.

        Raises:
            ValueError: a value is outside the fixed-point range.
        """
        _, entering = self.split(vector_of(update))
        return {
            key: dequantize(torch.from_numpy(points.astype(np.int64)))
            for key, points in zip(sorted(update), entering, strict=True)
        }

    def _public_part(self, update: Vector) -> Vector:
        own = length(update)
        total = [np.zeros_like(factor) for factor in update]
        if not own:
            return total
        towards = [row[0] / (size * own) for row, size in zip(
            inner_products(self._moves, [update]), self._lengths, strict=True)]  # fmt: skip
        shares = [share * own / size for share, size in zip(solved(self._lower, towards), self._lengths, strict=True)]
        for share, move in zip(shares, self._moves, strict=True):
            multiple = round(share * _SHARE) / _SHARE
            for sum_, factor in zip(total, move, strict=True):
                sum_ += multiple * factor
        return [_clamped(np.rint(factor)) for factor in total]


def length(vector: Vector) -> float:
    """sqrt(<x, x>)."""
    return math.sqrt(inner_products([vector], [vector])[0][0])


def inner_products(left: Sequence[Vector], right: Sequence[Vector]) -> list[list[float]]:
    """[len(left)][len(right)]: <x, y> of each pair, factor by factor in integers that float64 sums exactly."""
    parts = []
    for factor in range(len(left[0]) if left else 0):
        rows, row_scales = _cut([vector[factor] for vector in left])
        columns, column_scales = _cut([vector[factor] for vector in right])
        parts.append((rows @ columns.T) * np.outer(row_scales, column_scales))
    return [[math.fsum(part[i, j] for part in parts) for j in range(len(right))] for i in range(len(left))]


def _cut(factors: Sequence[NDArray[np.float64]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Each factor's entries in one row, cut to so many bits that products sum exactly, and the power of two cut off."""
    size = factors[0].size
    bits = (53 - (size - 1).bit_length()) // 2
    rows = np.stack([factor.reshape(-1) for factor in factors])
    scales = np.array([2.0 ** max(0, int(np.abs(row).max()).bit_length() - bits) for row in rows])
    return np.rint(rows / scales[:, None]), scales


def cholesky(matrix: Sequence[Sequence[float]]) -> list[list[float]]:
    """The rows of the lower factor, each up to its diagonal; under a root stands at least 10^-12."""
    lower: list[list[float]] = []
    for i, given in enumerate(matrix):
        row: list[float] = []
        for j in range(i):
            row.append(_less(given[j], row[:j], lower[j][:j]) / lower[j][j])
        row.append(math.sqrt(max(_less(given[i], row, row), _LEAST_PIVOT)))
        lower.append(row)
    return lower


def solved(lower: Sequence[Sequence[float]], right: Sequence[float]) -> list[float]:
    """c with L L^T c = b: forward from the first row, then back from the last."""
    size = len(right)
    middle: list[float] = []
    for i in range(size):
        middle.append(_less(right[i], lower[i][:i], middle) / lower[i][i])
    result = [0.0] * size
    for i in reversed(range(size)):
        below = [lower[k][i] for k in range(i + 1, size)]
        result[i] = _less(middle[i], below, result[i + 1 :]) / lower[i][i]
    return result


def _less(first: float, left: Sequence[float], right: Sequence[float]) -> float:
    """First less the products, each rounded once and then their sum once."""
    return math.fsum([first, *(-(one * other) for one, other in zip(left, right, strict=True))])


def _clamped(factor: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.clip(factor, -_LARGEST, _LARGEST)
