"""`flock-ray key` and `flock-ray usage`, as an operator types them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flock_ray.chain import transactions, usage_calls
from flock_ray.chain.calls import Call
from flock_ray.chain.eip712 import cap_digest, price_book_digest, receipt_digest, usage_domain
from flock_ray.chain.keys import Signer, run_signer
from flock_ray.chain.usage import SignedCap, SignedReceipt
from flock_ray.chain.values import TOKEN
from flock_ray.commands import usage_settlement
from flock_ray.commands.main import main
from flock_ray.errors import BudgetError, KeyMissingError, KeyRefusedError, LedgerError, WrongChainError
from flock_ray.market.ledger import Ledger
from flock_ray.market.ledger_values import Gateway, KeyTerms
from flock_ray.protocol.price_book import Offer, PriceBook, Split
from flock_ray.protocol.receipt import Cap, Receipt
from tests.commands.market import CHAIN_ID, SIGNERS, Market
from tests.market.ledgers import (
    CAP_MARGIN,
    HOST,
    MODEL,
    OWNER,
    PROTOCOL,
    TABLE,
    USER,
    Clock,
    account,
    answered,
    asked,
    lending_gateway,
    opened,
    price_book,
    publish,
    request_id,
    reserved,
    sign,
    signed_cap,
    used,
)
from tests.market.ledgers import new_key as made_key

Typed = Callable[..., tuple[int, str, str]]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/ledger.db"


@pytest.fixture
def typed(url: str, capsys: pytest.CaptureFixture[str]) -> Typed:
    def type_(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([*words, "--ledger", url])
        return code, *capsys.readouterr()

    return type_


def facts(ended: tuple[int, str, str]) -> dict[str, Any]:
    code, output, errors = ended
    assert (code, errors) == (0, ""), errors
    return dict(json.loads(output))


def refused(ended: tuple[int, str, str]) -> tuple[int, str]:
    code, output, errors = ended
    assert output == "" and len(errors.splitlines()) == 1 and errors.startswith("error: "), output + errors
    return code, errors


def test_a_key_is_made_listed_and_revoked(typed: Typed, url: str) -> None:
    made = facts(
        typed(
            "key", "create", "--account", USER.address, "--label", "laptop", "--model", "haiku", "--model", "verse",
            "--budget", "2.5", "--concurrent", "3", "--requests-per-minute", "7", "--days", "30", "--json",
        )
    )  # fmt: skip
    with Ledger.open(url) as ledger:
        key = ledger.keys.authenticate(made["secret"])
    assert made["key"] == key.id and key.label == "laptop" and made["spent_wei"] == 0
    assert key.terms.expires is not None and 0 <= time.time() + 30 * 86_400 - key.terms.expires < 3_600
    assert key.terms == KeyTerms(
        account(USER), ("haiku", "verse"), 7, concurrent=3, budget=5 * TOKEN // 2, expires=key.terms.expires
    )
    other = facts(typed("key", "create", "--account", "0x" + "ab" * 20, "--json"))
    assert (other["budget_wei"], other["expires_at"], other["models"]) == (None, None, "all")
    listed = facts(typed("key", "list", "--json"))["keys"]
    assert [row["key"] for row in listed] == sorted([made["key"], other["key"]], key=[r["key"] for r in listed].index)
    assert len(listed) == 2 and "secret" not in listed[0]
    assert [row["key"] for row in facts(typed("key", "list", "--account", USER.address, "--json"))["keys"]] == [key.id]
    text = typed("key", "list")[1]
    assert "laptop" in text and made["secret"] not in text
    assert facts(typed("key", "revoke", key.id, "--json"))["revoked_at"]
    with Ledger.open(url) as ledger, pytest.raises(KeyRefusedError, match="revoked"):
        ledger.keys.authenticate(made["secret"])


def test_mistakes_are_told_in_one_line(typed: Typed, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLOCK_RAY_GATEWAY_KEY", raising=False)
    for words in (("key", "list"), ("key", "revoke", "0123"), ("usage", "show")):
        code, line = refused(typed(*words))
        assert code == LedgerError.exit_code and "there is no ledger" in line
    assert not Path(url.removeprefix("sqlite:///")).exists()
    facts(typed("key", "create", "--account", USER.address, "--json"))
    code, line = refused(typed("key", "revoke", "0123"))
    assert code == KeyRefusedError.exit_code and "has no key '0123'" in line
    code, line = refused(typed("usage", "settle", "--rpc", "http://127.0.0.1:1"))
    assert code == KeyMissingError.exit_code and "FLOCK_RAY_GATEWAY_KEY" in line
    monkeypatch.setenv("FLOCK_RAY_GATEWAY_KEY", USER._key.to_hex())
    code, line = refused(typed("usage", "settle", "--rpc", "http://127.0.0.1:1"))
    assert code == LedgerError.exit_code and "no gateway serves from this ledger yet" in line
    for words in (("key", "create"), ("key", "create", "--account", "0x12"), ("key", "create", "--account",
                  USER.address, "--concurrent", "0"), ("usage",)):  # fmt: skip
        with pytest.raises(SystemExit, match="2"):
            typed(*words)


def test_what_was_used_is_shown(typed: Typed, url: str) -> None:
    with opened(url) as ledger:
        key = made_key(ledger)
        reserved(ledger, key, asked(1))
        ledger.settle(request_id(1), used(10, 20), sign)
    shown = facts(typed("usage", "show", "--json"))
    (row,) = shown["used"]
    assert (row["key"], row["model"], row["requests"], row["cost_wei"]) == (key.id, "haiku@07070707", 1, 140)
    assert facts(typed("usage", "show", "--account", "0x" + "ab" * 20, "--json"))["used"] == []
    assert "haiku@07070707" in typed("usage", "show")[1]


def test_what_waits_for_a_later_cap_is_told(typed: Typed, url: str) -> None:
    then = 10**9
    book, end = price_book(), then + CAP_MARGIN
    with opened(url, Clock(then), lending_gateway()) as ledger:
        publish(ledger, book)
        key = made_key(ledger)
        ledger.set_stake(1, 1)
        ledger.set_deposit(account(USER), 10**6, {})
        ledger.caps.store(signed_cap(book, 10**6, end))
        answered(ledger, key, 1, book)
        assert ledger.batches.take(book.hash) is not None
        ledger.batches.mark_settled(book.hash, 1, end + 1)
        answered(ledger, key, 2, book)
    shown = facts(typed("usage", "show", "--json"))
    (waiting,), (owed,) = shown["waiting"], shown["uncollectable"]
    assert (waiting["receipts"], waiting["receipts_that_need_a_later_cap"], waiting["oldest_at"]) == (1, 1, 0)
    assert (owed["number"], owed["account"], owed["owed_wei"]) == (1, "0x" + account(USER).hex(), 140)
    _, told, _ = typed("usage", "show")
    assert "receipts that need a later cap" in told and "uncollectable" in told
    lacking = {"receipts_that_need_a_later_cap": 1, "uncollectable": [owed, owed]}
    assert usage_settlement._lacking(lacking) == (
        "Caps have ended. Until their accounts sign later ones, 1 receipts wait and 0.00000000000000028 tokens of"
        " settled batches cannot be collected: flock-ray usage show"
    )
    assert usage_settlement._lacking({"receipts_that_need_a_later_cap": 0, "uncollectable": []}) == ""


@pytest.mark.anvil
def test_usage_is_settled_collected_and_paid(
    market: Market, typed: Typed, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway, user, receipts = SIGNERS["member-0"], SIGNERS["member-1"], run_signer(1, "receipts")
    monkeypatch.setenv("FLOCK_RAY_GATEWAY_KEY", gateway._key.to_hex())
    delays = "--activation-delay", "60", "--response-window", "60", "--withdrawal-delay", "600"
    at = market.facts(
        "deployment", "usage", "--contracts", str(market.book), "--min-stake", "10", *delays, key="creator"
    )["contract"]  # fmt: skip
    market.give(member_0=10, member_1=10)

    def send(signer: Signer, call: Call) -> None:
        market.world.do(signer, lambda s, c: [transactions.call(s, c, call.to, call.data, 500_000)])

    for signer in (gateway, user):
        send(signer, Call("FlockToken", market.at["FlockToken"], "approve", (at, 100 * TOKEN)))
    send(gateway, usage_calls.stake(at, 10 * TOKEN))
    send(gateway, usage_calls.set_receipt_key(at, receipts.address, True))
    send(user, usage_calls.deposit(at, gateway.address, user.address, 5_000))
    domain = usage_domain(CHAIN_ID, at)
    offer = Offer(MODEL, 2, 6, Split(2_000, 800, 2_200, 5_000), HOST, OWNER, TABLE.hash)
    book = PriceBook(account(gateway), PROTOCOL, (offer,))
    cap = Cap(account(user), account(gateway), book.hash, 10_000, (1 << 64) - 1)
    with Ledger.open(url, market.node.timestamp) as ledger:
        ledger.bind(Gateway(account(gateway), domain, lends=True), 32, CAP_MARGIN, chain_age=10**9)
        ledger.batches.publish(book, gateway.sign_digest(price_book_digest(domain, book)), [TABLE])
        key, _ = ledger.keys.create(KeyTerms(account(user)))
        ledger.caps.store(SignedCap(cap, user.sign_digest(cap_digest(domain, cap))))

        def answer(number: int) -> None:
            ledger.reserve(key.id, replace(asked(number, book=book.hash)))
            ledger.settle(request_id(number), used(10, 20), signed)

        def signed(receipt: Receipt) -> SignedReceipt:
            return SignedReceipt(receipt, account(receipts), receipts.sign_digest(receipt_digest(domain, receipt)))

        options = "--rpc", market.url, "--to", str(tmp_path / "batches")
        planned = facts(typed("usage", "settle", *options, "--dry-run", "--json"))
        assert planned["dry_run"] and planned["waiting"] == [] and planned["min_stake_wei"] == 10 * TOKEN
        answer(1)  # the command has told the ledger of stake and deposit
        with pytest.raises(BudgetError, match="deposit"):
            ledger.reserve(key.id, asked(2, max_tokens=1_000, book=book.hash))
        planned = facts(typed("usage", "settle", *options, "--dry-run", "--json"))
        assert planned["waiting"][0]["receipts"] == 1
        done = facts(typed("usage", "settle", *options, "--json"))
        (settled,) = done["settled"]
        assert (settled["number"], settled["receipts"], settled["total_wei"]) == (1, 1, 140)
        assert done["collected"] == [] and done["batches_to_collect"] == 1
        assert main(["verify", settled["folder"], "--rpc", market.url]) == 0
        assert facts(typed("usage", "pay", *options, "--json"))["claims"] == 0
        market.wait(61)
        done = facts(typed("usage", "settle", *options, "--json"))
        assert done["settled"] == [] and len(done["collected"]) == 1 and done["batches_to_collect"] == 0
        assert ledger.balance(account(user)).standing == 5_000 - 140
        planned = facts(typed("usage", "pay", *options, "--dry-run", "--json"))
        assert planned == {"dry_run": True, "gateway": gateway.address, "claims": 5}
        assert len(facts(typed("usage", "pay", *options, "--json"))["paid"]) == 5
        assert facts(typed("usage", "pay", *options, "--json"))["paid"] == []
        assert "settled" in typed("usage", "show")[1]

        def looks(*ends: type[BaseException] | None) -> list[dict[str, Any]]:
            """What `--every` tells, look by look."""
            left = iter(ends)

            def sleep(seconds: float) -> None:
                assert seconds == 5
                if (end := next(left)) is not None:
                    raise end

            with monkeypatch.context() as patch:
                patch.setattr("flock_ray.commands.usage_settlement.time", SimpleNamespace(sleep=sleep, time=time.time))
                code, told, _ = typed("usage", "settle", *options, "--every", "5", "--after", str(1 << 40), "--json")
            assert code == 130
            return [json.loads(line) for line in told.splitlines()]

        answer(3)
        assert looks(None, KeyboardInterrupt) == []  # nothing is due
        send(user, usage_calls.request_withdrawal(at, gateway.address, 1_000))
        (look,) = looks(None, KeyboardInterrupt)  # now it is, once
        assert (look["accounts_that_withdraw"], look["settled"][0]["number"]) == (1, 2)
        monkeypatch.setenv("FLOCK_RAY_GATEWAY_KEY", user._key.to_hex())
        code, line = refused(typed("usage", "settle", *options))
        assert code == LedgerError.exit_code and "the ledger is of gateway" in line
    with Ledger.open(f"{url}2") as other:
        other.bind(Gateway(account(gateway), usage_domain(CHAIN_ID + 1, at), lends=True), 32, CAP_MARGIN)
    assert main(["usage", "settle", *options, "--ledger", f"{url}2"]) == WrongChainError.exit_code
