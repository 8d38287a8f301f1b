"""From receipts to the chain: watches deposits, settles batches, collects what they charge, pays whom they pay.

Every step looks at the chain first and may be repeated. So a process that is killed at any point, and the one after
it, settle each receipt exactly once. One process settles for a gateway at a time: its key has one nonce.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from flock_ray.chain.calls import Call
from flock_ray.chain.eip712 import usage_domain
from flock_ray.chain.keys import Signer
from flock_ray.chain.usage import UsageBatch, account_text
from flock_ray.chain.usage_calls import claim, claim_short, collect
from flock_ray.chain.usage_files import BatchEvidence, batch_files
from flock_ray.chain.usage_reader import UsageReader
from flock_ray.chain.usage_settler import UsageSettler
from flock_ray.chain.values import TxReceipt
from flock_ray.errors import LedgerError
from flock_ray.market.batches import CapEndsError, Taken, Waiting
from flock_ray.market.ledger import Ledger
from flock_ray.protocol.usage import Amounts, Tables, series_of
from flock_ray.store.failures import run_folder_errors
from flock_ray.store.files import write_text

LOG = logging.getLogger(__name__)
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
            if waiting.receipts > waiting.ended
            and (waiting.withdrawn or waiting.expiring or not waiting.in_force or now - waiting.oldest >= every)
        ]

    # Settling

    def settle(self, price_book: bytes) -> Iterator[Settled]:
        """Settle all that waits under a price book, batch by batch, each written to its folder.

        What the guardian voided comes first: the contract takes numbers in turn. A batch that is late, as a cap over it
        ends before it could be settled, is given back: it is taken anew, without the receipts under that cap.

        Raises:
            ChainError: see `UsageSettler.settle_batch`; a repeated call continues with the same batch.
        """
        yield from self._settle_voided(price_book)
        while (taken := self._ledger.batches.take(price_book, self._reader.time())) is not None:
            settled = self._settle_in_time(taken)
            if settled is not None:
                yield settled

    def _settle_voided(self, price_book: bytes) -> Iterator[Settled]:
        for voided in self._voided(price_book):
            settled = self._settle_in_time(voided)
            if settled is None:
                return
            yield settled

    def _settle_in_time(self, taken: Taken) -> Settled | None:
        """Settle a batch; None if it is late: then it and those after it were given back."""
        try:
            return self._settle(taken)
        except CapEndsError as late:
            LOG.warning("%s: it is taken anew", late)
            self._ledger.batches.give_back(taken.book.book.hash, taken.number)
            return None

    def _voided(self, price_book: bytes) -> list[Taken]:
        """Batches of a price book that the ledger has as settled, and the chain has no longer."""
        last = self._reader.books(self._series(price_book)).last
        found = [self._ledger.batches.get(book, number) for book, number in self._ledger.batches.uncollected()
                 if book == price_book and number > last]  # fmt: skip
        return [taken for taken in found if taken.settled_at is not None]

    def _settle(self, taken: Taken) -> Settled:
        batch = self._batch(taken)

        def check() -> None:
            self._ledger.batches.check_caps(batch.price_book, batch.number, self._reader.time())

        self._settler.settle_batch(batch, check)
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

        What a batch charges after the end of an account's cap stays, until there is a later one: it holds nothing up.

        Args:
            now: time of the chain.

        Returns:
            Receipts of the calls; none if nothing is active or all was collected.
        """
        receipts: list[TxReceipt] = []
        for price_book in dict.fromkeys(price_book for price_book, _ in self._ledger.batches.uncollected()):
            for _ in self._settle_voided(price_book):
                pass  # it is not active yet
            if active := self._active(price_book, now):
                receipts += self._collect(price_book, active)
        return receipts

    def _active(self, price_book: bytes, now: int) -> list[tuple[Taken, int]]:
        """(batch, time of its settlement) of those that are active and not collected, the oldest first."""
        series, found = self._series(price_book), []
        last = self._reader.books(series).last
        for book, number in self._ledger.batches.uncollected():
            if book != price_book or number > last:
                continue
            taken, settled_at = self._ledger.batches.get(book, number), self._reader.batch(series, number).settled_at
            if taken.settled_at is not None and settled_at + self._settings.activation_delay <= now:
                found.append((taken, settled_at))
        return found

    def _collect(self, price_book: bytes, active: Sequence[tuple[Taken, int]]) -> list[TxReceipt]:
        """Collect from each account what the last batch that its cap lasts for, and so all before it, charge it."""
        accounts = sorted({account for taken, _ in active for account in taken.charged})
        texts = [account_text(account) for account in accounts]
        deposits = dict(zip(accounts, self._reader.deposits(self._signer.address, texts), strict=True))
        collected, last = self._collected(price_book, accounts), dict[bytes, int]()
        for taken, settled_at in active:
            uncovered = taken.uncovered(settled_at)
            last |= dict.fromkeys((account for account in taken.charged if account not in uncovered), taken.number)
        receipts: list[TxReceipt] = []
        for taken, _ in active:
            able = [
                account for account in taken.charged
                if last.get(account) == taken.number and collected[account] < taken.after.charges[account]
                and deposits[account].amount
            ]  # fmt: skip
            calls = collect(self._batch(taken), taken.caps, able)
            receipts += self._send(calls) if calls else []
        collected = self._collected(price_book, accounts) if receipts else collected
        for taken, settled_at in active:
            if all(collected[account] >= taken.after.charges[account] for account in taken.charged):
                self._write(taken, self._batch(taken), settled_at)  # with the caps that it was collected under
                self._ledger.batches.mark_collected(price_book, taken.number)
        return receipts

    def _collected(self, price_book: bytes, accounts: Sequence[bytes]) -> dict[bytes, int]:
        series = self._series(price_book)
        units = self._reader.all_collected([(series, account_text(account)) for account in accounts])
        return dict(zip(accounts, units, strict=True))

    def claims(self, price_book: bytes) -> list[Call]:
        """Calls that pay everybody what a price book's batches give them so far, and they were not paid yet.

        That is all of the full ones, and a part of the batch that is filling: what can never be collected holds back no
        more than the rest of that one. Members in pools are paid at their own accounts, as the leaf tables name them.
        """
        books, full, filling = self._reader.books(self._series(price_book)), None, None
        for number in reversed(self._ledger.batches.numbers(price_book)):
            if number > books.newest:
                continue
            batch = self._batch(self._ledger.batches.get(price_book, number))
            if batch.tables.total <= books.collected:
                full = batch
                break
            filling = batch
        if filling is not None:
            owed = self._underpaid(price_book, _part(full, filling, books.collected))
            return [claim_short(full, filling, account) for account in owed]
        if full is None:
            return []
        return [claim(full, account) for account in self._underpaid(price_book, full.tables.payouts)]

    def _underpaid(self, price_book: bytes, due: Amounts) -> list[bytes]:
        """Accounts that were paid less than is due, ascending."""
        series = self._series(price_book)
        return [
            account for account in sorted(due) if self._reader.claimed(series, account_text(account)) < due[account]
        ]

    def _batch(self, taken: Taken) -> UsageBatch:
        book = taken.book.book
        return UsageBatch(self._domain, book.gateway, book.hash, taken.number, taken.after)

    def _series(self, price_book: bytes) -> bytes:
        return series_of(bytes.fromhex(self._signer.address[2:]), price_book)


def _part(before: UsageBatch | None, filling: UsageBatch, collected: int) -> dict[bytes, int]:
    """{account: units} that a batch gives when so much of its series is collected, as the contract floors them."""
    start = Tables() if before is None else before.tables
    part, whole = collected - start.total, filling.tables.total - start.total
    return {
        account: (had := start.payouts.get(account, 0)) + (units - had) * part // whole
        for account, units in filling.tables.payouts.items()
    }
