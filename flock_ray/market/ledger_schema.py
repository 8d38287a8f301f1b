"""The ledger's tables, which nothing else reads or writes.

The same on SQLite and PostgreSQL. Amounts go beyond 64 bits, which SQLite has no integers for: both keep them as text
of a fixed number of digits, and arithmetic on them happens in Python, under the lock of the account's row.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    literal_column,
    text,
)
from sqlalchemy.types import TypeDecorator

VERSION = 2
DIGITS = 48


class Exact(TypeDecorator[int]):
    """An integer in [0, 10^48) as text of 48 digits, so that its order is that of the text."""

    impl = String(DIGITS)
    cache_ok = True

    def process_bind_param(self, value: int | None, dialect: Any) -> str | None:
        """The text of a number."""
        if value is None:
            return None
        assert 0 <= value < 10**DIGITS, "an amount is negative, or beyond all amounts"
        return f"{value:0{DIGITS}d}"

    def process_result_value(self, value: str | None, dialect: Any) -> int | None:
        """The number of a text."""
        return None if value is None else int(value)


METADATA = MetaData()


def _account(**options: Any) -> Column[bytes]:
    return Column("account", LargeBinary(20), **options)


def _book(**options: Any) -> Column[bytes]:
    return Column("price_book", LargeBinary(32), **options)


SCHEMA_VERSION = Table("schema_version", METADATA, Column("version", Integer, primary_key=True, autoincrement=False))

GATEWAY = Table(  # one row, once a gateway process has bound the ledger
    "gateway", METADATA,
    Column("id", Integer, primary_key=True, autoincrement=False),
    _account(nullable=False),
    Column("chain_id", Exact, nullable=False),
    Column("contract", String(42), nullable=False),
    Column("lends", Integer, nullable=False),
    Column("stake", Exact),  # what the chain was last seen to say
    Column("min_stake", Exact),
)  # fmt: skip

PROCESSES = Table(
    "processes", METADATA,
    Column("id", String(32), primary_key=True),
    Column("seen_at", BigInteger, nullable=False),
)  # fmt: skip

ACCOUNTS = Table(  # its row is the lock of all that is about an account
    "accounts", METADATA,
    _account(primary_key=True),
    Column("standing", Exact, nullable=False),
    Column("seen_at", BigInteger),
    Column("withdraws", Integer, nullable=False),
)  # fmt: skip

KEYS = Table(
    "keys", METADATA,
    Column("id", String(16), primary_key=True),
    Column("secret", LargeBinary(32), nullable=False, unique=True),
    _account(nullable=False, index=True),
    Column("label", Text, nullable=False),
    Column("models", Text, nullable=False),
    Column("requests_per_minute", BigInteger, nullable=False),
    Column("tokens_per_minute", BigInteger, nullable=False),
    Column("concurrent", BigInteger, nullable=False),
    Column("budget", Exact, nullable=False),
    Column("spent", Exact, nullable=False),
    Column("expires", BigInteger),
    Column("created_at", BigInteger, nullable=False),
    Column("revoked_at", BigInteger),
)  # fmt: skip

WINDOWS = Table(  # what a key asked in each second of the last minute
    "windows", METADATA,
    Column("key", String(16), ForeignKey("keys.id"), primary_key=True),
    Column("second", BigInteger, primary_key=True, autoincrement=False),
    Column("requests", BigInteger, nullable=False),
    Column("tokens", BigInteger, nullable=False),
)  # fmt: skip

PRICE_BOOKS = Table(
    "price_books", METADATA,
    Column("hash", LargeBinary(32), primary_key=True),
    Column("number", Integer, nullable=False, unique=True),  # the highest is in force
    Column("content", LargeBinary, nullable=False),
    Column("signature", LargeBinary(65), nullable=False),
    Column("weights", LargeBinary, nullable=False),
)  # fmt: skip

CAPS = Table(
    "caps", METADATA,
    _account(primary_key=True),
    _book(primary_key=True),
    Column("cumulative", Exact, nullable=False),
    Column("expiry", Exact, nullable=False),
    Column("signature", LargeBinary(65), nullable=False),
)  # fmt: skip

CHARGES = Table(  # of settled requests, and what of it was collected on the chain
    "charges", METADATA,
    _account(primary_key=True),
    _book(primary_key=True),
    Column("charged", Exact, nullable=False),
    Column("collected", Exact, nullable=False),
)  # fmt: skip

REQUESTS = Table(
    "requests", METADATA,
    Column("request", LargeBinary(32), primary_key=True),
    Column("key", String(16), ForeignKey("keys.id"), nullable=False),
    _account(nullable=False),
    Column("model", LargeBinary(32), nullable=False),
    Column("model_id", Text, nullable=False),
    _book(nullable=False),
    Column("prompt_price", Exact, nullable=False),
    Column("output_price", Exact, nullable=False),
    Column("prompt", LargeBinary(32), nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("max_tokens", BigInteger, nullable=False),
    Column("idempotency", Text),
    Column("body_hash", LargeBinary(32), nullable=False),
    Column("state", String(8), nullable=False),
    Column("process", String(32), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger),
    Column("delivered", BigInteger, nullable=False),
    Column("begun", BigInteger, nullable=False, server_default=text("0")),  # tokens of prompts
    Column("output", LargeBinary(32), nullable=False),
    Column("finish_reason", Text),
    Column("error", Text),
    Column("receipt", LargeBinary),
    Column("receipt_key", LargeBinary(20)),
    Column("signature", LargeBinary(65)),
    Column("answer", LargeBinary),
    Column("batch", Integer),
)  # fmt: skip
UPGRADES = {1: "ALTER TABLE requests ADD COLUMN begun BIGINT NOT NULL DEFAULT 0"}
"""What makes of a ledger's version the next one; a process that still runs the one before goes on with it."""

# In a query as in the index: SQLite takes such an index only for the same words, without parameters.
IS_OPEN = REQUESTS.c.state == literal_column("'open'")
IS_WAITING = (REQUESTS.c.state == literal_column("'settled'")) & REQUESTS.c.batch.is_(None)
_REPLAYABLE = REQUESTS.c.idempotency.is_not(None)
Index("open_requests", REQUESTS.c.account, sqlite_where=IS_OPEN, postgresql_where=IS_OPEN)
Index("waiting_requests", REQUESTS.c.price_book, sqlite_where=IS_WAITING, postgresql_where=IS_WAITING)
_BATCHED = REQUESTS.c.batch.is_not(None)
Index(
    "batched_requests", REQUESTS.c.price_book, REQUESTS.c.batch, sqlite_where=_BATCHED, postgresql_where=_BATCHED
)  # fmt: skip
Index("idempotency", REQUESTS.c.key, REQUESTS.c.idempotency, unique=True)
Index("replayable", REQUESTS.c.created_at, sqlite_where=_REPLAYABLE, postgresql_where=_REPLAYABLE)

USAGE = Table(  # sums of settled requests
    "usage", METADATA,
    Column("key", String(16), ForeignKey("keys.id"), primary_key=True),
    Column("model_id", Text, primary_key=True),
    Column("day", BigInteger, primary_key=True, autoincrement=False),
    _account(nullable=False, index=True),
    Column("requests", BigInteger, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("cost", Exact, nullable=False),
)  # fmt: skip

BATCHES = Table(
    "batches", METADATA,
    _book(primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("charges", LargeBinary, nullable=False),  # of the series, this batch included
    Column("payouts", LargeBinary, nullable=False),
    Column("receipts", Integer, nullable=False),
    Column("settled_at", BigInteger),
    Column("collected", Integer, nullable=False),
)  # fmt: skip
