"""What a request must keep within: its rate before any work is done for it, all else in its reservation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, bindparam, delete, insert, select, update

from flock_ray.errors import BudgetError, RateLimitedError
from flock_ray.market.accounts import balance_of, charged, gateway_row
from flock_ray.market.ledger_schema import CAPS, IS_OPEN, REQUESTS, WINDOWS
from flock_ray.market.ledger_values import Key, NotLendingError, Reservation

MINUTE = 60  # seconds of a rate's window

_ROW, _SECOND = REQUESTS.c, WINDOWS.c
_OPEN = select(
    _ROW.key, _ROW.price_book, _ROW.prompt_tokens, _ROW.max_tokens, _ROW.prompt_price, _ROW.output_price
).where(_ROW.account == bindparam("of"), IS_OPEN)
_WINDOW = (
    select(_SECOND.second, _SECOND.requests, _SECOND.tokens)
    .where(_SECOND.key == bindparam("of"))
    .order_by(_SECOND.second)
)
_COUNT = (
    update(WINDOWS)
    .where(_SECOND.key == bindparam("of"), _SECOND.second == bindparam("now"))
    .values(requests=_SECOND.requests + bindparam("requests_"), tokens=_SECOND.tokens + bindparam("tokens_"))
)
_COUNT_FIRST = insert(WINDOWS).values(
    key=bindparam("of"), second=bindparam("now"), requests=bindparam("requests_"), tokens=bindparam("tokens_")
)
_FORGET = delete(WINDOWS).where(_SECOND.key == bindparam("of"), _SECOND.second < bindparam("before"))
_GIVE_BACK = (
    update(WINDOWS)
    .where(_SECOND.key == bindparam("of"), _SECOND.second == bindparam("at"))
    .values(tokens=_SECOND.tokens - bindparam("back"))
)


@dataclass(frozen=True)
class OpenRequest:
    """A request that runs: its key, price book, and what it reserves, units."""

    key: str
    price_book: bytes
    cost: int


def open_requests(transaction: Connection, account: bytes) -> list[OpenRequest]:
    """The account's requests that run: as many as its bound allows at most."""
    rows = transaction.execute(_OPEN, {"of": account})
    return [
        OpenRequest(key, book, prompt_tokens * prompt_price + max_tokens * output_price)
        for key, book, prompt_tokens, max_tokens, prompt_price, output_price in rows
    ]


def check_concurrent(key: Key, running: Sequence[OpenRequest], of_account: int) -> None:
    """At most so many at once by the key, and by its account."""
    by_key = sum(request.key == key.id for request in running)
    if by_key >= key.terms.concurrent:
        raise RateLimitedError(f"the key {key.id} has {by_key} requests at once, as many as it may", 1)
    if len(running) >= of_account:
        raise RateLimitedError(f"the key's account has {len(running)} requests at once, as many as it may", 1)


def admit(transaction: Connection, key: Key, tokens: int, now: int) -> None:
    """At most so many requests in any 60 seconds, and tokens left for this one, which has these at least. Counts it."""
    used = _last_minute(transaction, key, now)
    _check_rate(key, "requests", key.terms.requests_per_minute, [(row.second, row.requests) for row in used], 1, now)
    _check_tokens(key, used, tokens, now)
    _count(transaction, key, used, (1, 0), now)


def count_tokens(transaction: Connection, key: Key, tokens: int, now: int) -> None:
    """At most so many tokens in any 60 seconds. Counts those of a request."""
    used = _last_minute(transaction, key, now)
    _check_tokens(key, used, tokens, now)
    _count(transaction, key, used, (0, tokens), now)


def _last_minute(transaction: Connection, key: Key, now: int) -> Sequence[Any]:
    """What a key used in each of the last 61 seconds of the clock: any 60 seconds are among them."""
    seconds = transaction.execute(_WINDOW, {"of": key.id}).all()
    last = [row for row in seconds if row.second >= now - MINUTE]
    if len(seconds) - len(last) > MINUTE:
        transaction.execute(_FORGET, {"of": key.id, "before": now - MINUTE})
    return last


def _check_tokens(key: Key, used: Sequence[Any], tokens: int, now: int) -> None:
    limit = key.terms.tokens_per_minute
    if tokens > limit:
        raise RateLimitedError(f"the request may take {tokens} tokens; the key {key.id} may use {limit} a minute")
    _check_rate(key, "tokens", limit, [(row.second, row.tokens) for row in used], tokens, now)


