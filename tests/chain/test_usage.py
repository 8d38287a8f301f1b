"""Python and `UsageSettlement` agree to the unit: deposit, caps, collection, batches, claims, withdrawals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flock_ray.chain import usage_calls
from flock_ray.chain.calls import Call
from flock_ray.chain.eip712 import cap_digest, receipt_digest
from flock_ray.chain.keys import run_signer
from flock_ray.chain.node import Reverted
from flock_ray.chain.outbox import Outbox, State
from flock_ray.chain.refusals import refusal
from flock_ray.chain.sender import Sender
from flock_ray.chain.usage import UsageBatch, UsageTree, account_text
from flock_ray.chain.usage_reader import UsageReader
from flock_ray.chain.usage_settler import UsageSettler
from flock_ray.chain.values import MAX_FEE
from flock_ray.errors import ChainError, LedgerError
from flock_ray.protocol.price_book import BASIS, PriceBook, Split
from flock_ray.protocol.usage import Tables, charge
from tests.chain.usage_world import HOST, OWNER, PROTOCOL, SETTINGS, TABLE, WEIGHTS, UsageWorld, account
from tests.chain.world import RUN_SEED, TOKEN
from tests.waiting import PATIENCE

pytestmark = pytest.mark.chain
TABLES = {TABLE.hash: TABLE}
PAYEES = [HOST, OWNER, PROTOCOL, *WEIGHTS]
numbers = count(1)


@pytest.fixture(scope="module")
def usage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UsageWorld]:
    world = UsageWorld(tmp_path_factory.mktemp("usage"))
    yield world
    world.client.close()


def test_deployment_stands_beside_the_others(usage: UsageWorld) -> None:
    assert usage.reader.settings() == SETTINGS
    assert usage.reader.token == usage.client.addresses.token
    assert usage.deployment.gas_used < 3_600_000
    assert usage.reader.stake(usage.gateway.address).standing == SETTINGS.min_stake
    assert usage.reader.receipt_key_until(usage.gateway.address, usage.key.address) == (1 << 64) - 1
    for other in (account_text(HOST), usage.client.addresses.task):
        with pytest.raises(ChainError, match="is not this package's UsageSettlement"):
            UsageReader(usage.client._node, other, usage.creator.address)
    with pytest.raises(ChainError, match="is no address"):
        UsageReader(usage.client._node, "0x12", usage.creator.address)


def test_contract_signs_and_hashes_alike(usage: UsageWorld) -> None:
    book = usage.book()
    receipt = usage.receipt(book, 1, usage.users[0], (1_000, 200))
    cap = usage.cap(usage.users[0], book, 3_200).cap
    batch = usage.batch(book, 1, charge(Tables(), [receipt], book, TABLES))
    ask = usage.reader._ask
    assert ask("receiptDigest", usage_calls._receipt(receipt)) == receipt_digest(usage.usage, receipt)
    charged = (account_text(cap.account), 0, cap.cumulative, cap.expiry)
    digest = ask("capDigest", usage.gateway.address, book.hash, charged)
    assert digest == cap_digest(usage.usage, cap)
    assert ask("seriesOf", usage.gateway.address, book.hash) == batch.series


def test_golden_answer_is_charged_and_paid(usage: UsageWorld) -> None:
    """1,000 prompt tokens at 2 and 200 output tokens at 6: 3,200 units, through the settler's journal and a sender."""
    book, user = usage.book(), usage.users[0]
    usage.deposit(user, 3_200)
    before = {payee: usage.wallet(payee) for payee in PAYEES}
    receipt = usage.receipt(book, 1, user, (1_000, 200))
    batch = usage.batch(book, 1, charge(Tables(), [receipt], book, TABLES))
    usage.send(usage.gateway, usage_calls.settle_batch(batch))
    settled = usage.reader.batch(batch.series, 1)
    assert (settled.charges, settled.payouts, settled.total) == (batch.charges.root, batch.payouts.root, 3_200)
    usage.activate()
    usage.collect(batch, usage.caps(book, 3_200), [account(user)])
    sender = Sender(usage.client._node, usage.creator, PATIENCE)
    calls = [usage_calls.claim(batch, payee) for payee in PAYEES]
    sender.send_in_turn(sender.price(calls))
    gained = {payee: usage.wallet(payee) - before[payee] for payee in PAYEES}
    shares = dict(zip(WEIGHTS, (685, 457, 457), strict=True))  # of 1,600 at 3 : 2 : 2; 1 is left over
    assert gained == {HOST: 640, OWNER: 704, PROTOCOL: 256 + 1, **shares}
    assert usage.reader.books(batch.series).paid == 3_200


