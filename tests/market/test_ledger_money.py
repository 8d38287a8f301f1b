"""What a gateway lends on: deposits, caps and its own stake; and the batches that its receipts go into."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flock_ray.chain.eip712 import cap_digest, price_book_digest, usage_domain
from flock_ray.chain.keys import run_signer
from flock_ray.chain.usage import SignedCap
from flock_ray.errors import BudgetError, LedgerError
from flock_ray.market.batches import SEND_MARGIN, SETTLE_MARGIN, SOON, CapEndsError, Uncollectable
from flock_ray.market.ledger_values import CapError, NotLendingError
from flock_ray.protocol.price_book import PriceBook
from flock_ray.protocol.usage import Tables, charge
from tests.market.ledgers import (
    CAP_MARGIN,
    DOMAIN,
    GATEWAY,
    NOON,
    TABLE,
    USER,
    Clock,
    account,
    answered,
    asked,
    lending,
    lending_gateway,
    new_key,
    opened,
    price_book,
    publish,
    request_id,
    reserved,
    sign,
    signed_cap,
    used,
)

BOOK = price_book()
OTHER = run_signer(1, "other")
WORST = 10 * 2 + 100 * 6


def test_nothing_is_lent_beyond_the_deposit(ledger_url: str) -> None:
    with lending(ledger_url, BOOK, deposit=2 * WORST + 100) as ledger:
        (key,) = ledger.keys.find()
        for number in (1, 2):
            reserved(ledger, key, asked(number, book=BOOK.hash))
        with pytest.raises(BudgetError, match=f"may cost {WORST} wei; the deposit of .* has 100 left"):
            ledger.reserve(key.id, asked(3, book=BOOK.hash))
        ledger.settle(request_id(1), used(10, 20), sign)  # 140
        assert ledger.balance(account(USER)).lendable == WORST + 100 - 140
        ledger.release(request_id(2), "failed")
        reserved(ledger, key, asked(3, book=BOOK.hash))
        with pytest.raises(BudgetError, match=r"deposit .* has 580 left"):
            ledger.reserve(key.id, asked(4, book=BOOK.hash))
        # What is collected leaves the deposit and what is owed alike.
        ledger.set_deposit(account(USER), 2 * WORST + 100 - 140, {BOOK.hash: 140})
        with pytest.raises(BudgetError, match=r"deposit .* has 580 left"):
            ledger.reserve(key.id, asked(4, book=BOOK.hash))
        # What was asked back is not lent on, and what runs goes on.
        ledger.set_deposit(account(USER), 0, {BOOK.hash: 140}, withdraws=True)
        with pytest.raises(BudgetError, match=r"deposit .* has 0 left"):
            ledger.reserve(key.id, asked(4, 1, 0, book=BOOK.hash))
        assert ledger.settle(request_id(3), used(10, 20), sign).cost == 140
        reserved(ledger, key, asked(5, book=BOOK.hash, prices=(0, 0)))  # what is free needs no deposit


def test_nothing_is_lent_beyond_the_cap(ledger_url: str) -> None:
    clock = Clock()
    with lending(ledger_url, BOOK, clock, cap=WORST + 100) as ledger:
        (key,) = ledger.keys.find()
        second = new_key(ledger)  # of the same account
        reserved(ledger, key, asked(1, book=BOOK.hash))
        with pytest.raises(BudgetError, match=f"may cost {WORST} wei; the cap of .* has 100 left"):
            ledger.reserve(second.id, asked(2, book=BOOK.hash))
        ledger.settle(request_id(1), used(10, 20), sign)
        with pytest.raises(BudgetError, match=r"the cap of .* has 580 left"):
            ledger.reserve(key.id, asked(2, book=BOOK.hash))
        ledger.caps.store(signed_cap(BOOK, WORST + 140))
        reserved(ledger, key, asked(2, book=BOOK.hash))
        ledger.caps.store(signed_cap(BOOK, 10**6, NOON + 10**6))
        clock.now = NOON + 10**6 - CAP_MARGIN + 1
        ledger.set_deposit(account(USER), 10**6, {})
        with pytest.raises(BudgetError, match=r"ends at .* sign a later one"):
            ledger.reserve(key.id, asked(3, book=BOOK.hash))


def test_an_account_without_a_cap_or_deposit_is_lent_nothing(ledger_url: str) -> None:
    with lending(ledger_url, BOOK) as ledger:
        key = new_key(ledger, account=account(OTHER))
        with pytest.raises(NotLendingError, match="has not seen the account's deposit"):
            ledger.reserve(key.id, asked(1, book=BOOK.hash))
        ledger.set_deposit(account(OTHER), 10**6, {})
        with pytest.raises(BudgetError, match="has signed no cap"):
            ledger.reserve(key.id, asked(1, book=BOOK.hash))
        ledger.caps.store(signed_cap(BOOK, 10**6, user=OTHER))
        reserved(ledger, key, asked(1, book=BOOK.hash))
        with pytest.raises(AssertionError, match="other prices"):
            ledger.reserve(key.id, asked(2, book=BOOK.hash, prices=(2, 5)))
        another = price_book(output=7)
        with pytest.raises(LedgerError, match="has no price book"):
            ledger.reserve(key.id, asked(2, book=another.hash, prices=(2, 7)))
        publish(ledger, another)  # a cap is for one price book
        with pytest.raises(BudgetError, match="has signed no cap under the price book"):
            ledger.reserve(key.id, asked(2, book=another.hash, prices=(2, 7)))


def test_a_gateway_below_its_stake_or_blind_lends_nothing(ledger_url: str) -> None:
    clock = Clock()
    with lending(ledger_url, BOOK, clock) as ledger:
        (key,) = ledger.keys.find()
        ledger.set_stake(99, 100)
        with pytest.raises(NotLendingError, match="stake is 99 wei, below 100"):
            ledger.reserve(key.id, asked(1, book=BOOK.hash))
        ledger.set_stake(100, 100)
        clock.now += 600
        reserved(ledger, key, asked(1, book=BOOK.hash))
        clock.now += 1
        with pytest.raises(NotLendingError, match="not seen the account's deposit on the chain lately"):
            ledger.reserve(key.id, asked(2, book=BOOK.hash))
        ledger.set_deposit(account(USER), 10**6, {})
        reserved(ledger, key, asked(2, book=BOOK.hash))


def test_only_what_an_account_signed_is_a_cap(ledger_url: str) -> None:
    with lending(ledger_url, BOOK) as ledger:
        good = signed_cap(BOOK, 2 * 10**6)
        stranger = signed_cap(BOOK, 10**6, user=OTHER)
        wrong = {
            "not signed by": SignedCap(replace(good.cap, cumulative=3 * 10**6), good.signature),
            "is not signed by": SignedCap(good.cap, good.signature[:64]),
            "is for the gateway": replace(good, cap=replace(good.cap, gateway=account(OTHER))),
            "has no price book": signed_cap(price_book(output=9), 10**6),
            "must be valid until": signed_cap(BOOK, 2 * 10**6, NOON + CAP_MARGIN - 1),
            "has no key of this gateway": stranger,
            "caps only grow": signed_cap(BOOK, 10**6 - 1),
            "until 1800999999 is below": signed_cap(BOOK, 10**7, NOON + 10**6 - 1),
        }
        before = ledger.caps.get(account(USER), BOOK.hash)
        for told, signed in wrong.items():
            with pytest.raises(CapError, match=told):
                ledger.caps.store(signed)
        assert ledger.caps.get(account(USER), BOOK.hash) == before
        ledger.caps.store(good)
        ledger.caps.store(good)
        assert ledger.caps.get(account(USER), BOOK.hash) == good
        assert ledger.caps.get(account(OTHER), BOOK.hash) is None
        huge = signed_cap(BOOK, (1 << 128) - 1, (1 << 64) - 1)
        ledger.caps.store(huge)
        assert ledger.caps.get(account(USER), BOOK.hash) == huge


def test_only_the_gateway_publishes_prices(ledger_url: str) -> None:
    with opened(ledger_url, gateway=lending_gateway()) as ledger:
        with pytest.raises(LedgerError, match="is not signed by"):
            ledger.batches.publish(BOOK, USER.sign_digest(BOOK.hash), [TABLE])
        foreign = PriceBook(account(OTHER), BOOK.protocol, BOOK.offers)
        with pytest.raises(LedgerError, match="is not signed by"):
            publish(ledger, foreign)
        with pytest.raises(LedgerError, match="are missing"):
            ledger.batches.publish(BOOK, GATEWAY.sign_digest(price_book_digest(DOMAIN, BOOK)), [])
        another = price_book(output=7)
        for book, books in ((BOOK, [BOOK]), (BOOK, [BOOK]), (another, [BOOK, another]), (BOOK, [another, BOOK])):
            publish(ledger, book)
            assert ledger.batches.books() == [one.hash for one in books]


# Batches


def test_each_receipt_is_in_one_batch_and_a_batch_stays_as_it_was_taken(ledger_url: str) -> None:
    with lending(ledger_url, BOOK) as ledger:
        (key,) = ledger.keys.find()
        assert ledger.batches.take(BOOK.hash) is None
        rows = [answered(ledger, key, number, BOOK) for number in range(3)]
        taken = ledger.batches.take(BOOK.hash)
        assert taken is not None and (taken.number, taken.before, taken.settled_at) == (1, Tables(), None)
        receipts = {row.receipt for row in rows}
        assert set(ledger.batches.receipts(BOOK.hash, 1)) == receipts
        assert taken.after == charge(
            Tables(), [one.receipt for one in ledger.batches.receipts(BOOK.hash, 1)], BOOK, {TABLE.hash: TABLE}
        )
        assert taken.charged == [account(USER)] and taken.caps[account(USER)] == signed_cap(BOOK, 10**6)
        rows += [answered(ledger, key, number, BOOK) for number in range(3, 5)]
        assert ledger.batches.take(BOOK.hash) == taken == ledger.batches.get(BOOK.hash, 1)
        ledger.batches.mark_settled(BOOK.hash, 1, NOON + 5)
        following = ledger.batches.take(BOOK.hash)
        assert following is not None and (following.number, following.before) == (2, taken.after)
        assert ledger.batches.unsettled() == [BOOK.hash]
        assert not receipts & set(ledger.batches.receipts(BOOK.hash, 2))
        assert receipts | set(ledger.batches.receipts(BOOK.hash, 2)) == {row.receipt for row in rows}
        assert ledger.batches.uncollected() == [(BOOK.hash, 1), (BOOK.hash, 2)]
        ledger.batches.mark_settled(BOOK.hash, 2, NOON + 6)
        assert ledger.batches.take(BOOK.hash) is None and ledger.batches.unsettled() == []
        ledger.batches.mark_collected(BOOK.hash, 1)
        assert ledger.batches.uncollected() == [(BOOK.hash, 2)] and ledger.batches.numbers(BOOK.hash) == [1, 2]
        numbers = [row.batch for number in range(5) if (row := ledger.row(request_id(number)))]
        assert numbers == [1, 1, 1, 2, 2]
        with pytest.raises(LedgerError, match="no batch 3"):
            ledger.batches.get(BOOK.hash, 3)
        with pytest.raises(LedgerError, match="no price book"):
            ledger.batches.take(bytes(32))


def test_a_series_is_of_one_price_book(ledger_url: str) -> None:
    another = price_book(output=7)
    with lending(ledger_url, BOOK) as ledger:
        (key,) = ledger.keys.find()
        answered(ledger, key, 1, BOOK)
        publish(ledger, another)
        ledger.caps.store(signed_cap(another, 10**6))
        answered(ledger, key, 2, another)
        for book, number in ((BOOK, 1), (another, 2)):
            taken = ledger.batches.take(book.hash)
            assert taken is not None and taken.number == 1
            assert [one.receipt.request for one in ledger.batches.receipts(book.hash, 1)] == [request_id(number)]


def test_only_what_a_cap_covers_when_it_is_settled_is_charged(ledger_url: str) -> None:
    """A charge above a cap, or after its end, could not be collected, and would be slashed."""
    clock = Clock()
    with lending(ledger_url, BOOK, clock) as ledger:
        (key,) = ledger.keys.find()
        other = new_key(ledger, account=account(OTHER))
        ledger.set_deposit(account(OTHER), 10**6, {})
        ledger.caps.store(signed_cap(BOOK, 10**6, NOON + CAP_MARGIN, OTHER))
        answered(ledger, key, 1, BOOK)
        answered(ledger, other, 2, BOOK)
        answered(ledger, other, 3, BOOK, output_tokens=0)
        clock.now += CAP_MARGIN - SETTLE_MARGIN + 1
        taken = ledger.batches.take(BOOK.hash)
        assert taken is not None and taken.charged == [account(USER)] and taken.num_receipts == 1
        (waiting,) = ledger.batches.waiting()
        assert (waiting.receipts, waiting.ended, waiting.oldest, waiting.expiring) == (2, 2, 0, 0)
        ledger.batches.mark_settled(BOOK.hash, 1, clock.now)
        assert ledger.batches.take(BOOK.hash) is None
        ledger.caps.store(signed_cap(BOOK, 10**6, NOON + 10**6, OTHER))  # with a later one it is
        taken = ledger.batches.take(BOOK.hash)
        assert taken is not None and taken.charged == [account(OTHER)] and taken.num_receipts == 2


def test_the_chains_clock_counts_where_it_is_ahead(ledger_url: str) -> None:
    with lending(ledger_url, BOOK) as ledger:
        (key,) = ledger.keys.find()
        answered(ledger, key, 1, BOOK)
        assert ledger.batches.take(BOOK.hash, NOON + 10**6 - SETTLE_MARGIN + 1) is None
        assert ledger.batches.take(BOOK.hash, NOON + 10**6 - SETTLE_MARGIN) is not None
        ledger.batches.check_caps(BOOK.hash, 1, NOON + 10**6 - SEND_MARGIN)
        with pytest.raises(CapEndsError, match="charges 1 accounts whose caps end before it could be settled"):
            ledger.batches.check_caps(BOOK.hash, 1, NOON + 10**6 - SEND_MARGIN + 1)
        ledger.caps.store(signed_cap(BOOK, 10**6, NOON + 10**6 + 1))
        ledger.batches.check_caps(BOOK.hash, 1, NOON + 10**6 - SEND_MARGIN + 1)


def test_receipts_of_a_batch_that_was_given_back_are_in_a_later_one(ledger_url: str) -> None:
    another = price_book(output=7)
    with lending(ledger_url, BOOK) as ledger:
        (key,) = ledger.keys.find()
        publish(ledger, another)
        ledger.caps.store(signed_cap(another, 10**6))
        answered(ledger, key, 9, another)
        assert ledger.batches.take(another.hash) is not None
        for number in (1, 2, 3):
            answered(ledger, key, number, BOOK)
            assert ledger.batches.take(BOOK.hash) is not None
            ledger.batches.mark_settled(BOOK.hash, number, NOON)
        ledger.batches.give_back(BOOK.hash, 2)
        assert ledger.batches.numbers(BOOK.hash) == [1] and ledger.batches.numbers(another.hash) == [1]
        taken = ledger.batches.take(BOOK.hash)
        assert taken is not None and (taken.number, taken.num_receipts, taken.before.total) == (2, 2, 140)
        assert [row.batch for number in (1, 2, 3, 9) if (row := ledger.row(request_id(number)))] == [1, 2, 2, 1]


def test_what_no_cap_lasts_for_is_told(ledger_url: str) -> None:
    with lending(ledger_url, BOOK) as ledger:
        (key,) = ledger.keys.find()
        end = NOON + 10**6
        for number, settled_at in ((1, end), (2, end + 1), (3, end + 2)):
            answered(ledger, key, number, BOOK)
            assert ledger.batches.take(BOOK.hash) is not None
            assert len(ledger.batches.uncollectable()) == max(number - 2, 0)  # that one is not settled
            ledger.batches.mark_settled(BOOK.hash, number, settled_at)
        owed = [Uncollectable(BOOK.hash, 2, account(USER), 140, end + 1),
                Uncollectable(BOOK.hash, 3, account(USER), 140, end + 2)]  # fmt: skip
        assert ledger.batches.uncollectable() == owed
        ledger.set_deposit(account(USER), 10**6, {BOOK.hash: 290})
        assert ledger.batches.uncollectable() == [replace(owed[1], units=130)]
        ledger.caps.store(signed_cap(BOOK, 10**6, end + 2))
        assert ledger.batches.uncollectable() == []


def test_the_margin_before_a_caps_end_is_the_operators(ledger_url: str) -> None:
    clock = Clock()
    lending(ledger_url, BOOK, clock).close()
    with opened(ledger_url, clock, lending_gateway(), cap_margin=10**5) as ledger:
        (key,) = ledger.keys.find()
        clock.now = NOON + 10**6 - 10**5
        ledger.set_deposit(account(USER), 10**6, {})
        reserved(ledger, key, asked(1, book=BOOK.hash))
        clock.now += 1
        with pytest.raises(BudgetError, match=f"ends at {NOON + 10**6}, .* sign a later one"):
            ledger.reserve(key.id, asked(2, book=BOOK.hash))
        with pytest.raises(CapError, match="must be valid until"):
            ledger.caps.store(signed_cap(BOOK, 10**6))


def test_what_costs_nothing_is_in_no_batch(ledger_url: str) -> None:
    with lending(ledger_url, BOOK) as ledger:
        (key,) = ledger.keys.find()
        reserved(ledger, key, asked(1, book=BOOK.hash))
        row = ledger.settle(request_id(1), used(0, 0), sign)
        assert row.batch == 0 and row.receipt is not None
        assert ledger.batches.waiting() == [] and ledger.batches.take(BOOK.hash) is None


def test_what_waits_says_why_it_is_urgent(ledger_url: str) -> None:
    clock = Clock()
    with lending(ledger_url, BOOK, clock) as ledger:
        (key,) = ledger.keys.find()
        answered(ledger, key, 1, BOOK)
        clock.now += 5
        answered(ledger, key, 2, BOOK)
        (waiting,) = ledger.batches.waiting()
        assert (waiting.receipts, waiting.oldest, waiting.in_force) == (2, NOON, True)
        assert (waiting.withdrawn, waiting.expiring) == (0, 0)
        ledger.set_deposit(account(USER), 0, {}, withdraws=True)
        clock.now = NOON + 10**6 - SOON + 1
        publish(ledger, price_book(output=7))
        (waiting,) = ledger.batches.waiting()
        assert (waiting.withdrawn, waiting.expiring, waiting.in_force) == (1, 1, False)


def test_caps_of_another_contract_are_refused(ledger_url: str) -> None:
    with lending(ledger_url, BOOK) as ledger:
        cap = signed_cap(BOOK, 2 * 10**6).cap
        for domain in (usage_domain(1, DOMAIN.contract), usage_domain(DOMAIN.chain_id, "0x" + "11" * 20)):
            with pytest.raises(CapError, match="is not signed by"):
                ledger.caps.store(SignedCap(cap, USER.sign_digest(cap_digest(domain, cap))))
