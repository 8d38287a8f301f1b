"""Amounts, times and shares of the contracts as a person reads them."""

from __future__ import annotations

from datetime import UTC, datetime

from flock_ray.chain.values import TOKEN


def format_tokens(wei: int) -> str:
    """Exact decimal text of an amount in whole tokens, or in the chain's own coin."""
    whole, rest = divmod(abs(wei), TOKEN)
    return f"{'-' * (wei < 0)}{whole}.{rest:018d}".rstrip("0").rstrip(".")


def rounded_tokens(wei: int) -> str:
    """An amount in whole tokens for people: rounded to four decimals, and below one token to four digits."""
    step = 10 ** min(max(len(str(abs(wei))) - 4, 0), 14)
    whole, point, decimals = format_tokens((abs(wei) + step // 2) // step * step).partition(".")
    return f"{'-' * (wei < 0)}{int(whole):,}{point}{decimals}"


def utc(time: int) -> str:
    """A Unix time."""
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def percent(basis_points: int) -> str:
    """Basis points in percent: `12.5 %`."""
    return f"{basis_points / 100:g} %"
