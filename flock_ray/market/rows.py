"""Rows of requests: how they stand in the database, and how one ends."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, insert, select, update
from sqlalchemy import Row as Record

from flock_ray.chain.usage import SignedReceipt
from flock_ray.market.accounts import charge
from flock_ray.market.bounds import give_back_tokens
from flock_ray.market.ledger_schema import KEYS, REQUESTS, USAGE
from flock_ray.market.ledger_values import Key, Reservation, Row, State, Used
from flock_ray.protocol.hashing import ZERO
from flock_ray.protocol.receipt import Receipt

DAY = 86_400  # seconds
NO_BATCH = 0  # of a receipt that costs nothing


def row_of(transaction: Connection, request: bytes) -> Row | None:
    """The row of a request."""
    record = transaction.execute(select(REQUESTS).where(REQUESTS.c.request == request)).one_or_none()
    return None if record is None else _row(record)


def row_of_idempotency(transaction: Connection, key: str, idempotency: str) -> Row | None:
    """The row of a key's request with an idempotency key."""
    place = (REQUESTS.c.key == key) & (REQUESTS.c.idempotency == idempotency)
    record = transaction.execute(select(REQUESTS).where(place)).one_or_none()
    return None if record is None else _row(record)


def open_row(transaction: Connection, key: Key, asked: Reservation, process: str, now: int) -> Row:
    """Write the row of a request that begins."""
    account = key.terms.account
    transaction.execute(
        insert(REQUESTS).values(
            request=asked.request, key=key.id, account=account, model=asked.model, model_id=asked.model_id,
            price_book=asked.price_book, prompt_price=asked.prices[0], output_price=asked.prices[1],
            prompt=asked.prompt, prompt_tokens=asked.prompt_tokens, max_tokens=asked.max_tokens,
            idempotency=asked.idempotency, body_hash=asked.body_hash, state=State.OPEN.value, process=process,
            created_at=now, delivered=0, output=ZERO,
        )
    )  # fmt: skip
    return Row(asked, key.id, account, State.OPEN, now, None, 0, ZERO, None, None, None, None, None)


def settle_row(transaction: Connection, row: Row, used: Used, signed: SignedReceipt, now: int) -> Row:
    """Bill an open row of a locked account; the settled row."""
    receipt = signed.receipt
    answer = used.answer if row.reservation.idempotency is not None else None
    _end(
        transaction, row, state=State.SETTLED.value, ended_at=now, delivered=used.output_tokens, output=used.output,
        finish_reason=used.finish_reason, receipt=receipt.to_bytes(), receipt_key=signed.key,
        signature=signed.signature, answer=answer, batch=None if receipt.cost else NO_BATCH,
    )  # fmt: skip
    place = KEYS.c.id == row.key
    spent = transaction.execute(select(KEYS.c.spent).where(place)).scalar_one()
    transaction.execute(update(KEYS).where(place).values(spent=spent + receipt.cost))
    charge(transaction, row.account, receipt.price_book, receipt.cost)
    _add_usage(transaction, row, receipt, now)
    unused = row.reservation.tokens - receipt.prompt_tokens - receipt.output_tokens
    give_back_tokens(transaction, row.key, unused, row.created_at)
    return replace(
        row, state=State.SETTLED, ended_at=now, delivered=used.output_tokens, output=used.output,
        finish_reason=used.finish_reason, receipt=signed, answer=answer, batch=None if receipt.cost else NO_BATCH,
    )  # fmt: skip


def release_row(transaction: Connection, row: Row, error: str, now: int) -> Row:
    """End an open row of a locked account without a charge; the released row. Its idempotency key is free again."""
    _end(transaction, row, state=State.RELEASED.value, ended_at=now, error=error, idempotency=None)
    give_back_tokens(transaction, row.key, row.reservation.tokens, row.created_at)
    asked = replace(row.reservation, idempotency=None)
    return replace(row, reservation=asked, state=State.RELEASED, ended_at=now, error=error)


def forget_idempotency(transaction: Connection, before: int, row: Row | None = None) -> None:
    """Forget idempotency keys and answers of requests older than a time, or of one row."""
    old = REQUESTS.c.idempotency.is_not(None) & (REQUESTS.c.created_at <= before)
    place = old if row is None else REQUESTS.c.request == row.reservation.request
    transaction.execute(update(REQUESTS).where(place).values(idempotency=None, answer=None))


def _end(transaction: Connection, row: Row, **values: Any) -> None:
    place = (REQUESTS.c.request == row.reservation.request) & (REQUESTS.c.state == State.OPEN.value)
    ended = transaction.execute(update(REQUESTS).where(place).values(values)).rowcount
    assert ended == 1, "a row ended twice"


def _add_usage(transaction: Connection, row: Row, receipt: Receipt, now: int) -> None:
    day, model = now - now % DAY, row.reservation.model_id
    place = (USAGE.c.key == row.key) & (USAGE.c.model_id == model) & (USAGE.c.day == day)
    before = transaction.execute(select(USAGE).where(place)).one_or_none()
    sums = {
        "requests": 1, "prompt_tokens": receipt.prompt_tokens, "output_tokens": receipt.output_tokens,
        "cost": receipt.cost,
    }  # fmt: skip
    if before is None:
        transaction.execute(insert(USAGE).values(key=row.key, model_id=model, day=day, account=row.account, **sums))
    else:
        total = {name: number + getattr(before, name) for name, number in sums.items()}
        transaction.execute(update(USAGE).where(place).values(total))


def _row(record: Record[Any]) -> Row:
    asked = Reservation(
        request=record.request, model=record.model, model_id=record.model_id, price_book=record.price_book,
        prices=(record.prompt_price, record.output_price), prompt=record.prompt, prompt_tokens=record.prompt_tokens,
        max_tokens=record.max_tokens, idempotency=record.idempotency, body_hash=record.body_hash,
    )  # fmt: skip
    return Row(
        reservation=asked, key=record.key, account=record.account, state=State(record.state),
        created_at=record.created_at, ended_at=record.ended_at, delivered=record.delivered, output=record.output,
        finish_reason=record.finish_reason, error=record.error, receipt=signed_receipt(record), answer=record.answer,
        batch=record.batch,
    )  # fmt: skip


def signed_receipt(record: Any) -> SignedReceipt | None:
    """The receipt of a row of the database."""
    if record.receipt is None:
        return None
    return SignedReceipt(Receipt.from_bytes(record.receipt), record.receipt_key, record.signature)
