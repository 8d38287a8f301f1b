"""From receipts to the chain: watches deposits, settles batches, collects what they charge, pays whom they pay.

Every step looks at the chain first and may be repeated. So a process that is killed at any point, and the one after
it, settle each receipt exactly once. One process settles for a gateway at a time: its key has one nonce.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from flock_ray.chain.calls import Call
from flock_ray.chain.eip712 import usage_domain
from flock_ray.chain.keys import Signer
from flock_ray.chain.usage import UsageBatch, account_text
from flock_ray.chain.usage_calls import claim, collect
from flock_ray.chain.usage_files import BatchEvidence, batch_files
from flock_ray.chain.usage_reader import UsageReader
from flock_ray.chain.usage_settler import UsageSettler
from flock_ray.chain.values import TxReceipt
from flock_ray.errors import LedgerError
from flock_ray.market.batches import Taken, Waiting
from flock_ray.market.ledger import Ledger
from flock_ray.protocol.usage import series_of
from flock_ray.store.failures import run_folder_errors
from flock_ray.store.files import write_text

Send = Callable[[Sequence[Call]], Sequence[TxReceipt]]
"""Sends calls one after the other, and returns when they are mined."""


@dataclass(frozen=True)
class Settled:
    """A batch on the chain.

    Attributes:
        batch: the batch.
        receipts: number of its receipts.
        folder: its files, which `flock-ray verify` replays.
    """

    batch: UsageBatch
    receipts: int
    folder: Path


@dataclass(frozen=True)
class Watched:
    """What was seen on the chain.

    Attributes:
        stake: that the gateway did not ask back, wei.
        min_stake: below which it lends nothing, wei.
        accounts: that the ledger knows.
        withdrawing: those that asked for a part of their deposit.
    """

    stake: int
    min_stake: int
    accounts: int
    withdrawing: int


class Settlement:
    """The settling side of a gateway."""

    def __init__(
        self, ledger: Ledger, reader: UsageReader, settler: UsageSettler, send: Send, signer: Signer, folder: Path
    ) -> None:
        """Settle what a ledger holds.

        Args:
            ledger: bound to the gateway.
            reader: of the gateway's contract.
            settler: of the gateway's key.
            send: sends calls of any account: collecting and paying are open to everybody.
            signer: the gateway's key, for the batches' files.
            folder: where the files go, as `<series>/<number>`.

        Raises:
            LedgerError: the ledger is of another gateway or contract, or its gateway takes no money.
        """
        self._ledger, self._reader, self._settler, self._send = ledger, reader, settler, send
        self._signer, self._folder = signer, folder
        gateway = ledger.gateway()
        if not gateway.lends:
            raise LedgerError("the ledger's gateway takes no money: there is nothing to settle")
        self._domain = usage_domain(gateway.domain.chain_id, reader.at)
        self._settings = reader.settings()
        own = account_text(gateway.account), gateway.domain.contract.lower()
        if own != (signer.address, reader.at.lower()):
            raise LedgerError(f"the ledger is of gateway {own[0]} at {own[1]}, not of {signer.address} at {reader.at}")

    # What the ledger is told

    def watch(self) -> Watched:
        """Tell the ledger of the gateway's stake, and of all accounts' deposits and what was collected of them.

        Deposits are read after what was collected: what is collected in between is counted twice, which lends too
        little for a moment, never too much.
        """
        gateway = self._signer.address
        stake, least = self._reader.stake(gateway).standing, self._settings.min_stake
        self._ledger.set_stake(stake, least)
        books = self._ledger.batches.charged_books()
        charged = [(account, book) for account, charged in books.items() for book in charged]
        asked = [(self._series(book), account_text(account)) for account, book in charged]
        collected = dict(zip(charged, self._reader.all_collected(asked), strict=True))
        deposits = self._reader.deposits(gateway, [account_text(account) for account in books])
        for account, deposit in zip(books, deposits, strict=True):
            taken = {book: collected[account, book] for book in books[account]}
            self._ledger.set_deposit(account, deposit.standing, taken, withdraws=deposit.requested > 0)
        return Watched(stake, least, len(books), sum(deposit.requested > 0 for deposit in deposits))

    def due(self, now: int, every: int) -> list[Waiting]:
        """What should be settled now: what waits for `every` seconds, and at once what is in danger.

        That is where an account asked for its deposit, a cap ends soon, or the price book was replaced.
        """
        return [
            waiting
            for waiting in self._ledger.batches.waiting()
            if waiting.withdrawn or waiting.expiring or not waiting.in_force or now - waiting.oldest >= every
        ]

    # Settling

    def settle(self, price_book: bytes) -> Iterator[Settled]:
        """Settle all that waits under a price book, batch by batch, each written to its folder.

        What the guardian voided comes first: the contract takes numbers in turn.

        Raises:
            ChainError: see `UsageSettler.settle_batch`; a repeated call continues with the same batch.
        """
        for voided in self._voided(price_book):
            yield self._settle(voided)
        while (taken := self._ledger.batches.take(price_book)) is not None:
            yield self._settle(taken)

    def _voided(self, price_book: bytes) -> list[Taken]:
        """Batches of a price book that the ledger has as settled, and the chain has no longer."""
        last = self._reader.books(self._series(price_book)).last
        found = [self._ledger.batches.get(book, number) for book, number in self._ledger.batches.uncollected()
                 if book == price_book and number > last]  # fmt: skip
        return [taken for taken in found if taken.settled_at is not None]

    def _settle(self, taken: Taken) -> Settled:
        batch = self._batch(taken)
        self._settler.settle_batch(batch)
        settled_at = self._reader.batch(batch.series, batch.number).settled_at
        folder = self._write(taken, batch, settled_at)
        self._ledger.batches.mark_settled(batch.price_book, batch.number, settled_at)
        return Settled(batch, taken.num_receipts, folder)

    def _write(self, taken: Taken, batch: UsageBatch, settled_at: int) -> Path:
        receipts = self._ledger.batches.receipts(batch.price_book, batch.number)
        evidence = BatchEvidence(
            taken.book.book, taken.book.signature, taken.book.weights, taken.before, receipts, taken.caps
        )
        folder = self._folder / batch.series.hex() / str(batch.number)
        with run_folder_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        files = batch_files(batch, evidence, settled_at, self._signer.sign_digest)
        for name in sorted(files, key="batch.json".__eq__):  # last what makes it a batch
            write_text(folder / name, files[name].decode())
        return folder

    # Collecting and paying

    def collect(self, now: int) -> list[TxReceipt]:
        """Take from deposits what active batches charge, and settle anew what the guardian voided.

        Args:
            now: time of the chain.

        Returns:
            Receipts of the calls; none if nothing is active or all was collected.
        """
        receipts: list[TxReceipt] = []
        delay = self._settings.activation_delay
        pending: dict[bytes, list[Taken]] = {}
        for price_book, number in self._ledger.batches.uncollected():
            taken = self._ledger.batches.get(price_book, number)
            if taken.settled_at is not None:
                pending.setdefault(price_book, []).append(taken)
        for price_book, batches in pending.items():
            last = self._reader.books(self._series(price_book)).last
            for taken in batches:
                if taken.number > last:  # it was voided, and so were those after it
                    self._settle(taken)
            active = [
                taken for taken in batches
                if taken.number <= last and self._settled_at(taken) + delay <= now
            ]  # fmt: skip
            for index, taken in enumerate(active):
                later = {account for other in active[index + 1 :] for account in other.charged}
                receipts += self._collect(taken, later)
        return receipts

    def _settled_at(self, taken: Taken) -> int:
        return self._reader.batch(self._series(taken.book.book.hash), taken.number).settled_at

    def _collect(self, taken: Taken, later: set[bytes]) -> list[TxReceipt]:
        """Collect a batch from the accounts that no later one charges: a later one takes what both charge."""
        batch = self._batch(taken)
        charged = [account for account in taken.charged if account not in later]
        owing = self._owing(batch, charged)
        deposits = self._reader.deposits(self._signer.address, [account_text(account) for account in owing])
        able = [account for account, deposit in zip(owing, deposits, strict=True) if deposit.amount]
        calls = collect(batch, taken.caps, able)
        receipts = list(self._send(calls)) if calls else []
        if not self._owing(batch, charged):
            self._ledger.batches.mark_collected(batch.price_book, batch.number)
        return receipts

    def _owing(self, batch: UsageBatch, accounts: Sequence[bytes]) -> list[bytes]:
        collected = self._reader.all_collected([(batch.series, account_text(account)) for account in accounts])
        charges = batch.tables.charges
        return [account for account, units in zip(accounts, collected, strict=True) if units < charges[account]]

    def claims(self, price_book: bytes) -> list[Call]:
        """Calls that pay everybody what the last full batch of a price book gives them, and they were not paid yet.

        Members in pools are paid at their own accounts, as the leaf tables name them.
        """
        books = self._reader.books(self._series(price_book))
        for number in reversed(self._ledger.batches.numbers(price_book)):
            batch = self._batch(self._ledger.batches.get(price_book, number))
            if number <= books.newest and batch.tables.total <= books.collected:
                payouts = batch.tables.payouts
                paid = {account: self._reader.claimed(batch.series, account_text(account)) for account in payouts}
                return [claim(batch, account) for account in sorted(payouts) if paid[account] < payouts[account]]
        return []

    def _batch(self, taken: Taken) -> UsageBatch:
        book = taken.book.book
        return UsageBatch(self._domain, book.gateway, book.hash, taken.number, taken.after)

    def _series(self, price_book: bytes) -> bytes:
        return series_of(bytes.fromhex(self._signer.address[2:]), price_book)
