"""What an update adds to the moves that the public knows, and what of it enters a candidate: docs/mechanism.md.

All vectors are grid points of `fixed_point`. Inner products are exact (`gram.inner_products`), and what follows them is
arithmetic that IEEE 754 defines to the last bit, in a fixed order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from flock_ray.lora.fixed_point import dequantize, quantize
from flock_ray.lora.gram import inner_products
from flock_ray.lora.serialization import Adapter

MAX_UPDATE = 2**42
"""Largest entry of what is made of an update, in grid points; no wire format lets one have more."""

_RIDGE = 1e-6
_LEAST_PIVOT = 1e-12
_SHARES = 2**20
_EXACT_IN_FLOAT32 = 2**24

_Points = dict[str, NDArray[np.float64]]
"""Key -> [size] grid points of a factor."""


@dataclass(frozen=True)
class Split:
    """An update in two: what it adds to what is public (`residual`), and what of it enters a candidate (`entering`)."""

    residual: Adapter
    entering: Adapter


class KnownMoves:
    """The last moves of the global adapter, which everybody knows.

    Memory is that of the moves in float32, where that holds their grid points exactly, and in float64 that of an
    update, its residual and its public part.
    """

    def __init__(self, adapters: Sequence[Adapter]) -> None:
        """Take the moves between consecutive adapters of the same keys and shapes, oldest first.

        Raises:
            ValueError: a value is outside the fixed-point range; see `quantize`.
        """
        self._keys = sorted(adapters[0])
        self._moves = {key: _differences(adapters, key) for key in self._keys}
        products = inner_products(self._with([], key) for key in self._keys)
        lengths = [math.sqrt(products[move][move]) for move in range(len(products))]
        self._used = [move for move, length in enumerate(lengths) if length]
        self._lengths = [lengths[move] for move in self._used]
        cosines = [
            [products[k][m] / (lengths[k] * lengths[m]) if k != m else 1 + _RIDGE for m in self._used]
            for k in self._used
        ]
        self._lower = cholesky(cosines)

    def split(self, updates: Sequence[Adapter]) -> Iterator[Split]:
        """Each update in two, one after the other.

        Args:
            updates: of the adapters' keys and shapes, entries at most `MAX_UPDATE` grid points.

        Raises:
            ValueError: a value is outside the fixed-point range; see `quantize`.
        """
        count = len(self._moves[self._keys[0]])
        products = inner_products(self._with(updates, key) for key in self._keys)
        for number, update in enumerate(updates):
            row = products[count + number]
            shares = self._shares([row[move] for move in self._used], math.sqrt(row[count + number]))
            yield self._split(update, shares)

    def _with(self, updates: Sequence[Adapter], key: str) -> NDArray[np.float64]:
        """[K + U, size] a factor of all moves and of these updates."""
        moves = self._moves[key].astype(np.float64)
        return np.concatenate([moves, *(_points(update, key)[None] for update in updates)])

    def _shares(self, products: Sequence[float], length: float) -> list[float]:
        """How much of each used move is in an update, by its inner products with them and its length."""
        if not length:
            return [0.0] * len(products)
        lengths = self._lengths
        right = [product / (own * length) for product, own in zip(products, lengths, strict=True)]
        solved = solve_cholesky(self._lower, right)
        return [round(c * length / own * _SHARES) / _SHARES for c, own in zip(solved, lengths, strict=True)]

    def _split(self, update: Adapter, shares: Sequence[float]) -> Split:
        residual, public = _Points(), _Points()
        for key in self._keys:
            points = _points(update, key)
            known = np.zeros_like(points)
            for share, move in zip(shares, self._used, strict=True):
                known += share * self._moves[key][move].astype(np.float64)
            public[key] = _clamped(np.rint(known))
            residual[key] = _clamped(points - public[key])
        products = inner_products(np.stack([residual[key], public[key]]) for key in self._keys)
        known_length = math.sqrt(products[1][1])
        kept = min(1.0, math.sqrt(products[0][0]) / known_length) if known_length else 0.0
        entering = {key: _clamped(residual[key] + np.rint(public[key] * kept)) for key in self._keys}
        return Split(_adapter(residual, update), _adapter(entering, update))


def cholesky(matrix: Sequence[Sequence[float]]) -> list[list[float]]:
    """The lower triangle L of a symmetric matrix, L L^T, row by row; no pivot is below 10^-12."""
    lower: list[list[float]] = []
    for i, given in enumerate(matrix):
        row: list[float] = []
        for j in range(i):
            row.append(_less(given[j], row, lower[j]) / lower[j][j])
        row.append(math.sqrt(max(_LEAST_PIVOT, _less(given[i], row, row))))
        lower.append(row)
    return lower


def solve_cholesky(lower: Sequence[Sequence[float]], right: Sequence[float]) -> list[float]:
    """c of L L^T c = right."""
    size, forward = len(right), list[float]()
    for i in range(size):
        forward.append(_less(right[i], lower[i], forward) / lower[i][i])
    solution = [0.0] * size
    for i in reversed(range(size)):
        below = [lower[k][i] for k in range(i + 1, size)]
        solution[i] = _less(forward[i], below, solution[i + 1 :]) / lower[i][i]
    return solution


def _less(first: float, left: Sequence[float], right: Sequence[float]) -> float:
    """first - sum(left * right), as far as the shorter goes, rounded once after the products."""
    return math.fsum([first, *(-(one * other) for one, other in zip(left, right, strict=False))])


def _points(adapter: Adapter, key: str) -> NDArray[np.float64]:
    """[size] grid points of a factor."""
    points: NDArray[np.float64] = quantize(adapter[key]).double().numpy().ravel()
    return points


def _differences(adapters: Sequence[Adapter], key: str) -> NDArray[np.float32] | NDArray[np.float64]:
    """[K, size] what a factor moved by from each adapter to the next."""
    points = [_points(adapter, key) for adapter in adapters]
    if len(points) == 1:
        return np.zeros((0, len(points[0])))
    moves = np.stack([after - before for before, after in pairwise(points)])
    return moves.astype(np.float32) if np.abs(moves).max() <= _EXACT_IN_FLOAT32 else moves


def _clamped(points: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.clip(points, -MAX_UPDATE, MAX_UPDATE)


def _adapter(points: _Points, like: Adapter) -> Adapter:
    return {
        key: dequantize(torch.from_numpy(row.astype(np.int64))).view(like[key].shape) for key, row in points.items()
    }
