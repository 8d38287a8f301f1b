"""Caps that users signed: no account is ever charged more than its own says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from flock_ray.chain.eip712 import cap_digest, usage_domain
from flock_ray.chain.keys import recover
from flock_ray.chain.usage import SignedCap, account_text
from flock_ray.market.accounts import gateway_row, lock_account
from flock_ray.market.database import Database
from flock_ray.market.ledger_schema import ACCOUNTS, CAPS, PRICE_BOOKS
from flock_ray.market.ledger_values import CapError
from flock_ray.protocol.receipt import Cap


class Caps:
    """The ledger's caps: the latest of each account and price book."""

    def __init__(self, database: Database, clock: Callable[[], int], margin: Callable[[], int]) -> None:
        """Keep caps in a ledger's database.

        Args:
            database: the ledger's.
            clock: tells whole Unix seconds.
            margin: tells for how many seconds a cap must be valid at least.
        """
        self._database, self._clock, self._margin = database, clock, margin

    def store(self, signed: SignedCap) -> None:
        """Take a cap, in the place of the account's former one under this price book.

        Raises:
            CapError: it is not signed by the account, of another gateway or an unknown price book, of an account
                without a key, expires too soon, or is below the former one.
        """
        cap = signed.cap
        with self._database.write() as transaction:
            gateway = gateway_row(transaction)
            if cap.gateway != gateway.account:
                raise CapError(f"the cap is for the gateway 0x{cap.gateway.hex()}, not 0x{gateway.account.hex()}")
            digest = cap_digest(usage_domain(gateway.chain_id, gateway.contract), cap)
            if recover(digest, signed.signature) != account_text(cap.account):
                raise CapError(
                    f"the cap is not signed by 0x{cap.account.hex()} for chain {gateway.chain_id} and contract"
                    f" {gateway.contract}"
                )
            known = select(PRICE_BOOKS.c.hash).where(PRICE_BOOKS.c.hash == cap.price_book)
            if transaction.execute(known).one_or_none() is None:
                raise CapError(f"the gateway has no price book 0x{cap.price_book.hex()}")
            least = self._clock() + self._margin()
            if cap.expiry < least:
                raise CapError(f"the cap expires at {cap.expiry}; it must be valid until {least} at least")
            if transaction.execute(select(ACCOUNTS.c.account).where(ACCOUNTS.c.account == cap.account)).first() is None:
                raise CapError(f"0x{cap.account.hex()} has no key of this gateway")
            lock_account(transaction, cap.account)
            _replace(transaction, signed)

    def get(self, account: bytes, price_book: bytes) -> SignedCap | None:
        """An account's cap under a price book."""
        with self._database.read() as transaction:
            gateway = gateway_row(transaction).account
            row = transaction.execute(select(CAPS).where(_place(account, price_book))).one_or_none()
            return None if row is None else signed_cap(row, gateway)


def signed_cap(row: Row[Any], gateway: bytes) -> SignedCap:
    """The cap of a row."""
    return SignedCap(Cap(row.account, gateway, row.price_book, row.cumulative, row.expiry), row.signature)


def _replace(transaction: Connection, signed: SignedCap) -> None:
    cap = signed.cap
    place = _place(cap.account, cap.price_book)
    former = transaction.execute(select(CAPS).where(place)).one_or_none()
    values = {"cumulative": cap.cumulative, "expiry": cap.expiry, "signature": signed.signature}
    if former is None:
        transaction.execute(insert(CAPS).values(account=cap.account, price_book=cap.price_book, **values))
        return
    if cap.cumulative < former.cumulative or cap.expiry < former.expiry:
        raise CapError(
            f"the cap of {cap.cumulative} wei until {cap.expiry} is below the former one, of {former.cumulative} wei"
            f" until {former.expiry}: caps only grow"
        )
    transaction.execute(update(CAPS).where(place).values(values))


def _place(account: bytes, price_book: bytes) -> Any:
    return (CAPS.c.account == account) & (CAPS.c.price_book == price_book)
