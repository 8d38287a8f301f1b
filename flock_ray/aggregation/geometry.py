"""Lengths, distances and mixtures of updates from their inner products, in Python's floats and exactly rounded sums."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import starmap
from operator import mul

from flock_ray.lora.gram import Gram

Mixing = Sequence[Sequence[float]]
"""[n][n]: row i has the share of each update in the i-th mixture."""


def dot(left: Sequence[float], right: Sequence[float]) -> float:
    """The sum of products, each rounded once, and then the sum once: the same in any order."""
    return math.fsum(starmap(mul, zip(left, right, strict=True)))


def norms(products: Gram) -> list[float]:
    """The length of each update."""
    return [math.sqrt(max(0.0, row[i])) for i, row in enumerate(products)]


def squared_distances(products: Gram) -> list[list[float]]:
    """[n][n] |U_i - U_j|^2 = G_ii + G_jj - 2 G_ij."""
    squares = [row[i] for i, row in enumerate(products)]
    return [
        [max(0.0, squares[i] + squares[j] - 2 * product) for j, product in enumerate(row)]
        for i, row in enumerate(products)
    ]


def distances_to(products: Gram, shares: Sequence[float]) -> list[float]:
    """The distance of each update to the mixture of these shares: sqrt(G_ii - 2 (G s)_i + s^T G s)."""
    towards = [dot(row, shares) for row in products]
    square = dot(towards, shares)
    return [math.sqrt(max(0.0, row[i] - 2 * towards[i] + square)) for i, row in enumerate(products)]


def mixed(products: Gram, mixing: Mixing) -> Gram:
    """M G M^T, the inner products of mixtures; symmetric to the last bit."""
    halves = [[dot(shares, column) for column in products] for shares in mixing]  # M G: products is symmetric
    raw = [[dot(half, shares) for shares in mixing] for half in halves]
    return [[(value + raw[j][i]) / 2 for j, value in enumerate(row)] for i, row in enumerate(raw)]


def shares_of_updates(shares: Sequence[float], mixing: Mixing) -> list[float]:
    """s M: shares of mixtures as shares of the updates that they were made of."""
    return [dot(shares, column) for column in zip(*mixing, strict=True)]
