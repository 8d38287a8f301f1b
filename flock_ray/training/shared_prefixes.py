"""Rows that begin alike, packed so that an adapter passes what they share once.

A causal model's output at a token depends on the tokens up to it, so rows with a common beginning (a system prompt, a
schema) share the outputs there: the tokens of all rows form a tree, and only its nodes are computed. A row then attends
to the nodes on its own path. This is exact; only the order of additions differs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from flock_ray.training.data import IGNORED, Example
from flock_ray.training.packing import Bucket, Packed


@dataclass(frozen=True)
class Tree:
    """Rows as paths in a tree of tokens.

    Attributes:
        order: number of each row, so that those that begin alike are neighbours.
        shared: for each row in that order, how many of its first tokens earlier rows have brought.
    """

    order: tuple[int, ...]
    shared: tuple[int, ...]


def tree(rows: Sequence[Example]) -> Tree:
    """The tree of these rows: sorted, each row shares most with the one before it."""
    ids = [row.input_ids.tolist() for row in rows]
    order = sorted(range(len(rows)), key=lambda number: (ids[number], number))
    shared = [0] * min(1, len(rows))
    for before, after in pairwise(order):
        pairs = zip(ids[before], ids[after], strict=False)
        same = next((at for at, (one, other) in enumerate(pairs) if one != other), None)
        shared.append(min(len(ids[before]), len(ids[after])) if same is None else same)
    return Tree(tuple(order), tuple(shared))


def passes(rows: Sequence[Example], max_tokens: int) -> Iterator[tuple[int, ...]]:
    """Numbers of the rows of each pass: as many as have at most `max_tokens` different tokens, at least one."""
    whole, part, tokens = tree(rows), list[int](), 0
    for number, shared in zip(whole.order, whole.shared, strict=True):
        length = len(rows[number].input_ids)
        if part and tokens + length - shared > max_tokens:
            yield tuple(part)
            part, tokens, shared = [], 0, 0
        part.append(number)
        tokens += length - shared
    if part:
        yield tuple(part)


def num_different(rows: Sequence[Example]) -> int:
    """Tokens of a pass of these rows, for each adapter."""
    shared = tree(rows).shared
    return sum(len(row.input_ids) for row in rows) - sum(shared)


def pack_shared(rows: Sequence[Example], copies: int, device: torch.device) -> Packed:
    """The nodes of the rows' tree one after the other, as often as there are adapters.

    Args:
        rows: at least one.
        copies: how many adapters each pass the rows.
        device: of the result.

    Returns:
        A batch whose sequences are the rows in the given order, for one adapter after the other.
    """
    found = tree(rows)
    paths: dict[int, list[int]] = {}
    ids, positions, path = list[int](), list[int](), list[int]()
    for number, shared in zip(found.order, found.shared, strict=True):
        tokens = rows[number].input_ids.tolist()
        new = range(len(ids), len(ids) + len(tokens) - shared)
        path = [*path[:shared], *new]
        ids += tokens[shared:]
        positions += range(shared, len(tokens))
        paths[number] = path
    predictors, targets, owners = list[int](), list[int](), list[int]()
    for number, row in enumerate(rows):
        for at, label in enumerate(row.labels.tolist()):
            if at and label != IGNORED:
                predictors.append(paths[number][at - 1])
                targets.append(label)
                owners.append(number)
    firsts = dict(zip(found.order, found.shared, strict=True))
    buckets = [_bucket([(firsts[one], paths[one]) for one in some]) for some in _alike(rows, firsts)]
    return Packed(
        input_ids=torch.tensor(ids).repeat(copies).to(device),
        position_ids=torch.tensor(positions).repeat(copies).to(device),
        lengths=tuple(len(row.input_ids) for row in rows) * copies,
        predictors=_repeated(torch.tensor(predictors), copies, len(ids)).to(device),
        targets=torch.tensor(targets).repeat(copies).to(device),
        owners=_repeated(torch.tensor(owners), copies, len(rows)).to(device),
        ends=torch.empty(0, dtype=torch.int32),
        buckets=tuple(
            Bucket(
                _repeated(one.queries, copies, len(ids)).to(device),
                _repeated(one.keys, copies, len(ids)).to(device),
                one.positions.repeat(copies, 1).to(device),
                one.real.repeat(copies, 1).to(device),
            )
            for one in buckets
        ),
    )


def _repeated(indices: torch.Tensor, copies: int, size: int) -> torch.Tensor:
    """Indices of `copies` blocks of `size`, one block after the other."""
    return torch.cat([indices + copy * size for copy in range(copies)])


def _alike(rows: Sequence[Example], firsts: dict[int, int]) -> list[list[int]]:
    """Rows that bring anything new, by the number of their new tokens up to a factor of two: padding stays small."""
    groups: dict[int, list[int]] = {}
    for number, row in enumerate(rows):
        if new := len(row.input_ids) - firsts[number]:
            groups.setdefault((new - 1).bit_length(), []).append(number)
    return [groups[size] for size in sorted(groups)]


def _bucket(rows: Sequence[tuple[int, list[int]]]) -> Bucket:
    """Queries and keys of (shared tokens, path) rows; what fills up repeats the last node of the same row."""
    widest = max(len(path) - shared for shared, path in rows)
    longest = max(len(path) for _, path in rows)
    queries, keys, positions, real = [], [], [], []
    for shared, path in rows:
        missing = widest - (len(path) - shared)
        queries.append(path[shared:] + path[-1:] * missing)
        positions.append([*range(shared, len(path)), *[len(path) - 1] * missing])
        real.append([True] * (len(path) - shared) + [False] * missing)
        keys.append(path + path[-1:] * (longest - len(path)))
    return Bucket(*(torch.tensor(one) for one in (queries, keys, positions, real)))
