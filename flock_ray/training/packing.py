"""Sequences one after the other in a single row of tokens, so that no layer but attention sees padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import torch

from flock_ray.training.data import IGNORED, Example


@dataclass(frozen=True)
class Bucket:
    """Rows of a batch that share tokens with others (`shared_prefixes.py`), filled up to one size.

    Attributes:
        queries: [b, q] int64, the tokens that a row brings.
        keys: [b, k] int64, all tokens of the row in their order.
        positions: [b, q] int64, of the queries in their row.
        real: [b, q] bool, false where a query only fills up.
    """

    queries: torch.Tensor
    keys: torch.Tensor
    positions: torch.Tensor
    real: torch.Tensor


@dataclass(frozen=True)
class Packed:
    """A batch of N tokens in R sequences.

    Attributes:
        input_ids: [N] int64.
        position_ids: [N] int64, from 0 in each sequence.
        lengths: tokens of each sequence.
        predictors: [L] int64, the tokens that are followed by a labelled token.
        targets: [L] int64, the labels of those.
        owners: [L] int64, the sequence of each.
        ends: [R + 1] int32, 0 and the end of each sequence (the field's `cu_seqlens`).
        buckets: how sequences that share tokens attend; none where each has tokens of its own.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    lengths: tuple[int, ...]
    predictors: torch.Tensor
    targets: torch.Tensor
    owners: torch.Tensor
    ends: torch.Tensor
    buckets: tuple[Bucket, ...] = ()

    @property
    def rectangular(self) -> bool:
        """Whether all sequences have the same length: then the tokens form a matrix without padding."""
        return min(self.lengths) == max(self.lengths)

    @cached_property
    def cells(self) -> torch.Tensor:
        """[N] int64, where each token lies in a right-padded matrix of R rows, counted row by row."""
        rows = torch.repeat_interleave(torch.tensor(self.lengths, device=self.input_ids.device))
        return rows * max(self.lengths) + self.position_ids


def pack(examples: Sequence[Example], device: torch.device) -> Packed:
    """Put sequences one after the other; the last token of a sequence predicts nothing of the next."""
    lengths = tuple(len(example.input_ids) for example in examples)
    rows = torch.repeat_interleave(torch.tensor(lengths))
    labels = torch.cat([example.labels for example in examples])
    positions = torch.cat([torch.arange(length) for length in lengths])
    labelled = torch.nonzero((labels != IGNORED) & (positions > 0))[:, 0]
    ids = torch.cat([example.input_ids for example in examples])
    ends = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
    parts = (ids, positions, labelled - 1, labels[labelled], rows[labelled], ends)
    ids, positions, predictors, targets, owners, ends = (part.to(device) for part in parts)
    return Packed(ids, positions, lengths, predictors, targets, owners, ends)


def filler(tokens: int, longest: int) -> list[Example]:
    """Sequences of at most `longest` tokens, `tokens` in total, without labels and so without effect."""
    sizes = [longest] * (tokens // longest) + [tokens % longest] * (tokens % longest > 0)
    return [Example.of([0] * size, [False] * size) for size in sizes]
