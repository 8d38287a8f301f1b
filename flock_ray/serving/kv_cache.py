"""Keys and values of many rows, each with positions of its own, and attention to them for transformers' models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional
from transformers import AttentionInterface, PreTrainedModel

from flock_ray.errors import ModelError
from flock_ray.training.architecture import why_not_stacked

CACHED = "flock_ray_cached"
"""Name of the implementation in a model's configuration."""

BLOCK = 64
"""Positions of the cache are looked at in multiples of it, so that steps have few shapes."""
_GAP = 2
"""Idle slots between two that decode, over which one product goes all the same: as dear as another call."""
_UNSTEADY = ("dynamic", "longrope")
"""Rotary embeddings that depend on the longest row of a batch: neighbours would change an answer."""


@dataclass(frozen=True)
class Chunk:
    """Tokens of one row in a step: the next part of its prompt, or the token made last.

    Attributes:
        slot: of the cache.
        adapter: slot of the adapter.
        start: position of the first token.
        tokens: at least one.
        logits: for how many of the last tokens logits are wanted.
    """

    slot: int
    adapter: int
    start: int
    tokens: tuple[int, ...]
    logits: int


@dataclass(frozen=True)
class Block:
    """Rows with as many new tokens each, in neighbouring slots of the cache.

    Attributes:
        slots: of the cache, first and behind the last.
        prefix: positions that are looked at.
        tokens: [rows, c] int64, of the step.
        places: [rows] int64 in the block, None if every slot of it has a row, in order.
        mask: [slots, 1, heads of a key * c, prefix], 0 where a token sees a position and -inf elsewhere.
    """

    slots: tuple[int, int]
    prefix: int
    tokens: torch.Tensor
    places: torch.Tensor | None
    mask: torch.Tensor


