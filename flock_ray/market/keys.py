"""Keys of the gateway's API: random secrets, of which only the SHA-256 is kept."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, Row, bindparam, insert, select, update

from flock_ray.errors import KeyRefusedError
from flock_ray.market.accounts import add_account
from flock_ray.market.database import Database
from flock_ray.market.ledger_schema import KEYS
from flock_ray.market.ledger_values import Key, KeyTerms
from flock_ray.protocol.hashing import sha256

PREFIX = "fr-"
_LENGTH = len(PREFIX) + 43  # 32 bytes in base64url
_BY_SECRET = select(KEYS).where(KEYS.c.secret == bindparam("secret_hash"))
_BY_ID = select(KEYS).where(KEYS.c.id == bindparam("key"))


class Keys:
    """The ledger's keys."""

    def __init__(self, database: Database, clock: Callable[[], int]) -> None:
        """Keep keys in a ledger's database; the clock tells whole Unix seconds."""
        self._database, self._clock = database, clock

    def create(self, terms: KeyTerms, label: str = "") -> tuple[Key, str]:
        """Make a key: it, and its secret (`fr-` and 43 letters), which is nowhere else."""
        secret, name = PREFIX + secrets.token_urlsafe(32), secrets.token_hex(8)
        key = Key(name, label, terms, self._clock(), None, 0)
        with self._database.write() as transaction:
            add_account(transaction, terms.account)
            transaction.execute(
                insert(KEYS).values(
                    id=key.id, secret=_hash(secret), account=terms.account, label=label,
                    models=json.dumps(terms.models), requests_per_minute=terms.requests_per_minute,
                    tokens_per_minute=terms.tokens_per_minute, concurrent=terms.concurrent, budget=terms.budget,
                    spent=0, expires=terms.expires, created_at=key.created_at,
                )
            )  # fmt: skip
        return key, secret

    def authenticate(self, secret: str) -> Key:
        """The key with this secret.

        Raises:
            KeyRefusedError: it is unknown, revoked or expired.
        """
        if len(secret) != _LENGTH or not secret.isascii():
            raise KeyRefusedError(f"no key of this gateway: a key is {PREFIX} and {_LENGTH - len(PREFIX)} letters")
        with self._database.read() as transaction:
            row = transaction.execute(_BY_SECRET, {"secret_hash": _hash(secret)}).one_or_none()
        if row is None:
            raise KeyRefusedError("this gateway has no such key")
        key = _key(row)
        check_valid(key, self._clock())
        return key

    def revoke(self, key: str) -> Key:
        """Refuse a key from now on; requests that run go on. Revoking it again changes nothing.

        Raises:
            KeyRefusedError: there is no such key.
        """
        with self._database.write() as transaction:
            unrevoked = (KEYS.c.id == key) & KEYS.c.revoked_at.is_(None)
            transaction.execute(update(KEYS).where(unrevoked).values(revoked_at=self._clock()))
            return key_of(transaction, key)

    def find(self, account: bytes | None = None) -> list[Key]:
        """All keys, or those of an account, the oldest first."""
        asked = select(KEYS).order_by(KEYS.c.created_at, KEYS.c.id)
        if account is not None:
            asked = asked.where(KEYS.c.account == account)
        with self._database.read() as transaction:
            return [_key(row) for row in transaction.execute(asked)]


def key_of(transaction: Connection, key: str) -> Key:
    """The key with this id.

    Raises:
        KeyRefusedError: there is none.
    """
    row = transaction.execute(_BY_ID, {"key": key}).one_or_none()
    if row is None:
        raise KeyRefusedError(f"the ledger has no key {key!r}: flock-ray key list shows them")
    return _key(row)


def check_valid(key: Key, now: int) -> None:
    """KeyRefusedError, if a key is revoked or expired."""
    if key.revoked_at is not None:
        raise KeyRefusedError(f"the key {key.id} was revoked")
    if key.terms.expires is not None and now >= key.terms.expires:
        raise KeyRefusedError(f"the key {key.id} has expired")


def _hash(secret: str) -> bytes:
    return sha256(secret.encode())


def _key(row: Row[Any]) -> Key:
    terms = KeyTerms(
        account=row.account, models=tuple(json.loads(row.models)), requests_per_minute=row.requests_per_minute,
        tokens_per_minute=row.tokens_per_minute, concurrent=row.concurrent, budget=row.budget, expires=row.expires,
    )  # fmt: skip
    return Key(row.id, row.label, terms, row.created_at, row.revoked_at, row.spent)
