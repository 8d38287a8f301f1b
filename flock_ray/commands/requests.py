"""Stake that was asked for: what has thawed, and what still thaws."""

from __future__ import annotations

from collections.abc import Sequence

from flock_ray.chain.holdings import Request
from flock_ray.chain.words import format_tokens, utc
from flock_ray.errors import ChainError


def request_rows(requests: Sequence[Request]) -> list[dict[str, int]]:
    """For a table or JSON."""
    return [{"epoch": item.epoch, "thawing_wei": item.amount, "ready_at": item.ready_at} for item in requests]


def thawed(requests: Sequence[Request], now: int) -> list[Request]:
    """Those that can be taken out.

    Raises:
        ChainError: none can; the text says when the first one will.
    """
    due = [request for request in requests if request.ready_at <= now]
    if not due:
        raise ChainError(f"nothing can be taken out: {what_is_left(requests) or 'nothing was asked for'}")
    return due


def what_is_left(requests: Sequence[Request], command: str = "") -> str:
    """When the first of these requests can be taken out, and with which command; empty for none."""
    if not requests:
        return ""
    first = min(requests, key=lambda request: request.ready_at)
    told = f"{format_tokens(first.amount)} tokens thaw until {utc(first.ready_at)}"
    return f"{told}, then: {command}" if command else told
