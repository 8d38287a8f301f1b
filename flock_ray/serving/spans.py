"""How the rows of a step meet their adapters' slots: neighbouring slots share a batched product.

A product per slot costs calls, one padded product for all slots costs arithmetic: between them, the cheapest way to cut
the occupied slots into spans is found by dynamic programming.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SPAN_COST = 48
"""What another span costs, in tokens that pass one adapter: calls, against arithmetic; measured on a CPU."""
SLOT_COST = 12
"""What reading one more slot's factors costs, in the same unit."""


@dataclass(frozen=True)
class Span:
    """Slots first, …, last - 1, each padded to `most` tokens; tokens start, …, stop - 1 of the step are theirs."""

    first: int
    last: int
    most: int
    start: int
    stop: int


def spans(counts: Sequence[tuple[int, int]]) -> list[Span]:
    """The cheapest spans.

    Args:
        counts: (slot, tokens) of each adapter of a step, slots ascending; tokens lie in this order from 0 on, but for
            those of slot 0, the base model, which come first and need no product.
    """
    skipped = sum(tokens for slot, tokens in counts if slot == 0)
    used = [(slot, tokens) for slot, tokens in counts if slot]
    best: list[tuple[float, int]] = [(0.0, 0)]
    for end in range(1, len(used) + 1):
        options, most = [], 0
        for begin in range(end - 1, -1, -1):
            most = max(most, used[begin][1])
            width = used[end - 1][0] - used[begin][0] + 1
            options.append((best[begin][0] + SPAN_COST + width * (most + SLOT_COST), begin))
        best.append(min(options))
    cuts, end = [], len(used)
    while end:
        cuts.append((best[end][1], end))
        end = best[end][1]
    found, start = [], skipped
    for begin, end in reversed(cuts):
        part = used[begin:end]
        stop = start + sum(tokens for _, tokens in part)
        found.append(Span(part[0][0], part[-1][0] + 1, max(tokens for _, tokens in part), start, stop))
        start = stop
    return found