class Ledger:
    """A series in plain integers: what the contract should do, written down again."""

    def __init__(self, usage: UsageWorld) -> None:
        self.tables = [Tables()]
        self.taken = {account(user): 0 for user in usage.users}
        self.left = {
            account(user): usage.reader.deposit(usage.gateway.address, user.address).amount for user in usage.users
        }
        self.paid = dict.fromkeys(PAYEES, 0)

    @property
    def collected(self) -> int:
        return sum(self.taken.values())

    def take(self, number: int, user: bytes) -> None:
        owed = max(self.tables[number].charges[user] - self.taken[user], 0)
        amount = min(owed, self.left[user])
        self.taken[user] += amount
        self.left[user] -= amount

    def entitled(self, number: int, payee: bytes) -> int | None:
        """All that an account may have claimed by a batch; None while the one before it is not full."""
        before, after = self.tables[number - 1], self.tables[number]
        have, had, has = self.collected, before.payouts.get(payee, 0), after.payouts.get(payee, 0)
        if have < before.total:
            return None
        return has if have >= after.total else had + (has - had) * (have - before.total) // (after.total - before.total)


splits = (
    st.lists(st.integers(0, BASIS), min_size=3, max_size=3)
    .map(sorted)
    .map(lambda cuts: Split(cuts[0], cuts[1] - cuts[0], cuts[2] - cuts[1], BASIS - cuts[2]))
)
asked = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5_000), st.integers(0, 5_000)), min_size=1, max_size=6)


@settings(max_examples=12, deadline=None)
@given(split=splits, prices=st.tuples(st.integers(1, 500), st.integers(1, 500)), data=st.data())
def test_differential(usage: UsageWorld, split: Split, prices: tuple[int, int], data: st.DataObject) -> None:
    book = usage.book(prices[0] + 1_000 * next(numbers), prices[1], split)  # another book each time, so another series
    ledger, caps, batches = Ledger(usage), usage.caps(book), list[UsageBatch]()
    for number in range(1, data.draw(st.integers(1, 3)) + 1):
        for user in data.draw(st.lists(st.sampled_from(usage.users), max_size=2)):
            amount = data.draw(st.integers(1, 10**7))
            usage.deposit(user, amount)
            ledger.left[account(user)] += amount
        receipts = [
            usage.receipt(book, 10 * number + index, usage.users[who], (prompt + 1, output))
            for index, (who, prompt, output) in enumerate(data.draw(asked))
        ]
        ledger.tables.append(charge(ledger.tables[-1], receipts, book, TABLES))
        batches.append(usage.batch(book, number, ledger.tables[-1]))
        usage.send(usage.gateway, usage_calls.settle_batch(batches[-1]))
        usage.activate()
        chosen = data.draw(st.integers(1, number))
        users = data.draw(st.lists(st.sampled_from(sorted(ledger.tables[chosen].charges)), min_size=1, unique=True))
        usage.collect(batches[chosen - 1], caps, users)
        for user in users:
            ledger.take(chosen, user)
        _compare(usage, batches, ledger)
    _leave(usage)


