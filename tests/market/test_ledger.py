"""A request's way through the ledger, on SQLite and on PostgreSQL."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flock_ray.chain.eip712 import receipt_digest, usage_domain
from flock_ray.chain.keys import recover
from flock_ray.chain.usage import account_text
from flock_ray.errors import LedgerError, RequestError
from flock_ray.market.ledger import LEASE, Ledger, Sign
from flock_ray.market.ledger_values import (
    IdempotencyError,
    Replay,
    RequestRunningError,
    Row,
    State,
    Used,
)
from flock_ray.protocol.hashing import sha256
from flock_ray.protocol.receipt import Receipt
from tests.market.ledgers import (
    CAP_MARGIN,
    DOMAIN,
    GATEWAY,
    MODEL,
    NOON,
    USER,
    Clock,
    account,
    asked,
    free_gateway,
    new_key,
    opened,
    request_id,
    reserved,
    sign,
    used,
)

DAY = 86_400


def test_a_request_costs_what_it_used_and_has_a_receipt(ledger_url: str) -> None:
    with opened(ledger_url) as ledger:
        key = new_key(ledger)
        row = reserved(ledger, key, asked(1))
        assert row.state is State.OPEN and row == ledger.row(request_id(1))
        assert ledger.balance(account(USER)).reserved == 10 * 2 + 100 * 6
        settled = ledger.settle(request_id(1), used(10, 20), sign)
        assert settled == ledger.row(request_id(1)) and settled.state is State.SETTLED
        assert settled.receipt is not None and settled.cost == 10 * 2 + 20 * 6
        digest = receipt_digest(DOMAIN, settled.receipt.receipt)
        assert recover(digest, settled.receipt.signature) == account_text(settled.receipt.key)
        assert settled.receipt.receipt == Receipt(
            account(GATEWAY), request_id(1), account(USER), MODEL, sha256(b"prompt"), sha256(b"answer"), 10, 20,
            asked(1).price_book, 140,
        )  # fmt: skip
        assert ledger.keys.find()[0].spent == 140
        assert ledger.balance(account(USER)).reserved == 0 and ledger.balance(account(USER)).uncollected == 140


def test_what_failed_costs_nothing(ledger_url: str) -> None:
    with opened(ledger_url) as ledger:
        key = new_key(ledger)
        reserved(ledger, key, asked(1))
        ledger.progress(request_id(1), 10, 16, sha256(b"some"))
        row = ledger.release(request_id(1), "the engine failed")
        assert row == ledger.row(request_id(1))
        assert (row.state, row.cost, row.receipt, row.error) == (State.RELEASED, 0, None, "the engine failed")
        assert ledger.keys.find()[0].spent == 0 and ledger.usage(account(USER)) == []
        assert ledger.balance(account(USER)).uncollected == 0


def test_zero_is_billed_as_zero(ledger_url: str) -> None:
    with opened(ledger_url) as ledger:
        reserved(ledger, new_key(ledger), asked(1))
        ledger.progress(request_id(1), 10, 16, sha256(b"some"))
        row = ledger.settle(request_id(1), used(0, 0), sign)
        assert row.receipt is not None and row.receipt.receipt.cost == 0
        assert (row.receipt.receipt.prompt_tokens, row.receipt.receipt.output_tokens) == (0, 0)
        (of_day,) = ledger.usage(account(USER))
        assert (of_day.requests, of_day.prompt_tokens, of_day.output_tokens, of_day.cost) == (1, 0, 0, 0)


def test_a_request_ends_once(ledger_url: str) -> None:
    with opened(ledger_url) as ledger:
        key = new_key(ledger)
        reserved(ledger, key, asked(1))
        first = ledger.settle(request_id(1), used(10, 20), sign)
        assert ledger.settle(request_id(1), used(10, 30), sign) == first
        assert ledger.release(request_id(1), "late") == first
        reserved(ledger, key, asked(2))
        released = ledger.release(request_id(2), "failed")
        assert ledger.settle(request_id(2), used(), sign) == released
        assert ledger.keys.find()[0].spent == 140
        with pytest.raises(RequestError, match="was used before"):
            ledger.reserve(key.id, asked(1))
        with pytest.raises(LedgerError, match="has no request"):
            ledger.settle(request_id(9), used(), sign)


def test_amounts_beyond_64_bits_are_exact(ledger_url: str) -> None:
    price = (1 << 64) - 1
    with opened(ledger_url) as ledger:
        key = new_key(ledger)
        for number in range(3):
            reserved(ledger, key, asked(number, 1, (1 << 31) - 1, prices=(price, price)))
            ledger.settle(request_id(number), used(1, (1 << 31) - 1), sign)
        assert ledger.keys.find()[0].spent == 3 * price << 31
        assert ledger.balance(account(USER)).uncollected == 3 * price << 31
        assert ledger.usage(account(USER))[0].cost == 3 * price << 31


def test_usage_is_summed_by_day_key_and_model(ledger_url: str) -> None:
    clock = Clock()
    with opened(ledger_url, clock) as ledger:
        one, two = new_key(ledger), new_key(ledger)
        for number, key in enumerate((one, one, two)):
            reserved(ledger, key, asked(number))
            ledger.settle(request_id(number), used(10, number), sign)
        clock.now += DAY
        reserved(ledger, one, replace(asked(7), model_id="other@07070707"))
        ledger.settle(request_id(7), used(), sign)
        rows = {(row.day, row.key, row.model_id): (row.requests, row.cost) for row in ledger.usage(account(USER))}
        today = NOON - NOON % DAY
        assert rows == {
            (today, one.id, "haiku@07070707"): (2, 46), (today, two.id, "haiku@07070707"): (1, 32),
            (today + DAY, one.id, "other@07070707"): (1, 140),
        }  # fmt: skip
        assert [row.day for row in ledger.usage(account(USER), since=NOON + DAY)] == [today + DAY]
        assert [row.key for row in ledger.usage(account(USER), key=two.id)] == [two.id]
        assert ledger.usage(account(GATEWAY)) == []


# Idempotency


def test_the_same_request_again_is_answered_from_the_ledger(ledger_url: str) -> None:
    clock = Clock()
    with opened(ledger_url, clock) as ledger:
        key = new_key(ledger, requests_per_minute=2)
        reserved(ledger, key, asked(1, idempotency="a"))
        with pytest.raises(RequestRunningError):
            ledger.reserve(key.id, asked(2, idempotency="a"))
        with pytest.raises(IdempotencyError):
            ledger.reserve(key.id, asked(2, idempotency="a", body=b"other"))
        settled = ledger.settle(request_id(1), used(answer=b"{}"), sign)
        assert ledger.reserve(key.id, asked(2, idempotency="a")) == Replay(settled)
        assert settled.answer == b"{}"
        with pytest.raises(IdempotencyError):
            ledger.reserve(key.id, asked(2, idempotency="a", body=b"other"))
        other = new_key(ledger)
        reserved(ledger, other, asked(2, idempotency="a"))  # another key's are its own
        clock.now += DAY
        reserved(ledger, key, asked(3, idempotency="a", body=b"other"))
        old = ledger.row(request_id(1))
        assert old is not None and old.answer is None and old.cost == 140


def test_a_wrong_idempotency_key_is_refused() -> None:
    for wrong in ("", "a" * 257, "a\0", "\ud800", "a\n"):
        with pytest.raises(RequestError, match="1 to 256 printable characters"):
            asked(1, idempotency=wrong)


def test_a_failed_request_may_be_asked_again(ledger_url: str) -> None:
    with opened(ledger_url) as ledger:
        key = new_key(ledger)
        reserved(ledger, key, asked(1, idempotency="a"))
        ledger.release(request_id(1), "failed")
        reserved(ledger, key, asked(2, idempotency="a"))


def test_an_answer_is_kept_only_with_an_idempotency_key(ledger_url: str) -> None:
    clock = Clock()
    with opened(ledger_url, clock) as ledger:
        key = new_key(ledger)
        for number, idempotency in enumerate((None, "a")):
            reserved(ledger, key, asked(number, idempotency=idempotency))
            ledger.settle(request_id(number), used(answer=b"{}"), sign)
        rows = [ledger.row(request_id(number)) for number in range(2)]
        assert [row.answer for row in rows if row] == [None, b"{}"]
        clock.now += DAY
        ledger.recover(sign)
        forgotten = ledger.row(request_id(1))
        assert forgotten is not None and forgotten.answer is None and forgotten.receipt is not None


# Processes that end


def test_requests_of_a_dead_process_are_billed_at_the_last_progress(ledger_url: str) -> None:
    clock = Clock()
    with opened(ledger_url, clock) as dead, opened(ledger_url, clock) as other:
        key = new_key(dead)
        for number in range(4):
            reserved(dead, key, asked(number))
        dead.progress(request_id(0), 10, 16, sha256(b"16"))
        dead.progress(request_id(0), 10, 32, sha256(b"32"))
        dead.progress(request_id(0), 10, 16, sha256(b"late"))  # a progress that comes late changes nothing
        dead.settle(request_id(2), used(10, 40), sign)
        dead.release(request_id(3), "failed")
        reserved(other, key, asked(9))
        clock.now += LEASE
        assert other.recover(sign) == []
        clock.now += 1
        ended = {row.reservation.request: row for row in other.recover(sign)}
        assert ended.keys() == {request_id(0), request_id(1)}
        first = ended[request_id(0)]
        assert first.receipt is not None and first.finish_reason == "interrupted"
        assert (first.receipt.receipt.output_tokens, first.receipt.receipt.output) == (32, sha256(b"32"))
        assert first.cost == 10 * 2 + 32 * 6
        assert ended[request_id(1)].state is State.RELEASED
        assert other.recover(sign) == [] and dead.recover(sign) == []
        still = other.row(request_id(9))
        assert still is not None and still.state is State.OPEN
        # It was only slow: what it says now changes nothing.
        assert dead.settle(request_id(0), used(10, 50), sign) == first
        dead.progress(request_id(0), 10, 64, sha256(b"64"))
        assert dead.row(request_id(0)) == first
        assert dead.release(request_id(1), "late") == ended[request_id(1)]
        assert other.keys.find()[0].spent == first.cost + 260


def test_prompts_that_a_dead_process_had_not_begun_are_not_billed(ledger_url: str) -> None:
    clock = Clock()
    with opened(ledger_url, clock) as dead, opened(ledger_url, clock) as other:
        reserved(dead, new_key(dead), asked(1, prompt_tokens=40, max_tokens=400))
        dead.progress(request_id(1), 10, 16, sha256(b"of the first"))
        dead.progress(request_id(1), 20, 32, sha256(b"of two"))
        dead.progress(request_id(1), 41, 48, sha256(b"of more than there are"))
        clock.now += LEASE + 1
        (row,) = other.recover(sign)
        assert row.receipt is not None and (row.begun, row.finish_reason) == (20, "interrupted")
        assert (row.receipt.receipt.prompt_tokens, row.receipt.receipt.output_tokens) == (20, 32)
        assert row.cost == 20 * 2 + 32 * 6


def test_a_process_that_beats_keeps_its_requests(ledger_url: str) -> None:
    clock = Clock()
    with opened(ledger_url, clock) as one, opened(ledger_url, clock) as two:
        reserved(one, new_key(one), asked(1))
        for _ in range(10):
            clock.now += LEASE
            one.beat()
            assert two.recover(sign) == []
        clock.now += LEASE + 1
        assert [row.state for row in two.recover(sign)] == [State.RELEASED]


def test_a_process_that_comes_back_in_time_keeps_its_requests(ledger_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    with opened(ledger_url, clock) as slow, opened(ledger_url, clock) as other:
        reserved(slow, new_key(slow), asked(1))
        clock.now += LEASE + 1
        end = other._end_of_dead

        def comes_back_first(request: bytes, sign: Sign) -> Row | None:
            slow.beat()
            return end(request, sign)

        monkeypatch.setattr(other, "_end_of_dead", comes_back_first)
        assert other.recover(sign) == []
        assert slow.settle(request_id(1), used(), sign).cost == 140


def test_a_signature_is_made_for_the_row_that_is_written_only(ledger_url: str) -> None:
    """Two processes end a request at once, and a signer that fails leaves the request open."""
    signed: list[Receipt] = []

    def counted(receipt: Receipt) -> object:
        signed.append(receipt)
        return sign(receipt)

    def broken(receipt: Receipt) -> object:
        raise RuntimeError("no key")

    with opened(ledger_url) as ledger:
        reserved(ledger, new_key(ledger), asked(1))
        with pytest.raises(RuntimeError, match="no key"):
            ledger.settle(request_id(1), used(), broken)  # type: ignore[arg-type]
        row = ledger.row(request_id(1))
        assert row is not None and row.state is State.OPEN and ledger.keys.find()[0].spent == 0
        for tokens in (20, 21):
            ledger.settle(request_id(1), used(10, tokens), counted)  # type: ignore[arg-type]
        assert [receipt.output_tokens for receipt in signed] == [20]


def test_more_than_reserved_is_never_billed(ledger_url: str) -> None:
    with opened(ledger_url) as ledger:
        reserved(ledger, new_key(ledger), asked(1))
        for tokens in ((11, 0), (0, 101), (-1, 0)):
            with pytest.raises(AssertionError):
                ledger.settle(request_id(1), Used(*tokens, bytes(32), "stop"), sign)
        ledger.progress(request_id(1), 10, 101, bytes(32))
        row = ledger.row(request_id(1))
        assert row is not None and row.delivered == 0


def test_a_ledger_is_of_one_gateway(ledger_url: str) -> None:
    with opened(ledger_url) as ledger:
        ledger.bind(free_gateway(), 32, CAP_MARGIN)
        mine = free_gateway()
        others = (
            replace(mine, account=account(USER)),
            replace(mine, domain=usage_domain(1, DOMAIN.contract)),
            replace(mine, domain=usage_domain(DOMAIN.chain_id, "0x" + "11" * 20)),
            replace(mine, lends=True),
        )
        for other, name in zip(others, ("account", "chain_id", "contract", "lends"), strict=True):
            with Ledger.open(ledger_url) as again, pytest.raises(LedgerError, match=f"another {name}$"):
                again.bind(other, 32, CAP_MARGIN)
