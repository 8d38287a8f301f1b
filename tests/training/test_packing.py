from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from flock_ray.errors import ModelError
from flock_ray.training.attention import packed_attention
from flock_ray.training.data import Example
from flock_ray.training.packing import Packed, filler, pack

pytestmark = pytest.mark.model

CPU = torch.device("cpu")
LAYER = torch.nn.Identity()


def of_lengths(lengths: list[int]) -> Packed:
    return pack([Example.of(list(range(length)), [True] * length) for length in lengths], CPU)


@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=6), min_size=1, max_size=5))
def test_every_label_is_predicted_by_the_token_before_it(masks: list[list[bool]]) -> None:
    examples = [Example.of([10 * row + i for i in range(len(mask))], mask) for row, mask in enumerate(masks)]
    packed = pack(examples, CPU)
    result = {
        (owner, int(packed.input_ids[predictor]), target)
        for owner, predictor, target in zip(
            packed.owners.tolist(), packed.predictors.tolist(), packed.targets.tolist(), strict=True
        )
    }
    wanted = {
        (row, 10 * row + i - 1, 10 * row + i) for row, mask in enumerate(masks) for i in range(1, len(mask)) if mask[i]
    }
    assert result == wanted
    assert packed.lengths == tuple(len(mask) for mask in masks)
    assert packed.position_ids.tolist() == [i for mask in masks for i in range(len(mask))]
    assert packed.ends.tolist() == [sum(packed.lengths[:row]) for row in range(len(masks) + 1)]


@given(st.integers(0, 40), st.integers(1, 9))
def test_filler_has_no_labels(tokens: int, longest: int) -> None:
    rows = filler(tokens, longest)
    assert sum(len(row.input_ids) for row in rows) == tokens
    assert all(0 < len(row.input_ids) <= longest and row.num_labels == 0 for row in rows)


@pytest.mark.parametrize("lengths", [[5, 5, 5], [7, 1, 4], [600, 3], [600, 600]])
@pytest.mark.parametrize("key_heads", [4, 2])
def test_attention_within_each_sequence_is_that_of_torch(lengths: list[int], key_heads: int) -> None:
    """Explicit and fused products, rows of one length and of several; forward and gradients."""
    generator = torch.Generator().manual_seed(0)
    tokens = sum(lengths)
    query, key, value = (
        torch.randn(1, heads, tokens, 8, generator=generator, requires_grad=True) for heads in (4, key_heads, key_heads)
    )
    ours, _ = packed_attention(LAYER, query, key, value, None, packed=of_lengths(lengths), scaling=0.3)
    parts = zip(*(x.split(lengths, dim=2) for x in (query, key, value)), strict=True)
    theirs = torch.cat(
        [functional.scaled_dot_product_attention(*p, is_causal=True, scale=0.3, enable_gqa=True) for p in parts], dim=2
    ).transpose(1, 2)
    assert torch.allclose(ours, theirs, atol=1e-5)
    weights = torch.randn(ours.shape, generator=generator)
    for mine, other in zip(
        torch.autograd.grad(ours, (query, key, value), weights),
        torch.autograd.grad(theirs, (query, key, value), weights),
        strict=True,
    ):
        assert torch.allclose(mine, other, atol=1e-4)


def test_scaling_defaults_to_the_width() -> None:
    query, key, value = torch.randn(3, 1, 2, 5, 16).unbind()
    packed = of_lengths([5])
    assert torch.equal(
        packed_attention(LAYER, query, key, value, None, packed=packed)[0],
        packed_attention(LAYER, query, key, value, None, packed=packed, scaling=0.25)[0],
    )


@pytest.mark.parametrize("more", [{"sliding_window": 4}, {"softcap": 50.0}, {"s_aux": torch.zeros(2)}])
def test_attention_that_is_more_than_causal_is_refused(more: dict[str, object]) -> None:
    query = torch.randn(1, 2, 5, 8)
    with pytest.raises(ModelError, match=r"training\.backend=sequential"):
        packed_attention(LAYER, query, query, query, None, packed=of_lengths([5]), **more)


def test_window_longer_than_all_sequences_is_none() -> None:
    query = torch.randn(1, 2, 5, 8)
    packed_attention(LAYER, query, query, query, None, packed=of_lengths([5]), sliding_window=5)
