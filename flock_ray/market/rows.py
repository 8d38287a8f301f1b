"""Rows of requests: how they stand in the database, and how one ends."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, bindparam, insert, literal, select, update
from sqlalchemy import Row as Record
from sqlalchemy.exc import IntegrityError

from flock_ray.chain.usage import SignedReceipt
from flock_ray.errors import RequestError
from flock_ray.market.bounds import give_back_tokens
from flock_ray.market.ledger_schema import CHARGES, KEYS, REQUESTS, USAGE
from flock_ray.market.ledger_values import Key, Reservation, Row, State, Used
from flock_ray.protocol.hashing import ZERO
from flock_ray.protocol.receipt import Receipt

DAY = 86_400  # seconds
NO_BATCH = 0  # of a receipt that costs nothing

_R, _U, _C = REQUESTS.c, USAGE.c, CHARGES.c
_BY_REQUEST = select(REQUESTS).where(_R.request == bindparam("of"))
_INSERT = insert(REQUESTS)
_OPEN = (_R.request == bindparam("of")) & (_R.state == literal(State.OPEN.value))
_SETTLE = (
    update(REQUESTS)
    .where(_OPEN)
    .values(
        state=State.SETTLED.value, ended_at=bindparam("now"), delivered=bindparam("tokens"), output=bindparam("hash"),
        finish_reason=bindparam("reason"), receipt=bindparam("bytes"), receipt_key=bindparam("by"),
        signature=bindparam("signed"), answer=bindparam("body"), batch=bindparam("number"),
    )
)  # fmt: skip
_RELEASE = (
    update(REQUESTS)
    .where(_OPEN)
    .values(state=State.RELEASED.value, ended_at=bindparam("now"), error=bindparam("why"), idempotency=None)
)
_OF_CHARGE = (_C.account == bindparam("account_")) & (_C.price_book == bindparam("book"))
_OF_USE = (_U.key == bindparam("of")) & (_U.model_id == bindparam("model")) & (_U.day == bindparam("day_"))
_SUMS = (
    select(KEYS.c.spent, _C.charged, _U.cost)
    .select_from(KEYS.outerjoin(CHARGES, _OF_CHARGE).outerjoin(USAGE, _OF_USE))
    .where(KEYS.c.id == bindparam("of"))
)
_SPEND = update(KEYS).where(KEYS.c.id == bindparam("of")).values(spent=bindparam("units"))
_CHARGE = update(CHARGES).where(_OF_CHARGE).values(charged=bindparam("units"))
_FIRST_CHARGE = insert(CHARGES).values(
    account=bindparam("account_"), price_book=bindparam("book"), charged=bindparam("units"), collected=0
)
_USE = (
    update(USAGE)
    .where(_OF_USE)
    .values(
        requests=_U.requests + 1, prompt_tokens=_U.prompt_tokens + bindparam("prompts"),
        output_tokens=_U.output_tokens + bindparam("outputs"), cost=bindparam("units"),
    )
)  # fmt: skip
_FIRST_USE = insert(USAGE).values(
    key=bindparam("of"), model_id=bindparam("model"), day=bindparam("day_"), account=bindparam("account_"),
    requests=1, prompt_tokens=bindparam("prompts"), output_tokens=bindparam("outputs"), cost=bindparam("units"),
)  # fmt: skip


def row_of(transaction: Connection, request: bytes) -> Row | None:
    """The row of a request."""
    record = transaction.execute(_BY_REQUEST, {"of": request}).one_or_none()
    return None if record is None else _row(record)


def row_of_idempotency(transaction: Connection, key: str, idempotency: str) -> Row | None:
    """The row of a key's request with an idempotency key."""
    place = (REQUESTS.c.key == key) & (REQUESTS.c.idempotency == idempotency)
    record = transaction.execute(select(REQUESTS).where(place)).one_or_none()
    return None if record is None else _row(record)


def open_row(transaction: Connection, key: Key, asked: Reservation, process: str, now: int) -> Row:
    """Write the row of a request that begins."""
    account = key.terms.account
    values = {
        "request": asked.request, "key": key.id, "account": account, "model": asked.model, "model_id": asked.model_id,
        "price_book": asked.price_book, "prompt_price": asked.prices[0], "output_price": asked.prices[1],
        "prompt": asked.prompt, "prompt_tokens": asked.prompt_tokens, "max_tokens": asked.max_tokens,
        "idempotency": asked.idempotency, "body_hash": asked.body_hash, "state": State.OPEN.value, "process": process,
        "created_at": now, "delivered": 0, "begun": 0, "output": ZERO,
    }  # fmt: skip
    try:
        transaction.execute(_INSERT, values)
    except IntegrityError:
        raise RequestError(f"the request id 0x{asked.request.hex()} was used before") from None
    return Row(asked, key.id, account, State.OPEN, now, None, 0, 0, ZERO, None, None, None, None, None)