def _compare(usage: UsageWorld, batches: list[UsageBatch], ledger: Ledger) -> None:
    """Claim whatever can be claimed by any batch; each answer is the one foreseen."""
    for number, batch in enumerate(batches, start=1):
        for payee in batch.tables.payouts:
            due, before = ledger.entitled(number, payee), usage.wallet(payee)
            if due is None or due <= ledger.paid[payee]:
                continue
            full = ledger.collected >= batch.tables.total
            earlier = batches[number - 2] if number > 1 else None
            usage.send(
                usage.creator,
                usage_calls.claim(batch, payee) if full else usage_calls.claim_short(earlier, batch, payee),
            )
            assert usage.wallet(payee) - before == due - ledger.paid[payee]
            ledger.paid[payee] = due
    books = usage.reader.books(batches[0].series)
    assert (books.collected, books.paid, books.last) == (ledger.collected, sum(ledger.paid.values()), len(batches))
    assert books.paid <= books.collected <= batches[-1].tables.total
    for user in usage.users:
        assert usage.reader.deposit(usage.gateway.address, user.address).amount == ledger.left[account(user)]
        assert usage.reader.collected(batches[0].series, user.address) == ledger.taken[account(user)]


def _leave(usage: UsageWorld) -> None:
    """All users take out what is left to them."""
    for user in usage.users:
        left = usage.reader.deposit(usage.gateway.address, user.address).amount
        before = usage.wallet(account(user))
        if left:
            usage.send(user, usage_calls.request_withdrawal(usage.at, usage.gateway.address, left))
            usage.epoch += 6
            usage.send(user, usage_calls.withdraw(usage.at, usage.gateway.address))
        assert usage.wallet(account(user)) - before == left


def refused(usage: UsageWorld, call: Call) -> str:
    """What a person reads when the contract refuses a call of the creator's."""
    with pytest.raises(Reverted) as reverted:
        usage.client._node.call(call.to, call.data, usage.creator.address)
    return str(refusal(call.name, reverted.value.data))


def test_refusals_are_told_in_words(usage: UsageWorld) -> None:
    book, user = usage.book(prompt=10**6), usage.users[1]
    tables = charge(Tables(), [usage.receipt(book, 1, user, (1, 1))], book, TABLES)
    batch, caps = usage.batch(book, 1, tables), usage.caps(book)
    told = refused(usage, usage_calls.settle_batch(batch))
    assert "settles with 100 tokens of stake that it did not ask back, not with 0" in told
    usage.send(usage.gateway, usage_calls.settle_batch(batch))
    (collect,) = usage_calls.collect(batch, caps, [account(user)])
    assert "the batch is active from" in refused(usage, collect)
    usage.activate()
    usage.deposit(user, 1)  # moves the clock
    (low,) = usage_calls.collect(batch, {account(user): usage.cap(user, book, 10)}, [account(user)])
    assert "above its cap of" in refused(usage, low)
    foreign = usage.cap(user, usage.book(prompt=10**6 + 1), 1 << 100)
    (other,) = usage_calls.collect(batch, {account(user): foreign}, [account(user)])
    assert "did not sign this" in refused(usage, other)
    assert "so far" in refused(usage, usage_calls.claim(batch, HOST))
    words = collect.words({})
    assert words["number"] == "1" and words["charged"] == "1 values"


def test_gateway_is_slashed_for_two_receipts_and_for_a_leaf_above_its_cap(tmp_path: Path) -> None:
    usage = UsageWorld(tmp_path)
    book, user, accuser = usage.book(), usage.users[0], usage.users[1]
    first = usage.receipt(book, 1, user, (1_000, 200))
    second = usage.receipt(book, 1, user, (1_001, 200))
    before = usage.wallet(account(accuser))
    usage.send(accuser, usage_calls.slash_receipts(usage.at, usage.signed(first), usage.signed(second)))
    assert usage.reader.stake(usage.gateway.address).amount == 50 * TOKEN
    assert usage.wallet(account(accuser)) - before == 5 * TOKEN

    usage.send(usage.gateway, usage_calls.stake(usage.at, 50 * TOKEN))
    batch = usage.batch(book, 1, charge(Tables(), [first], book, TABLES))
    usage.send(usage.gateway, usage_calls.settle_batch(batch))
    usage.send(accuser, usage_calls.challenge_charge(batch, account(user)))
    due = usage.reader.answer_due(batch.series, user.address, 3_200)
    assert due == usage.reader.batch(batch.series, 1).settled_at + 1_200
    usage.epoch += 4
    usage.send(accuser, usage_calls.slash_uncollected(batch, account(user)))
    assert usage.reader.stake(usage.gateway.address).amount == 50 * TOKEN
    assert usage.reader.answer_due(batch.series, user.address, 3_200) == 0
    usage.client.close()


