"""Causal attention within each sequence of a packed batch (`packing.py`), as an implementation for transformers."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional
from transformers import AttentionInterface, PreTrainedModel

from flock_ray.errors import ModelError
from flock_ray.training.packing import Packed

PACKED = "flock_ray_packed"
"""Name of the implementation in a model's configuration."""

EXPLICIT_LENGTH = 512
"""On a CPU explicit products are faster than the fused kernel up to this length: twice, for bfloat16 and 128 tokens."""


def use_packed_attention(model: PreTrainedModel) -> None:
    """Make a model attend within the sequences of the `Packed` that its decoder is called with.

    The first call of a model whose layers need more than causal attention raises a ModelError.
    """
    AttentionInterface.register(PACKED, packed_attention)
    model.set_attn_implementation(PACKED)


def packed_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    packed: Packed,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """Causal attention of each sequence to itself.

    Args:
        module: the attention layer; unused.
        query: [1, heads, N, width].
        key: [1, key heads, N, width]; each serves heads / key heads consecutive heads (Ainslie et al. 2023).
        value: as `key`.
        attention_mask: None, transformers makes no mask for this implementation.
        packed: the batch of these tokens.
        scaling: of the products; 1 / sqrt(width) if None.
        sliding_window: no sequence may be longer.
        softcap: of the products; not supported, must be None.
        s_aux: sinks; not supported, must be None.

    Returns:
        [1, N, heads, width], and no weights.

    Raises:
        ModelError: the layer needs more than causal attention.
    """
    assert attention_mask is None
    if (sliding_window or math.inf) < max(packed.lengths) or softcap is not None or s_aux is not None:
        raise ModelError(
            "the model's attention has a window, a soft cap or sinks, which the stacked backends do not do: take"
            " training.backend=sequential"
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))  # [N, heads, width]
    if packed.buckets:
        return _shared(q, k, v, packed, scale)[None], None
    if q.is_cuda and q.dtype != torch.float32:
        return _variable_length(q, k, v, packed, scale)[None], None
    rows, longest = len(packed.lengths), max(packed.lengths)
    if not packed.rectangular:
        q, k, v = (x.new_zeros(rows * longest, *x.shape[1:]).index_copy(0, packed.cells, x) for x in (q, k, v))
    q, k, v = (x.reshape(rows, longest, *x.shape[1:]).transpose(1, 2) for x in (q, k, v))
    attend = _causal if longest <= EXPLICIT_LENGTH and not q.is_cuda else _fused
    attended = attend(q, k, v, scale).transpose(1, 2).reshape(rows * longest, q.shape[1], q.shape[3])
    return (attended if packed.rectangular else attended[packed.cells])[None], None


def _variable_length(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, packed: Packed, scale: float) -> torch.Tensor:
    """FlashAttention over sequences of unequal lengths, [N, heads, width]."""
    from torch.nn.attention.varlen import varlen_attn

    longest = max(packed.lengths)
    attended = varlen_attn(
        q, k, v, packed.ends, packed.ends, longest, longest, scale=scale, window_size=(-1, 0), enable_gqa=True
    )
    assert isinstance(attended, torch.Tensor)
    return attended


def _fused(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
    return functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=True)


def _shared(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, packed: Packed, scale: float) -> torch.Tensor:
    """Attention of rows that share tokens, [N, heads, width]: each token is a query in the row that brings it."""
    attended = torch.empty_like(q)
    for bucket in packed.buckets:
        queries, keys, values = (
            x[cells].transpose(1, 2) for x, cells in ((q, bucket.queries), (k, bucket.keys), (v, bucket.keys))
        )
        later = torch.arange(bucket.keys.shape[1], device=q.device) > bucket.positions[..., None]
        future = torch.zeros(later.shape, dtype=q.dtype, device=q.device).masked_fill(later, float("-inf"))
        found = _explicit(queries, keys, values, scale, future[:, None, None]).transpose(1, 2)
        attended[bucket.queries[bucket.real]] = found[bucket.real]
    return attended


def _causal(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
    size = q.shape[2]
    future = torch.full((size, size), float("-inf"), dtype=q.dtype, device=q.device).triu(1)
    return _explicit(q, k, v, scale, future)


def _explicit(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, future: torch.Tensor) -> torch.Tensor:
    """[R, heads, s, width]; heads that share a key are multiplied in one product, so keys are never repeated.

    `future` has 0 where a query sees a key and -inf elsewhere, [s, t] or [R, 1, 1, s, t].
    """
    rows, heads, size, width = q.shape
    groups = heads // k.shape[1]
    products = torch.matmul((q * scale).reshape(rows, -1, groups * size, width), k.transpose(2, 3))
    weights = torch.softmax(products.view(rows, -1, groups, size, k.shape[2]) + future, dim=-1)
    return torch.matmul(weights.view(rows, -1, groups * size, k.shape[2]), v).view(rows, heads, size, width)
