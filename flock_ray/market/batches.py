"""Receipts on their way to the chain: each is in exactly one batch of its price book's series."""

from __future__ import annotations

from collections.abc import Callable

from flock_ray.market.database import Database


class Batches:
    """The ledger's batches (used by `market.settlement` only)."""

    def __init__(self, database: Database, clock: Callable[[], int]) -> None:
        """Keep batches in a ledger's database; the clock tells whole Unix seconds."""
        self._database, self._clock = database, clock
