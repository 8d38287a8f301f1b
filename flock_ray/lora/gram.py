"""Exact inner products of LoRA updates: the same to the last bit on every machine, in any order, with any threads.

An update moves the product of each layer from B0 A0 to (B0 + dB)(A0 + dA), that is by

    U = L R,  L = [dB | B0],  R = [A0 + dA ; dA],

of rank at most 2r, whatever basis its member chose for the factors. No out x in matrix is formed:
<U_i, U_j> is the sum over layers of sum((L_i^T L_j) * (R_i R_j^T)), the identity of `algebra.product_inner`.

Entries are grid points of `fixed_point`, so they are integers already. Where those of one member's factor are too long
for products whose every partial sum stays within 2^53, they are rounded to fewer bits by a power of two. Products of
integers in float64 are then exact, in whatever order a library adds them up; what follows them is elementwise, or an
exactly rounded sum.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from flock_ray.lora.fixed_point import SCALE, quantize
from flock_ray.lora.serialization import LORA_A, LORA_B, Adapter

Gram = list[list[float]]
"""[K][K], symmetric: the inner product of each pair of K updates."""

_EXACT_BITS = 53  # integers up to 2^53 are exact in float64


def gram(start: Adapter, updates: Sequence[Adapter]) -> Gram:
    """The inner products <U_i, U_j> of updates as moves of the layers' products, summed over all layers.

    The common factor (alpha / rank)^2 is left out: no ratio of products has it. The relative error is that of a few
    roundings in float64 where the entries of a layer of up to 2^11 rows and columns are below 1/8 in magnitude, and
    about 2^-20 of the largest products where they are not. Memory is that of one layer of all updates in float64, and
    of a few matrices of (K * rank)^2.

    Args:
        start: the common start, on the fixed-point grid.
        updates: K factor deltas from it, of its keys and shapes, all of one rank.

    Returns:
        Permuting the updates permutes rows and columns, and changes no bit of them.

    Raises:
        ValueError: a value is outside the fixed-point range; see `quantize`.
    """
    if not updates:
        return []
    total: NDArray[np.float64] | float = 0.0
    for key in sorted(key for key in start if key.endswith(LORA_A)):
        total = total + _layer(start, updates, key, key.removesuffix(LORA_A) + LORA_B)
    assert isinstance(total, np.ndarray)
    count, rank = len(updates), len(total) // len(updates)
    blocks = total.reshape(count, rank, count, rank)
    result = [[0.0] * count for _ in range(count)]
    for i in range(count):
        for j in range(i, count):
            result[i][j] = result[j][i] = math.fsum(blocks[i, :, j].ravel().tolist()) / SCALE**4
    return result


def inner_products(factors: Iterable[NDArray[np.float64]]) -> Gram:
    """The inner products <x_i, x_j> of M vectors of grid points, given factor by factor in a fixed order.

    Args:
        factors: of each the entries of all vectors, [M, size], integers within 2^53. A vector's own entries decide how
            far they are rounded, so its products are the same whatever other vectors are there.
    """
    parts = []
    for rows in factors:
        bits = (_EXACT_BITS - (rows.shape[1] - 1).bit_length()) // 2
        parts.append(_products(rows[:, None, :], bits))
    count = len(parts[0]) if parts else 0
    return [[math.fsum(part[i, j] for part in parts) for j in range(count)] for i in range(count)]


def _layer(start: Adapter, updates: Sequence[Adapter], key_a: str, key_b: str) -> NDArray[np.float64]:
    """[K * rank, K * rank]: what a layer adds, member after member, before each block of rank x rank is summed."""
    rank, columns = start[key_a].shape
    bits = (_EXACT_BITS - (max(columns, len(start[key_b])) - 1).bit_length()) // 2
    of_b = [_points(updates, key_b), _points([start], key_b)]
    of_a = [_points(updates, key_a), _points([start], key_a)]
    b_moves, b_mixed, b_base = _pairs(_products(np.concatenate(of_b).swapaxes(1, 2), bits), len(updates), rank)
    a_moves, a_mixed, a_base = _pairs(_products(np.concatenate(of_a), bits), len(updates), rank)
    # A_i = A0 + dA_i: its products with A_j and dA_j, and those with B0 in place of dB_i once for each of the two.
    with_b0 = b_mixed * (a_mixed.T + a_moves)
    return b_moves * (a_base + (a_mixed + a_mixed.T) + a_moves) + (with_b0 + with_b0.T) + b_base * a_moves


def _pairs(products: NDArray[np.float64], count: int, rank: int) -> tuple[NDArray[np.float64], ...]:
    """For each pair of updates: products of their moves, of the first move with the start, of the start with itself.

    Args:
        products: [(K + 1) * rank] squared, of the moves and then of the start.
        count: K.
        rank: of each block.

    Returns:
        Three of [K * rank, K * rank].
    """
    ours = count * rank
    mixed, base = np.tile(products[:ours, ours:], (1, count)), np.tile(products[ours:, ours:], (count, count))
    return products[:ours, :ours], mixed, base


def _points(adapters: Sequence[Adapter], key: str) -> NDArray[np.float64]:
    """[K, rows, columns] the grid points of a factor of each adapter, which float64 holds exactly."""
    points: NDArray[np.float64] = quantize(torch.stack([adapter[key] for adapter in adapters])).double().numpy()
    return points


def _products(blocks: NDArray[np.float64], bits: int) -> NDArray[np.float64]:
    """The inner products of all rows of integer matrices, each of which is first cut to `bits` bits.

    A matrix with an entry above 2^bits is divided by the power of two after which it has none, and rounded, ties to
    even: products of the integers are then exact, and the powers of two that multiply them are too.

    Args:
        blocks: [M, rank, size].
        bits: such that size * 2^(2 bits) is at most 2^53.

    Returns:
        [M * rank, M * rank].
    """
    shifts = np.maximum(0, np.frexp(np.abs(blocks).max(axis=(1, 2)))[1] - bits)
    if shifts.any():
        blocks = np.rint(np.ldexp(blocks, -shifts[:, None, None]))
    rows = blocks.reshape(-1, blocks.shape[2])
    scales = np.repeat(np.ldexp(1.0, shifts), blocks.shape[1])
    result: NDArray[np.float64] = (rows @ rows.T) * np.outer(scales, scales)
    return result
