"""Receipts on their way to the chain: each is in exactly one batch of its price book's series."""

from __future__ import annotations


class Batches:
    """The ledger's batches (used by `market.settlement` only)."""
