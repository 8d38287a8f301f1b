"""Caps that users signed: no account is ever charged more than its own says."""

from __future__ import annotations

from flock_ray.chain.usage import SignedCap


class Caps:
    """The ledger's caps: the latest of each account and price book."""

    def store(self, signed: SignedCap) -> None:
        """Take a cap, in the place of the account's former one under this price book.

        Raises:
            BudgetError: it is not signed by the account, of another gateway, expires too soon, or is below the former
                one.
        """
        raise NotImplementedError

    def get(self, account: bytes, price_book: bytes) -> SignedCap | None:
        """An account's cap under a price book."""
        raise NotImplementedError
