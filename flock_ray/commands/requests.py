"""Stake that was asked for: what has thawed, and what still thaws."""

from __future__ import annotations

from collections.abc import Sequence

from flock_ray.chain.holdings import Request
from flock_ray.chain.values import TxReceipt
from flock_ray.chain.words import format_tokens, utc
from flock_ray.commands.connection import Connection
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


def tell_withdrawn(
    chain: Connection,
    group: str,
    requests: Sequence[Request],
    due: Sequence[Request],
    ended: Sequence[TxReceipt | ChainError],
) -> None:
    """Print what was taken out and what is left.

    Args:
        chain: where it happened.
        group: of the command, `stake` or `delegation`.
        requests: all that there were.
        due: those that have thawed.
        ended: what became of each of these; empty: nothing was sent.
    """
    if not ended:
        return
    taken = [request for request, end in zip(due, ended, strict=True) if isinstance(end, TxReceipt)]
    refused = next((end for end in ended if isinstance(end, ChainError)), None)
    amount, left = sum(request.amount for request in taken), [request for request in requests if request not in taken]
    then = f"The rest has to wait: {refused}" if refused else what_is_left(left, f"flock-ray {group} withdraw")
    facts = {"amount_wei": amount, "refused": str(refused) if refused else None, "asked_for": request_rows(left)}
    receipts = [end for end in ended if isinstance(end, TxReceipt)]
    own = " of own stake" if group == "stake" else ""
    chain.output.done(receipts, f"Took out {format_tokens(amount)} tokens{own}", then, facts)