def _check_rate(key: Key, what: str, limit: int, used: Sequence[tuple[int, int]], more: int, now: int) -> None:
    wait = _wait(used, limit - more, now)
    if wait:
        raise RateLimitedError(f"the key {key.id} may use {limit} {what} a minute; wait {wait} s", wait)


def _count(transaction: Connection, key: Key, used: Sequence[Any], more: tuple[int, int], now: int) -> None:
    """Count (requests, tokens) in this second."""
    counted = {"of": key.id, "now": now, "requests_": more[0], "tokens_": more[1]}
    transaction.execute(_COUNT if any(row.second == now for row in used) else _COUNT_FIRST, counted)


def _wait(used: Sequence[tuple[int, int]], limit: int, now: int) -> int:
    """Seconds until what was used, as (second, number), is within a limit."""
    total, wait = sum(number for _, number in used), 0
    for second, number in used:
        if total <= limit:
            break
        total -= number
        wait = second + MINUTE + 1 - now
    return wait


def give_back_tokens(transaction: Connection, key: str, tokens: int, second: int) -> None:
    """Tokens that a request of this second reserved and did not use."""
    transaction.execute(_GIVE_BACK, {"of": key, "at": second, "back": tokens})


def check_budget(key: Key, running: Sequence[OpenRequest], cost: int) -> None:
    """The key's budget lasts for what it spent, what its open requests reserve, and this one."""
    left = key.terms.budget - key.spent - sum(request.cost for request in running if request.key == key.id)
    if cost > left:
        raise BudgetError(f"the request may cost {cost} wei; the budget of the key {key.id} has {max(left, 0)} left")


def check_money(
    transaction: Connection, account: Row[Any], asked: Reservation, running: Sequence[OpenRequest], now: int, age: int,
    cap_margin: int,
) -> None:  # fmt: skip
    """A lending gateway's: the account's cap and deposit last, and the gateway may lend on them.

    Args:
        transaction: holds the account's lock.
        account: its row.
        asked: the request.
        running: the account's open requests.
        now: time.
        age: seconds after which what the chain said is too old to lend on.
        cap_margin: seconds before a cap's end from which nothing is lent on it.
    """
    gateway = gateway_row(transaction)
    if gateway.stake is None or account.seen_at is None or now - account.seen_at > age:
        raise NotLendingError("the gateway has not seen the account's deposit on the chain lately; try again")
    if gateway.stake < gateway.min_stake:
        raise NotLendingError(
            f"the gateway's stake is {gateway.stake} wei, below {gateway.min_stake}: it lends nothing"
        )
    charges = charged(transaction, account.account)
    used = charges.get(asked.price_book, (0, 0))[0]
    _check_cap(transaction, account.account, asked, running, used, now + cap_margin)
    balance = balance_of(account.standing, charges, sum(request.cost for request in running))
    if asked.cost > balance.lendable:
        raise BudgetError(
            f"the request may cost {asked.cost} wei; the deposit of 0x{account.account.hex()} at the gateway"
            f" 0x{gateway.account.hex()} has {max(balance.lendable, 0)} left"
        )


def _check_cap(
    transaction: Connection, account: bytes, asked: Reservation, running: Sequence[OpenRequest], used: int, until: int
) -> None:
    place = (CAPS.c.account == account) & (CAPS.c.price_book == asked.price_book)
    cap = transaction.execute(select(CAPS.c.cumulative, CAPS.c.expiry).where(place)).one_or_none()
    book = f"the price book 0x{asked.price_book.hex()}"
    if cap is None:
        raise BudgetError(f"0x{account.hex()} has signed no cap under {book}")
    if cap.expiry < until:
        told = f"the cap of 0x{account.hex()} under {book} ends at {cap.expiry}"
        raise BudgetError(f"{told}, before {until}, when an answer is settled at the latest: sign a later one")
    left = cap.cumulative - used - sum(request.cost for request in running if request.price_book == asked.price_book)
    if asked.cost > left:
        raise BudgetError(
            f"the request may cost {asked.cost} wei; the cap of 0x{account.hex()} under {book} has {max(left, 0)} left"
        )