def settle_row(transaction: Connection, row: Row, used: Used, signed: SignedReceipt, now: int) -> Row:
    """Bill an open row of a locked account; the settled row."""
    receipt = signed.receipt
    answer = used.answer if row.reservation.idempotency is not None else None
    batch = None if receipt.cost else NO_BATCH
    ended = {
        "of": row.reservation.request, "now": now, "tokens": used.output_tokens, "hash": used.output,
        "reason": used.finish_reason, "bytes": receipt.to_bytes(), "by": signed.key, "signed": signed.signature,
        "body": answer, "number": batch,
    }  # fmt: skip
    assert transaction.execute(_SETTLE, ended).rowcount == 1, "a row ended twice"
    _bill(transaction, row, receipt, now - now % DAY)
    unused = row.reservation.tokens - receipt.prompt_tokens - receipt.output_tokens
    give_back_tokens(transaction, row.key, unused, row.created_at)
    return replace(
        row, state=State.SETTLED, ended_at=now, delivered=used.output_tokens, output=used.output,
        finish_reason=used.finish_reason, receipt=signed, answer=answer, batch=batch,
    )  # fmt: skip


def release_row(transaction: Connection, row: Row, error: str, now: int) -> Row:
    """End an open row of a locked account without a charge; the released row. Its idempotency key is free again."""
    ended = {
        "of": row.reservation.request,
        "now": now,
        "why": error.replace("\0", " "),
    }  # PostgreSQL has no texts with it
    assert transaction.execute(_RELEASE, ended).rowcount == 1, "a row ended twice"
    give_back_tokens(transaction, row.key, row.reservation.tokens, row.created_at)
    asked = replace(row.reservation, idempotency=None)
    return replace(row, reservation=asked, state=State.RELEASED, ended_at=now, error=error)


def forget_idempotency(transaction: Connection, before: int, row: Row | None = None) -> None:
    """Forget idempotency keys and answers of requests older than a time, or of one row."""
    old = REQUESTS.c.idempotency.is_not(None) & (REQUESTS.c.created_at <= before)
    place = old if row is None else REQUESTS.c.request == row.reservation.request
    transaction.execute(update(REQUESTS).where(place).values(idempotency=None, answer=None))


def _bill(transaction: Connection, row: Row, receipt: Receipt, day: int) -> None:
    """Add a receipt to what its key spent, its account was charged, and was used on a day."""
    place = {"of": row.key, "account_": row.account, "book": receipt.price_book, "model": row.reservation.model_id,
             "day_": day}  # fmt: skip
    spent, charged, used = transaction.execute(_SUMS, place).one()
    transaction.execute(_SPEND, place | {"units": spent + receipt.cost})
    transaction.execute(_FIRST_CHARGE if charged is None else _CHARGE, place | {"units": (charged or 0) + receipt.cost})
    sums = {"units": (used or 0) + receipt.cost, "prompts": receipt.prompt_tokens, "outputs": receipt.output_tokens}
    transaction.execute(_FIRST_USE if used is None else _USE, place | sums)


def _row(record: Record[Any]) -> Row:
    asked = Reservation(
        request=record.request, model=record.model, model_id=record.model_id, price_book=record.price_book,
        prices=(record.prompt_price, record.output_price), prompt=record.prompt, prompt_tokens=record.prompt_tokens,
        max_tokens=record.max_tokens, idempotency=record.idempotency, body_hash=record.body_hash,
    )  # fmt: skip
    return Row(
        reservation=asked, key=record.key, account=record.account, state=State(record.state),
        created_at=record.created_at, ended_at=record.ended_at, delivered=record.delivered, begun=record.begun,
        output=record.output, finish_reason=record.finish_reason, error=record.error, receipt=signed_receipt(record),
        answer=record.answer, batch=record.batch,
    )  # fmt: skip


def signed_receipt(record: Any) -> SignedReceipt | None:
    """The receipt of a row of the database."""
    if record.receipt is None:
        return None
    return SignedReceipt(Receipt.from_bytes(record.receipt), record.receipt_key, record.signature)
