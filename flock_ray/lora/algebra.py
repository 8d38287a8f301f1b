"""Algebra of adapters and of products of their factors, never forming a dense out x in matrix.

A LoRA layer adds the product B A, with A [rank, in] and B [out, rank]. Averaging factors is not averaging products;
`factor_averaging_error` says by how much. Everything here is computed in float64 but the adapters themselves (float32).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch

from flock_ray.lora.fixed_point import dequantize, quantize
from flock_ray.lora.serialization import LORA_A, LORA_B, Adapter, Shapes, require_storable

_PRODUCTS = 10**9  # multiplications to spend on a figure that is only displayed


def initial_adapter(shapes: Shapes, seed: int) -> Adapter:
    """The adapter of epoch 0: A uniform in +-1/sqrt(in) (PEFT's Kaiming-uniform with a = sqrt(5)), B zero.

    Values are on the fixed-point grid, so that aggregation adds to them exactly.

    Args:
        shapes: PEFT key -> shape, as returned by `peft_io.adapter_shapes`.
        seed: 0 <= seed < 2^63; keys draw from one generator in sorted order.

    Raises:
        ModelError: it would be too large; see `require_storable`.
    """
    require_storable(shapes)
    generator = torch.Generator().manual_seed(seed)
    adapter: Adapter = {}
    for key, shape in sorted(shapes.items()):
        factor = torch.zeros(shape)
        if key.endswith(LORA_A):
            bound = 1 / math.sqrt(shape[1])
            factor = dequantize(quantize(factor.uniform_(-bound, bound, generator=generator)))
        adapter[key] = factor
    return adapter


def add(left: Adapter, right: Adapter) -> Adapter:
    """left + right, factor by factor, in float32; both have the same keys and shapes."""
    assert left.keys() == right.keys()
    return {key: left[key] + right[key] for key in left}


def subtract(left: Adapter, right: Adapter) -> Adapter:
    """left - right, factor by factor, in float32; both have the same keys and shapes."""
    assert left.keys() == right.keys()
    return {key: left[key] - right[key] for key in left}


def mixture(one: Adapter, other: Adapter, share: float) -> Adapter:
    """The adapter of the first one's rank that is closest to (1 - share) of its products plus share of the other's.

    Layer by layer, by the singular values of the stacked factors (Eckart and Young 1936); no product is formed.

    Args:
        one: an adapter.
        other: another with the same layers, of any rank.
        share: of the other, 0 to 1.
    """
    result = dict[str, torch.Tensor]()
    for key, a in sorted(one.items()):
        if key.endswith(LORA_A):
            name, rank = key.removesuffix(LORA_A) + LORA_B, len(a)
            left, inner = torch.linalg.qr(torch.cat([(1 - share) * one[name], share * other[name]], dim=1))
            right, outer = torch.linalg.qr(torch.cat([a, other[key]]).T)
            u, sizes, v = torch.linalg.svd(inner @ outer.T)
            root = sizes[:rank].sqrt()
            result[key], result[name] = root[:, None] * (v[:rank] @ right.T), left @ u[:, :rank] * root
    return dict(sorted(result.items()))


def product_inner(b1: torch.Tensor, a1: torch.Tensor, b2: torch.Tensor, a2: torch.Tensor) -> float:
    """Frobenius inner product <B1 A1, B2 A2> = sum((B1^T B2) * (A1 A2^T)), in float64.

    Args:
        b1: [out, r1].
        a1: [r1, in].
        b2: [out, r2].
        a2: [r2, in].
    """
    b1, a1, b2, a2 = b1.double(), a1.double(), b2.double(), a2.double()
    return float(((b1.T @ b2) * (a1 @ a2.T)).sum())


def _layers(deltas: Sequence[Adapter]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Each layer's factors of all K adapters, stacked in float64: B [K, out, rank] and A [K, rank, in]."""
    for key in sorted(deltas[0]):
        if key.endswith(LORA_A):
            key_b = key.removesuffix(LORA_A) + LORA_B
            yield (
                torch.stack([delta[key_b].double() for delta in deltas]),
                torch.stack([delta[key].double() for delta in deltas]),
            )


def some_of(deltas: Sequence[Adapter]) -> Sequence[Adapter]:
    """An evenly spread sample of K deltas on which `factor_averaging_error` is quick: its cost grows with K squared.

    For half a dozen members and a model of a hundred million parameters it is all of them.
    """
    sizes = [(min(factor.shape), max(factor.shape)) for factor in deltas[0].values()]
    rank, lengths = max(short for short, _ in sizes), sum(long for _, long in sizes)
    number = max(2, math.isqrt(_PRODUCTS // lengths) // rank)
    return deltas[:: -(-len(deltas) // number)]


def factor_averaging_error(start: Adapter, deltas: Sequence[Adapter]) -> float:
    """How far the product of averaged factors is from the average of products, relative to the average move.

    With U_k = (B0 + dB_k)(A0 + dA_k) - B0 A0 it is ||mean U - U of the mean factors||_F / ||mean U||_F over all layers.
    The numerator is computed as mean((dB - mean dB)(dA - mean dA)), which is the same matrix without its cancellation.

    Args:
        start: the common start.
        deltas: factor deltas from it, at least one, all of its keys and shapes.

    Returns:
        0 if all deltas are equal or zero, or all leave A as it is; inf if only the mean move vanishes.
    """
    neglected = total = 0.0
    for (b0, a0), (b, a) in zip(_layers([start]), _layers(deltas), strict=True):
        neglected += _squared_norm_of_mean(b - b.mean(dim=0), a - a.mean(dim=0))
        b_wide, a_tall = torch.cat([*b, b0[0]], dim=1), torch.cat([*(a0 + a) / len(a), a.mean(dim=0)])
        total += max(0.0, product_inner(b_wide, a_tall, b_wide, a_tall))
    if neglected == 0.0:
        return 0.0
    return math.sqrt(neglected / total) if total else math.inf


def _squared_norm_of_mean(b: torch.Tensor, a: torch.Tensor) -> float:
    """||mean_k B_k A_k||_F^2 from B [K, out, rank] and A [K, rank, in]: a product of K * rank columns and rows."""
    b_wide, a_tall = torch.cat(tuple(b), dim=1), torch.cat(tuple(a / len(a)), dim=0)
    return max(0.0, product_inner(b_wide, a_tall, b_wide, a_tall))