def test_batch_is_settled_once_whatever_is_repeated(tmp_path: Path) -> None:
    usage = UsageWorld(tmp_path / "world")
    book = usage.book()
    node, outbox = usage.client._node, Outbox(tmp_path / "outbox.sqlite")
    settler = UsageSettler(node, usage.gateway, outbox, PATIENCE, MAX_FEE)
    tables = charge(Tables(), [usage.receipt(book, 1, usage.users[0], (10, 10))], book, TABLES)
    batch = usage.batch(book, 1, tables)
    receipt = settler.settle_batch(batch)
    assert settler.settle_batch(batch).hash == receipt.hash
    again = UsageSettler(node, usage.gateway, Outbox(tmp_path / "other.sqlite"), PATIENCE, MAX_FEE)
    assert again.settle_batch(batch).hash == receipt.hash  # without its journal: the contract's log tells
    assert settler.confirm(State.MINED)[1].hash == receipt.hash
    other = usage.batch(book, 1, charge(Tables(), [usage.receipt(book, 2, usage.users[0], (11, 10))], book, TABLES))
    with pytest.raises(ChainError, match="was settled with other roots"):
        settler.settle_batch(other)
    with pytest.raises(ChainError, match=r"settlement of batch 3.*WrongBatch"):
        settler.settle_batch(
            usage.batch(book, 3, charge(tables, [usage.receipt(book, 3, usage.users[0], (1, 1))], book, TABLES))
        )
    more = charge(tables, [usage.receipt(book, 2, usage.users[1], (5, 5))], book, TABLES)
    settler.settle_batch(usage.batch(book, 2, more))
    assert usage.reader.books(batch.series).last == 2
    settler.close()
    again.close()
    usage.client.close()


def test_a_batch_is_checked_before_it_is_signed_and_not_afterwards(tmp_path: Path) -> None:
    def late() -> None:
        raise LedgerError("late")

    usage = UsageWorld(tmp_path / "world")
    book, outbox = usage.book(), Outbox(tmp_path / "outbox.sqlite")
    settler = UsageSettler(usage.client._node, usage.gateway, outbox, PATIENCE, MAX_FEE)
    first, other = (
        usage.batch(book, 1, charge(Tables(), [usage.receipt(book, 1, user, (10, 10))], book, TABLES))
        for user in usage.users[:2]
    )
    with pytest.raises(LedgerError, match="late"):
        settler.settle_batch(first, late)
    assert usage.reader.books(first.series).last == 0 and outbox.next_nonce() == 0
    receipt = settler.settle_batch(other)  # in its place
    assert settler.settle_batch(other, late).hash == receipt.hash
    settler.close()
    usage.client.close()


def test_same_batch_is_settled_again_after_it_was_voided(tmp_path: Path) -> None:
    guardian = run_signer(RUN_SEED, "creator").address
    usage = UsageWorld(tmp_path / "world", settings=replace(SETTINGS, guardian=guardian))
    settler = UsageSettler(usage.client._node, usage.gateway, Outbox(tmp_path / "o.sqlite"), PATIENCE, MAX_FEE)
    book: PriceBook = usage.book()
    batch = usage.batch(book, 1, charge(Tables(), [usage.receipt(book, 1, usage.users[0], (10, 10))], book, TABLES))
    first = settler.settle_batch(batch)
    usage.send(usage.creator, usage_calls.void(batch))
    assert usage.reader.books(batch.series).last == 0
    assert settler.settle_batch(batch).hash != first.hash
    assert usage.reader.books(batch.series).last == 1
    settler.close()
    usage.client.close()


def test_trees_may_be_small(usage: UsageWorld) -> None:
    assert UsageTree(usage.usage, b"\x01" * 32, {HOST: 5}).proof(HOST) == []
    assert UsageTree(usage.usage, b"\x01" * 32, {}).root == bytes(32)
