"""Accounts: the lock of all that is about one, its deposit, and what it was charged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Row, bindparam, select, update
from sqlalchemy.dialects import postgresql, sqlite

from flock_ray.errors import LedgerError
from flock_ray.market.ledger_schema import ACCOUNTS, CHARGES, GATEWAY, KEYS, REQUESTS
from flock_ray.market.ledger_values import Balance


def add_account(transaction: Connection, account: bytes) -> None:
    """Know an account from now on."""
    dialect = postgresql.insert if transaction.dialect.name == "postgresql" else sqlite.insert
    row = dialect(ACCOUNTS).values(account=account, standing=0, withdraws=0)
    transaction.execute(row.on_conflict_do_nothing(index_elements=["account"]))


# Statements of every request are built once: that takes longer than to run them.
_LOCK = select(ACCOUNTS).where(ACCOUNTS.c.account == bindparam("of")).with_for_update()
_LOCK_OF_KEY = (
    select(ACCOUNTS)
    .join(KEYS, KEYS.c.account == ACCOUNTS.c.account)
    .where(KEYS.c.id == bindparam("of"))
    .with_for_update(of=ACCOUNTS)
)
_LOCK_OF_REQUEST = (
    select(ACCOUNTS)
    .join(REQUESTS, REQUESTS.c.account == ACCOUNTS.c.account)
    .where(REQUESTS.c.request == bindparam("of"))
    .with_for_update(of=ACCOUNTS)
)


def lock_account(transaction: Connection, account: bytes) -> Row[Any]:
    """The account's row, which no other transaction locks before this one ends."""
    row = transaction.execute(_LOCK, {"of": account}).one_or_none()
    if row is None:
        raise LedgerError(f"the ledger has no account 0x{account.hex()}: make a key for it")
    return row


def lock_account_of_key(transaction: Connection, key: str) -> Row[Any] | None:
    """As `lock_account`, of a key's account; None if there is no such key."""
    return transaction.execute(_LOCK_OF_KEY, {"of": key}).one_or_none()


def lock_account_of_request(transaction: Connection, request: bytes) -> Row[Any] | None:
    """As `lock_account`, of a request's account; None if there is no such request."""
    return transaction.execute(_LOCK_OF_REQUEST, {"of": request}).one_or_none()


def gateway_row(transaction: Connection) -> Row[Any]:
    """The gateway that the ledger is bound to.

    Raises:
        LedgerError: to none yet.
    """
    row = transaction.execute(select(GATEWAY)).one_or_none()
    if row is None:
        raise LedgerError("no gateway serves from this ledger yet")
    return row


def charged(transaction: Connection, account: bytes) -> dict[bytes, tuple[int, int]]:
    """{price book: (charged, collected)} of an account, units."""
    rows = transaction.execute(select(CHARGES).where(CHARGES.c.account == account))
    return {row.price_book: (row.charged, row.collected) for row in rows}


def balance_of(standing: int, charges: Mapping[bytes, tuple[int, int]], reserved: int) -> Balance:
    """What an account can still spend, of its standing deposit, its charges and what its open requests reserve."""
    uncollected = sum(max(charged - collected, 0) for charged, collected in charges.values())
    return Balance(standing, uncollected, reserved)


def set_deposit(
    transaction: Connection, account: bytes, standing: int, withdraws: bool, collected: Mapping[bytes, int], now: int
) -> None:
    """Write down what the chain was seen to say of an account."""
    lock_account(transaction, account)
    values = {"standing": standing, "withdraws": int(withdraws), "seen_at": now}
    transaction.execute(update(ACCOUNTS).where(ACCOUNTS.c.account == account).values(values))
    for price_book, units in collected.items():
        place = (CHARGES.c.account == account) & (CHARGES.c.price_book == price_book)
        transaction.execute(update(CHARGES).where(place).values(collected=units))