class KvCache:
    """[layer][slot, key head, position, width], twice.

    Attributes:
        slots: of positions alike.
        positions: of each slot.
        shared: heads that share a key.
    """

    def __init__(self, model: PreTrainedModel, slots: int, positions: int) -> None:
        """Take the memory, and make the model attend to it.

        Args:
            model: on its device.
            slots: rows at the same time.
            positions: longest row; made a multiple of `BLOCK`.

        Raises:
            ModelError: the model's attention is of another kind.
        """
        config = model.config.get_text_config()
        rope = {
            str((getattr(config, name, None) or {}).get(key))
            for name in ("rope_parameters", "rope_scaling")
            for key in ("rope_type", "type")
        }
        reason = why_not_stacked(model, positions)
        if rope & set(_UNSTEADY):
            reason = "the model's positions depend on the longest row of a batch"
        if reason:
            raise ModelError(f"{reason}, which the serving engine does not do; serve another base model")
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.slots, self.positions = slots, math.ceil(positions / BLOCK) * BLOCK
        self.shared = config.num_attention_heads // heads
        shape = (slots, heads, self.positions, width)
        like = model.get_input_embeddings().weight
        # Zeros, not what was there: what is masked is still multiplied, by zero, and that of a NaN is one.
        self.keys = [like.new_zeros(shape, requires_grad=False) for _ in range(config.num_hidden_layers)]
        self.values = [torch.zeros_like(keys) for keys in self.keys]
        AttentionInterface.register(CACHED, cached_attention)
        model.set_attn_implementation(CACHED)

    def clear(self, slot: int, first: int, last: int) -> None:
        """Overwrite positions first, …, last - 1 of a slot with zeros."""
        for tensor in (*self.keys, *self.values):
            tensor[slot, :, first:last] = 0

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first positions of a slot."""
        for tensor in (*self.keys, *self.values):
            tensor[target, :, :length] = tensor[source, :, :length]


@dataclass(frozen=True)
class Step:
    """A step for the layers.

    Attributes:
        cache: where keys and values are.
        slots, positions: [N] int64, of each token.
        blocks: all tokens.
    """

    cache: KvCache
    slots: torch.Tensor
    positions: torch.Tensor
    blocks: tuple[Block, ...]

    @classmethod
    def of(cls, cache: KvCache, chunks: Sequence[Chunk]) -> Step:
        """The step of these chunks, whose tokens come one after the other."""
        device, dtype = cache.keys[0].device, cache.keys[0].dtype
        firsts, count = list[int](), 0
        for chunk in chunks:
            firsts.append(count)
            count += len(chunk.tokens)
        single = sorted((chunk.slot, number) for number, chunk in enumerate(chunks) if len(chunk.tokens) == 1)
        runs: list[list[int]] = [[number] for number, chunk in enumerate(chunks) if len(chunk.tokens) > 1]
        before = -math.inf
        for slot, number in single:
            if slot - before > _GAP + 1:
                runs.append([])
            runs[-1].append(number)
            before = slot
        slots = [chunk.slot for chunk in chunks for _ in chunk.tokens]
        positions = [chunk.start + place for chunk in chunks for place in range(len(chunk.tokens))]
        blocks = [_block(cache, [(chunks[number], firsts[number]) for number in run], dtype, device) for run in runs]
        return cls(cache, torch.tensor(slots).to(device), torch.tensor(positions).to(device), tuple(blocks))


def _block(cache: KvCache, run: Sequence[tuple[Chunk, int]], dtype: torch.dtype, device: torch.device) -> Block:
    """Chunks of as many tokens, by ascending slot, each with the number of its first token."""
    first, last, size = run[0][0].slot, run[-1][0].slot + 1, len(run[0][0].tokens)
    longest = max(chunk.start for chunk, _ in run) + size
    prefix = min(math.ceil(longest / BLOCK) * BLOCK, cache.positions)
    ends = torch.full((last - first, 1), -size)  # of a slot without a row: sees nothing but the first position
    places = torch.tensor([chunk.slot - first for chunk, _ in run])
    ends[places, 0] = torch.tensor([chunk.start for chunk, _ in run])
    seen = (ends + torch.arange(size)).clamp(min=0)[..., None] >= torch.arange(prefix)
    mask = torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, float("-inf"))
    tokens = torch.tensor([[start + place for place in range(size)] for _, start in run])
    return Block(
        (first, last), prefix, tokens.to(device), None if len(run) == last - first else places.to(device),
        mask.repeat(1, cache.shared, 1)[:, None].to(device),
    )  # fmt: skip


def cached_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    step: Step,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """Attention of each token to its own row: what is cached of it, and itself.

    Args:
        module: the attention layer; its `layer_idx` says which part of the cache is its own.
        query: [1, heads, N, width].
        key: [1, key heads, N, width]; each serves heads / key heads consecutive heads (Ainslie et al. 2023).
        value: as `key`.
        attention_mask: None, transformers makes no mask for this implementation.
        step: of these tokens.
        scaling: of the products; 1 / sqrt(width) if None.
        softcap: not supported, must be None.
        s_aux: sinks; not supported, must be None.

    Returns:
        [1, N, heads, width], and no weights.
    """
    assert attention_mask is None and softcap is None and s_aux is None
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))  # [N, heads, width]
    layer = module.layer_idx
    assert isinstance(layer, int)
    keys, values = step.cache.keys[layer], step.cache.values[layer]
    keys[step.slots, :, step.positions] = k
    values[step.slots, :, step.positions] = v
    (count, heads, width), key_heads = q.shape, k.shape[1]
    attended = q.new_empty(count, heads, width)
    for block in step.blocks:
        first, last = block.slots
        size = block.tokens.shape[1]
        rows = q[block.tokens]  # [rows, c, heads, width]
        if block.places is not None:
            rows = rows.new_zeros(last - first, *rows.shape[1:]).index_copy(0, block.places, rows)
        # Heads that share a key see the same positions: as further queries they need no copies of it.
        grouped = rows.view(last - first, size, key_heads, -1, width).permute(0, 2, 3, 1, 4)
        found = functional.scaled_dot_product_attention(
            grouped.reshape(last - first, key_heads, -1, width),
            keys[first:last, :, : block.prefix],
            values[first:last, :, : block.prefix],
            attn_mask=block.mask,
            scale=scaling,
        )
        found = found.view(last - first, key_heads, -1, size, width).permute(0, 3, 1, 2, 4)
        found = found.reshape(last - first, size, heads, width)
        attended[block.tokens] = found if block.places is None else found[block.places]
    return attended[None], None
