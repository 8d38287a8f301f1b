"""What a key may do: models, budget, rates, requests at once; on SQLite and on PostgreSQL."""

from __future__ import annotations

from pathlib import Path

import pytest

from flock_ray.errors import BudgetError, KeyRefusedError, RateLimitedError
from flock_ray.market.ledger_values import KeyTerms
from tests.market.ledgers import (
    GATEWAY,
    MODEL,
    NOON,
    USER,
    Clock,
    account,
    asked,
    new_key,
    opened,
    request_id,
    reserved,
    sign,
    used,
)


def test_only_the_hash_of_a_secret_is_kept(ledger_url: str) -> None:
    with opened(ledger_url) as ledger:
        key, secret = ledger.keys.create(KeyTerms(account(USER), ("haiku",), budget=7), "my laptop")
        assert secret.startswith("fr-") and len(secret) == 46
        assert ledger.keys.authenticate(secret) == key and ledger.keys.find(account(USER)) == [key]
        assert ledger.keys.find(account(GATEWAY)) == []
        other = secret[:-1] + ("A" if secret[-1] != "A" else "B")
        for wrong in (other, "", "fr-", secret + "A", "ключ" * 12, secret.upper()):
            with pytest.raises(KeyRefusedError, match=r"no such key|a key is"):
                ledger.keys.authenticate(wrong)
        assert key.revoked_at is None and ledger.keys.revoke(key.id).revoked_at == NOON
        assert ledger.keys.revoke(key.id).revoked_at == NOON
        with pytest.raises(KeyRefusedError, match="revoked"):
            ledger.keys.authenticate(secret)
        with pytest.raises(KeyRefusedError, match="no key 'x'"):
            ledger.keys.revoke("x")


def test_the_file_holds_no_secret(tmp_path: Path) -> None:
    with opened(f"sqlite:///{tmp_path}/ledger.db") as ledger:
        _, secret = ledger.keys.create(KeyTerms(account(USER)))
        files = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"schema_version" in files and secret.encode() not in files


def test_a_key_expires(ledger_url: str) -> None:
    clock = Clock()
    with opened(ledger_url, clock) as ledger:
        key, secret = ledger.keys.create(KeyTerms(account(USER), expires=NOON + 5))
        reserved(ledger, key, asked(1))
        clock.now += 5
        with pytest.raises(KeyRefusedError, match="expired"):
            ledger.keys.authenticate(secret)
        with pytest.raises(KeyRefusedError, match="expired"):
            ledger.reserve(key.id, asked(2))
        assert ledger.settle(request_id(1), used(), sign).cost == 140  # what runs goes on


@pytest.mark.parametrize(
    ("models", "allowed"),
    [((), True), (("haiku",), True), (("haiku@07070707",), True), ((MODEL.hex(),), True), (("other",), False),
     (("haiku@08080808",), False), (("hai",), False)],
)  # fmt: skip
def test_a_key_may_ask_only_its_models(ledger_url: str, models: tuple[str, ...], allowed: bool) -> None:
    with opened(ledger_url) as ledger:
        key = new_key(ledger, models=models)
        if allowed:
            reserved(ledger, key, asked(1))
        else:
            with pytest.raises(KeyRefusedError, match="may not ask haiku@07070707"):
                ledger.reserve(key.id, asked(1))


# Bounds


def test_a_budget_holds_for_what_runs_and_what_was_spent(ledger_url: str) -> None:
    with opened(ledger_url) as ledger:
        key = new_key(ledger, budget=2 * 620 + 100)
        reserved(ledger, key, asked(1))
        reserved(ledger, key, asked(2))
        with pytest.raises(BudgetError, match=r"may cost 620 wei; the budget of the key \w+ has 100 left"):
            ledger.reserve(key.id, asked(3))
        ledger.release(request_id(1), "failed")
        ledger.settle(request_id(2), used(10, 20), sign)
        reserved(ledger, key, asked(3))  # 140 spent, 1,200 left
        with pytest.raises(BudgetError, match="has 580 left"):
            ledger.reserve(key.id, asked(4))
        reserved(ledger, key, asked(5, 290, 0))
        with pytest.raises(BudgetError, match="has 0 left"):
            ledger.reserve(key.id, asked(6, 1, 0))
        reserved(ledger, key, asked(7, prices=(0, 0)))  # what is free needs no budget


