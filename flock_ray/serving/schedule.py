"""What a step computes: one token of each row that decodes, and as much of new prompts as there is room for."""

from __future__ import annotations

from collections.abc import Sequence


def shares(remaining: Sequence[int], budget: int, least: int) -> list[int]:
    """Tokens of each row in the next step (chunked prefill: Agrawal et al. 2024, arXiv:2403.02310).

    Args:
        remaining: for each row, in the order they were admitted, tokens that are known and not computed: 1 for a row
            that decodes.
        budget: tokens of a step.
        least: tokens of prompts in a step even where decoding rows leave no room, so that nobody waits for ever.
    """
    room = max(budget - sum(one == 1 for one in remaining), least)
    found = []
    for one in remaining:
        share = 1 if one == 1 else min(one, room)
        room -= share if one > 1 else 0
        found.append(share)
    return found
