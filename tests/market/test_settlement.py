"""From the ledger's receipts to the real contract, and back into what the gateway lends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flock_ray.chain import usage_calls
from flock_ray.chain.calls import Call
from flock_ray.chain.eip712 import price_book_digest
from flock_ray.chain.embedded import GENESIS_TIME, SECONDS_PER_EPOCH
from flock_ray.chain.keys import Signer, run_signer
from flock_ray.chain.outbox import Outbox
from flock_ray.chain.usage import SignedReceipt, UsageBatch, UsageSettings
from flock_ray.chain.usage_settler import UsageSettler
from flock_ray.chain.values import MAX_FEE, TxReceipt
from flock_ray.errors import BudgetError, LedgerError, VerificationError
from flock_ray.market.batches import SEND_MARGIN, Batches
from flock_ray.market.ledger import Ledger
from flock_ray.market.ledger_values import Gateway, Key, KeyTerms, NotLendingError
from flock_ray.market.settlement import Settled, Settlement
from flock_ray.protocol.price_book import PriceBook
from flock_ray.protocol.receipt import Receipt
from flock_ray.protocol.usage import series_of
from flock_ray.verify.usage import verify_usage
from tests.chain.usage_world import HOST, NEVER, OWNER, PROTOCOL, SETTINGS, TABLE, WEIGHTS, UsageWorld, account
from tests.chain.world import RUN_SEED
from tests.market.ledgers import CAP_MARGIN, asked, request_id, used
from tests.waiting import PATIENCE

pytestmark = pytest.mark.chain
DEPOSIT = 10_000
SLOW = replace(SETTINGS, activation_delay=6_000, withdrawal_delay=10_000)
"""An embedded chain moves on by 600 s with each batch: so some are settled before the first is active."""


class Killed(BaseException):
    """The process ends here."""


class Serving:
    """A gateway on a real chain, with its ledger: users deposit and sign caps, the gateway answers and settles."""

    def __init__(self, folder: Path, url: str, settings: UsageSettings = SLOW) -> None:
        self.folder, self.usage, self.count = folder, UsageWorld(folder / "world", settings=settings), 0
        self.node = self.usage.client._node
        self.ledger = Ledger.open(url, self.node.timestamp)
        self.gateway = Gateway(account(self.usage.gateway), self.usage.usage, lends=True)
        self.ledger.bind(self.gateway, 32, CAP_MARGIN, chain_age=10**6)
        self.book = self.usage.book()
        self.publish(self.book)
        self.settler = UsageSettler(
            self.node, self.usage.gateway, Outbox(folder / "outbox.sqlite"), PATIENCE, MAX_FEE
        )  # fmt: skip
        self.settlement = self.new_settlement()

    def new_settlement(self) -> Settlement:
        return Settlement(
            self.ledger, self.usage.reader, self.settler, self.send, self.usage.gateway, self.folder / "batches"
        )  # fmt: skip

    def send(self, calls: Sequence[Call]) -> list[TxReceipt]:
        return [self.usage.send(self.usage.creator, call) for call in calls]

    def publish(self, book: PriceBook) -> None:
        signature = self.usage.gateway.sign_digest(price_book_digest(self.usage.usage, book))
        self.ledger.batches.publish(book, signature, [TABLE])

    def user(self, number: int, until: int = NEVER) -> Key:
        """A user with a key, a deposit and a cap."""
        signer = self.usage.users[number]
        self.usage.deposit(signer, DEPOSIT)
        key, _ = self.ledger.keys.create(KeyTerms(account(signer)))
        self.sign_cap(number, until)
        self.settlement.watch()
        return key

    def sign_cap(self, number: int, until: int) -> None:
        self.ledger.caps.store(self.usage.cap(self.usage.users[number], self.book, 1 << 100, until))

    def wait_until(self, time: int) -> None:
        """Mine a block of this time or later."""
        self.usage.epoch = max(self.usage.epoch, (time - GENESIS_TIME) // SECONDS_PER_EPOCH + 1)
        self.usage.deposit(self.usage.gateway, 1)
        assert self.node.timestamp() >= time

    def pay(self) -> dict[bytes, int]:
        """What everybody whom the batches give something has then got of it."""
        payees = [HOST, OWNER, PROTOCOL, *WEIGHTS]
        self.send(self.settlement.claims(self.book.hash))
        assert self.settlement.claims(self.book.hash) == []
        return {payee: self.usage.wallet(payee) for payee in payees}

    def sign(self, receipt: Receipt) -> SignedReceipt:
        return self.usage.signed(receipt)

    def answer(self, key: Key, output_tokens: int = 20, book: PriceBook | None = None) -> None:
        """10 prompt tokens and so many of an answer."""
        self.count += 1
        book = book or self.book
        offer = book.offers[0]
        request = replace(
            asked(self.count, book=book.hash, prices=(offer.prompt, offer.output)), model=offer.model
        )  # fmt: skip
        self.ledger.reserve(key.id, request)
        self.ledger.settle(request_id(self.count), used(10, output_tokens), self.sign)

    def settle(self, book: PriceBook | None = None) -> list[Settled]:
        return list(self.settlement.settle((book or self.book).hash))

    def collect(self, batches: int = 2) -> list[TxReceipt]:
        """After the activation delay of so many batches."""
        self.usage.epoch += 10 + batches
        self.usage.deposit(self.usage.gateway, 1)  # mines a block
        return self.settlement.collect(self.node.timestamp())

    def last(self, book: PriceBook | None = None) -> int:
        return self.usage.reader.books(series_of(self.gateway.account, (book or self.book).hash)).last

    def batch(self, number: int, book: PriceBook | None = None) -> UsageBatch:
        taken = self.ledger.batches.get((book or self.book).hash, number)
        return self.usage.batch(taken.book.book, number, taken.after)

    def close(self) -> None:
        self.settler.close()
        self.ledger.close()
        self.usage.client.close()


@pytest.fixture
def serving(tmp_path: Path, ledger_url: str) -> Iterator[Serving]:
    made = Serving(tmp_path, ledger_url)
    yield made
    made.close()


def test_what_was_answered_is_settled_collected_paid_and_verified(serving: Serving) -> None:
    one, two = serving.user(0), serving.user(1)
    for tokens in (20, 0, 7):
        serving.answer(one, tokens)
    serving.answer(two, 100)
    owed = {one.terms.account: 140 + 20 + 62, two.terms.account: 620}
    assert serving.ledger.balance(one.terms.account).lendable == DEPOSIT - 222
    (settled,) = serving.settle()
    assert (settled.receipts, settled.batch.tables.charges) == (4, owed)
    replay = verify_usage(settled.folder, serving.node)
    assert (replay.num_receipts, replay.charges, replay.on_chain) == (4, owed, True)
    assert serving.settle() == [] and serving.last() == 1
    serving.answer(two, 10)
    (second,) = serving.settle()
    assert second.batch.number == 2 and verify_usage(second.folder, serving.node).num_receipts == 1
    owed[two.terms.account] += 80
    assert serving.settlement.collect(serving.node.timestamp()) == []  # not active yet
    assert serving.settlement.claims(serving.book.hash) == []
    receipts = serving.collect()
    assert receipts and serving.settlement.collect(serving.node.timestamp()) == []
    assert serving.ledger.batches.uncollected() == []
    assert serving.ledger.balance(one.terms.account).lendable == DEPOSIT - 222
    seen = serving.settlement.watch()
    assert (seen.accounts, seen.withdrawing) == (2, 0)
    for key in (one, two):
        balance = serving.ledger.balance(key.terms.account)
        assert balance.uncollected == 0 and balance.standing == DEPOSIT - owed[key.terms.account] == balance.lendable
    calls = serving.settlement.claims(serving.book.hash)
    payees = {HOST, OWNER, PROTOCOL, *WEIGHTS}
    assert len(calls) == len(payees)
    before = {payee: serving.usage.wallet(payee) for payee in payees}
    serving.send(calls)
    assert {payee: serving.usage.wallet(payee) - before[payee] for payee in payees} == second.batch.tables.payouts
    assert sum(second.batch.tables.payouts.values()) == sum(owed.values())
    assert serving.settlement.claims(serving.book.hash) == []


def test_a_kill_at_any_point_settles_each_receipt_once(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    key = serving.user(0)
    batches, settler = serving.ledger.batches, serving.settler
    settle_batch = settler.settle_batch

    def dies(*_: object, **__: object) -> None:
        raise Killed

    def settles_and_dies(*asked: Any) -> None:
        settle_batch(*asked)
        raise Killed

    def sends_and_dies(calls: Sequence[Call]) -> list[TxReceipt]:
        serving.send(calls)
        raise Killed

    points = (
        (settler, "settle_batch", dies), (settler, "settle_batch", settles_and_dies),
        (Settlement, "_write", dies), (batches, "mark_settled", dies),
    )  # fmt: skip
    for number, (owner, name, dying) in enumerate(points, start=1):
        serving.answer(key)
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, dying)
            with pytest.raises(Killed):
                serving.settle()
        serving.answer(key)  # after the batch was taken: it goes into the next one
        serving.settlement = serving.new_settlement()
        first, second = serving.settle()
        assert (first.batch.number, second.batch.number) == (2 * number - 1, 2 * number)
        assert (first.receipts, second.receipts) == (1, 1)
        for settled in (first, second):
            assert verify_usage(settled.folder, serving.node).on_chain
    assert serving.last() == 8
    with monkeypatch.context() as patch:
        patch.setattr(serving.settlement, "_send", sends_and_dies)
        with pytest.raises(Killed):
            serving.collect(8)
    assert serving.settlement.collect(serving.node.timestamp()) == []  # all was taken already
    assert serving.ledger.batches.uncollected() == []
    serving.settlement.watch()
    assert serving.ledger.balance(key.terms.account).standing == DEPOSIT - 8 * 140


def test_a_withdrawal_is_not_lent_on_and_what_is_owed_is_collected_before_it(serving: Serving) -> None:
    key = serving.user(0)
    user: Signer = serving.usage.users[0]
    serving.answer(key)
    assert serving.settlement.due(serving.node.timestamp(), every=10**6) == []
    serving.usage.send(user, usage_calls.request_withdrawal(serving.usage.at, serving.usage.gateway.address, DEPOSIT))
    assert serving.settlement.watch().withdrawing == 1
    with pytest.raises(BudgetError, match=r"the deposit of .* has 0 left"):
        serving.answer(key)
    (due,) = serving.settlement.due(serving.node.timestamp(), every=10**6)
    assert due.withdrawn == 1
    list(serving.settlement.settle(due.price_book))
    assert serving.collect()
    wallet = serving.usage.wallet(account(user))
    serving.usage.epoch += 10  # the withdrawal delay
    serving.usage.send(user, usage_calls.withdraw(serving.usage.at, serving.usage.gateway.address))
    assert serving.usage.wallet(account(user)) == wallet + DEPOSIT - 140


def test_a_gateway_below_its_minimum_stake_lends_nothing(serving: Serving) -> None:
    key = serving.user(0)
    serving.usage.send(serving.usage.gateway, usage_calls.request_unstake(serving.usage.at, 1))
    seen = serving.settlement.watch()
    assert seen.stake == SETTINGS.min_stake - 1 < seen.min_stake
    with pytest.raises(NotLendingError, match="below"):
        serving.answer(key)


def test_a_replaced_price_book_is_settled_at_once_in_its_own_series(serving: Serving) -> None:
    key = serving.user(0)
    serving.answer(key)
    other = serving.usage.book(output=7)
    serving.publish(other)
    serving.ledger.caps.store(serving.usage.cap(serving.usage.users[0], other, 10**6))
    serving.answer(key, book=other)
    (due,) = serving.settlement.due(serving.node.timestamp(), every=10**6)
    assert (due.price_book, due.in_force) == (serving.book.hash, False)
    for book, cost in ((serving.book, 140), (other, 160)):
        (settled,) = serving.settle(book)
        assert settled.batch.number == 1 and settled.batch.tables.total == cost
        assert verify_usage(settled.folder, serving.node).on_chain
    serving.collect()
    serving.settlement.watch()
    balance = serving.ledger.balance(key.terms.account)
    assert (balance.standing, balance.uncollected) == (DEPOSIT - 300, 0)


def test_voided_batches_are_settled_again(tmp_path: Path, ledger_url: str) -> None:
    guardian = run_signer(RUN_SEED, "creator").address
    serving = Serving(tmp_path, ledger_url, replace(SLOW, guardian=guardian))
    key = serving.user(0)
    for _ in range(2):
        serving.answer(key)
        serving.settle()
    serving.usage.send(serving.usage.creator, usage_calls.void(serving.batch(1)))
    assert serving.last() == 0
    assert serving.settlement.collect(serving.node.timestamp()) == []
    assert serving.last() == 2
    for number in (1, 2):
        folder = tmp_path / "batches" / serving.batch(1).series.hex() / str(number)
        assert verify_usage(folder, serving.node).on_chain
    serving.collect()
    assert serving.ledger.batches.uncollected() == []
    serving.close()


# Caps that end


def test_a_batch_that_is_late_for_a_cap_is_taken_anew_without_it(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*_: object) -> None:
        raise Killed

    end = serving.node.timestamp() + 2 * CAP_MARGIN
    short, lasting = serving.user(0, end), serving.user(1)
    for key in (short, lasting):
        serving.answer(key)
    with monkeypatch.context() as patch:
        patch.setattr(serving.settler, "settle_batch", dies)
        with pytest.raises(Killed):
            serving.settle()
    serving.wait_until(end - SEND_MARGIN + 1)
    (settled,) = serving.settle()
    assert (settled.batch.number, settled.batch.tables.charges) == (1, {lasting.terms.account: 140})
    assert verify_usage(settled.folder, serving.node).on_chain
    (waiting,) = serving.ledger.batches.waiting()
    assert (waiting.receipts, waiting.ended) == (1, 1)
    assert serving.settlement.due(serving.node.timestamp(), every=1) == []
    assert serving.collect() and serving.ledger.batches.uncollected() == []
    assert sum(serving.pay().values()) == 140
    serving.sign_cap(0, NEVER)
    (settled,) = serving.settle()
    assert (settled.batch.number, settled.receipts, settled.batch.tables.total) == (2, 1, 280)
    assert serving.collect() and serving.ledger.batches.uncollected() == []
    serving.settlement.watch()
    assert [serving.ledger.balance(key.terms.account).standing for key in (short, lasting)] == [DEPOSIT - 140] * 2
    assert serving.pay() == settled.batch.tables.payouts


def test_a_batch_that_came_after_a_caps_end_holds_up_no_other(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = serving.node.timestamp() + 2 * CAP_MARGIN
    short, lasting = serving.user(0, end), serving.user(1)
    account = short.terms.account

    def answer_and_settle(**tokens: int) -> Settled:
        for name, count in tokens.items():
            serving.answer({"short": short, "lasting": lasting}[name], count)
        (settled,) = serving.settle()
        return settled

    first = answer_and_settle(short=20, lasting=20)
    with monkeypatch.context() as patch:  # its transaction was signed in time, and mined late
        patch.setattr(Batches, "check_caps", lambda *_: serving.wait_until(end + 1))
        late = answer_and_settle(short=7, lasting=20)
    last = answer_and_settle(lasting=20)
    assert [one.batch.tables.total for one in (first, late, last)] == [280, 280 + 62 + 140, 280 + 62 + 280]
    assert serving.collect(3)
    assert serving.ledger.batches.uncollected() == [(serving.book.hash, 2)]
    series = first.batch.series
    assert serving.usage.reader.books(series).collected == 560
    assert serving.usage.reader.collected(series, serving.usage.users[0].address) == 140
    serving.settlement.watch()
    (owed,) = serving.ledger.batches.uncollectable()
    assert (owed.number, owed.account, owed.units) == (2, account, 62) and owed.settled_at > end
    assert serving.settlement.collect(serving.node.timestamp()) == []
    with pytest.raises(VerificationError, match="had expired when the batch was settled"):
        verify_usage(late.folder, serving.node)
    given, paid = last.batch.tables.payouts, serving.pay()  # of the last batch's 140 its part of 78
    part = {payee: units + (given[payee] - units) * 78 // 140 for payee, units in late.batch.tables.payouts.items()}
    assert paid == part and 555 <= sum(paid.values()) <= 560
    serving.sign_cap(0, NEVER)
    assert serving.ledger.batches.uncollectable() == []
    assert len(serving.settlement.collect(serving.node.timestamp())) == 1
    assert serving.ledger.batches.uncollected() == [] and serving.pay() == given
    serving.settlement.watch()
    assert serving.ledger.balance(account).standing == DEPOSIT - 202
    assert verify_usage(late.folder, serving.node).on_chain  # under the cap that it was collected by


def test_voided_batches_that_are_late_for_a_cap_are_taken_anew(tmp_path: Path, ledger_url: str) -> None:
    guardian = run_signer(RUN_SEED, "creator").address
    serving = Serving(tmp_path, ledger_url, replace(SLOW, guardian=guardian))
    end = serving.node.timestamp() + CAP_MARGIN + 1_200
    short, lasting = serving.user(0, end), serving.user(1)
    for key in (short, lasting):
        serving.answer(key)
        serving.settle()
    serving.usage.send(serving.usage.creator, usage_calls.void(serving.batch(1)))
    serving.wait_until(end)
    assert serving.settlement.collect(serving.node.timestamp()) == [] and serving.last() == 0
    (settled,) = serving.settle()
    assert (settled.batch.number, settled.batch.tables.charges) == (1, {lasting.terms.account: 140})
    assert verify_usage(settled.folder, serving.node).on_chain
    assert serving.collect() and serving.ledger.batches.uncollected() == []
    assert [waiting.ended for waiting in serving.ledger.batches.waiting()] == [1]
    serving.close()


def test_only_the_ledgers_own_gateway_and_contract_settle(serving: Serving, tmp_path: Path) -> None:
    parts = (serving.usage.reader, serving.settler, serving.send)
    with pytest.raises(LedgerError, match="the ledger is of gateway"):
        Settlement(serving.ledger, *parts, serving.usage.creator, tmp_path)
    with Ledger.open(f"sqlite:///{tmp_path}/free.db") as free:
        free.bind(replace(serving.gateway, lends=False), 32, CAP_MARGIN)
        with pytest.raises(LedgerError, match="takes no money"):
            Settlement(free, *parts, serving.usage.gateway, tmp_path)