def test_requests_a_minute(ledger_url: str) -> None:
    clock = Clock()
    with opened(ledger_url, clock) as ledger:
        key = new_key(ledger, requests_per_minute=3)
        for second in (0, 10, 10):
            clock.now = NOON + second
            ledger.admit(key.id, 1)  # whatever becomes of it
        clock.now = NOON + 20
        with pytest.raises(RateLimitedError, match="3 requests a minute; wait 41 s") as refused:
            ledger.admit(key.id, 1)
        assert refused.value.retry_after == 41
        clock.now = NOON + 60
        with pytest.raises(RateLimitedError, match="wait 1 s"):
            ledger.admit(key.id, 1)
        clock.now = NOON + 61
        ledger.admit(key.id, 1)
        with pytest.raises(RateLimitedError, match="wait 10 s"):
            ledger.admit(key.id, 1)
        ledger.admit(new_key(ledger).id, 1)  # another key has its own


def test_a_request_that_cannot_be_lent_is_not_admitted(ledger_url: str) -> None:
    with opened(ledger_url, account_concurrent=2) as ledger:
        key = new_key(ledger, tokens_per_minute=250, concurrent=1)
        with pytest.raises(RateLimitedError, match="may take 251 tokens"):
            ledger.admit(key.id, 251)
        ledger.admit(key.id, 250)  # as long as it is not reserved, others may come first
        reserved(ledger, key, asked(1))
        with pytest.raises(RateLimitedError, match="1 requests at once"):
            ledger.admit(key.id, 1)
        ledger.settle(request_id(1), used(10, 100), sign)
        ledger.admit(key.id, 140)
        with pytest.raises(RateLimitedError, match="250 tokens a minute; wait 61 s"):
            ledger.admit(key.id, 141)
        for number in (2, 3):
            reserved(ledger, new_key(ledger), asked(number))
        with pytest.raises(RateLimitedError, match="account has 2 requests at once"):
            ledger.admit(key.id, 1)
        ledger.keys.revoke(key.id)
        with pytest.raises(KeyRefusedError, match="revoked"):
            ledger.admit(key.id, 1)


def test_tokens_a_minute_count_the_worst_case_until_it_is_known(ledger_url: str) -> None:
    clock = Clock()
    with opened(ledger_url, clock) as ledger:
        key = new_key(ledger, tokens_per_minute=250)
        reserved(ledger, key, asked(1))
        reserved(ledger, key, asked(2))
        clock.now += 1
        with pytest.raises(RateLimitedError, match="250 tokens a minute; wait 60 s"):
            ledger.reserve(key.id, asked(3))
        ledger.settle(request_id(1), used(10, 20), sign)  # 80 of 110 come back
        reserved(ledger, key, asked(3))
        with pytest.raises(RateLimitedError, match="tokens a minute"):
            ledger.reserve(key.id, asked(4, 1, 0))
        ledger.release(request_id(2), "failed")
        reserved(ledger, key, asked(4))
        with pytest.raises(RateLimitedError, match=r"may take 251 tokens; the key \w+ may use 250") as refused:
            ledger.reserve(key.id, asked(5, 51, 200))
        assert refused.value.retry_after is None


def test_a_minute_is_one_for_all_processes(ledger_url: str) -> None:
    with opened(ledger_url) as one, opened(ledger_url) as two:
        key = new_key(one, requests_per_minute=2)
        one.admit(key.id, 1)
        two.admit(key.id, 1)
        for ledger in (one, two):
            with pytest.raises(RateLimitedError):
                ledger.admit(key.id, 1)


def test_one_tenant_does_not_fill_the_queue(ledger_url: str) -> None:
    with opened(ledger_url, account_concurrent=3) as ledger:
        one, two, three = (new_key(ledger, concurrent=2) for _ in range(3))
        reserved(ledger, one, asked(1))
        reserved(ledger, one, asked(2))
        with pytest.raises(RateLimitedError, match="2 requests at once") as refused:
            ledger.reserve(one.id, asked(3))
        assert refused.value.retry_after == 1
        reserved(ledger, two, asked(4))
        with pytest.raises(RateLimitedError, match="account has 3 requests at once"):
            ledger.reserve(three.id, asked(5))
        reserved(ledger, new_key(ledger, account=account(GATEWAY)), asked(5))
        ledger.settle(request_id(1), used(), sign)
        reserved(ledger, three, asked(6))
