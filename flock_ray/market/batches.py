"""Receipts on their way to the chain: each is in exactly one batch of its price book's series.

A batch is taken in one transaction, and is the same whenever it is asked for until it is settled: so a gateway that is
killed at any point settles it again, and the chain takes it once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, and_, delete, func, insert, select, update

from flock_ray.chain.eip712 import price_book_digest, usage_domain
from flock_ray.chain.keys import recover
from flock_ray.chain.usage import SignedCap, SignedReceipt, account_text
from flock_ray.errors import LedgerError
from flock_ray.market.accounts import charged, gateway_row
from flock_ray.market.caps import signed_cap
from flock_ray.market.database import Database
from flock_ray.market.ledger_schema import ACCOUNTS, BATCHES, CAPS, CHARGES, IS_WAITING, PRICE_BOOKS, REQUESTS
from flock_ray.market.ledger_values import Reservation
from flock_ray.market.rows import signed_receipt
from flock_ray.protocol.encoding import canonical_json, from_hex, parse_canonical, to_hex
from flock_ray.protocol.price_book import MAX_BOOK, LeafTable, PriceBook
from flock_ray.protocol.usage import Tables, charge, uncapped

MAX_RECEIPTS = 50_000  # of a batch
SETTLE_MARGIN = 900  # seconds that a cap must be valid for when a batch is taken: until it is settled
SEND_MARGIN = 300  # the same when it is first sent: until it is in a block
SOON = 7_200  # seconds before a cap's end from which what waits under it is settled at once
_MAX_TABLES = 1 << 28  # bytes of a series' tables


class CapEndsError(LedgerError):
    """A cap over a batch ends before the batch could be on the chain: settled later, it could not be collected."""


@dataclass(frozen=True)
class SignedBook:
    """A price book as it was in force.

    Attributes:
        book: the price book.
        signature: the gateway's of it.
        weights: leaf tables of the offers that pay members.
    """

    book: PriceBook
    signature: bytes
    weights: tuple[LeafTable, ...]


@dataclass(frozen=True)
class Taken:
    """A batch of the ledger.

    Attributes:
        book: its price book.
        number: in its series, from 1.
        before: tables of the batch before.
        after: its tables.
        num_receipts: of this batch; `Batches.receipts` has them.
        caps: {account: latest cap} of the accounts that this batch charges.
        settled_at: time, when it was last seen on the chain; None: not yet.
    """

    book: SignedBook
    number: int
    before: Tables
    after: Tables
    num_receipts: int
    caps: Mapping[bytes, SignedCap]
    settled_at: int | None

    @property
    def charged(self) -> list[bytes]:
        """Accounts that this batch charges, ascending."""
        before, after = self.before.charges, self.after.charges
        return sorted(account for account, units in after.items() if before.get(account) != units)

    def uncovered(self, settled_at: int) -> list[bytes]:
        """Accounts of those that this batch charges whose caps do not last for it, if it is settled at a time."""
        charges = {account: self.after.charges[account] for account in self.charged}
        return uncapped(charges, {account: signed.cap for account, signed in self.caps.items()}, settled_at)


@dataclass(frozen=True)
class Waiting:
    """Receipts of a price book that no batch has.

    Attributes:
        price_book: its hash.
        receipts: number of them.
        ended: of these, receipts of accounts whose cap has ended, or is about to: they wait for a later one.
        oldest: time of the first of the others; 0: there is none.
        withdrawn: accounts among the others' that asked for a part of their deposit.
        expiring: accounts among the others' whose cap ends soon.
        in_force: whether new requests still go under this price book.
    """

    price_book: bytes
    receipts: int
    ended: int
    oldest: int
    withdrawn: int
    expiring: int
    in_force: bool


@dataclass(frozen=True)
class Uncollectable:
    """What an account was charged in a batch that came onto the chain after its cap had ended.

    Attributes:
        price_book: of the batch.
        number: of the batch.
        account: that is charged.
        units: not collected when the chain was last seen; they can be once the account has signed a later cap.
        settled_at: time of the batch's settlement.
    """

    price_book: bytes
    number: int
    account: bytes
    units: int
    settled_at: int


class Batches:
    """The ledger's price books and batches."""

    def __init__(self, database: Database, clock: Callable[[], int]) -> None:
        """Keep batches in a ledger's database; the clock tells whole Unix seconds."""
        self._database, self._clock = database, clock
        self._books = dict[bytes, PriceBook]()  # that requests were lent under

    def publish(self, book: PriceBook, signature: bytes, weights: Iterable[LeafTable]) -> None:
        """Put a price book in force; requests under it are lent from now on. Doing so again changes nothing.

        Args:
            book: the gateway's.
            signature: its of the book's `price_book_digest`, 65 bytes.
            weights: leaf tables of the offers that pay members.

        Raises:
            LedgerError: it is not the gateway's, is not signed by it, or lacks a leaf table.
        """
        tables = {table.hash: table for table in weights if table.hash in {offer.weights for offer in book.offers}}
        content = canonical_json([tables[name].as_json() for name in sorted(tables)])
        with self._database.write() as transaction:
            gateway = gateway_row(transaction)
            digest = price_book_digest(usage_domain(gateway.chain_id, gateway.contract), book)
            if book.gateway != gateway.account or recover(digest, signature) != account_text(gateway.account):
                raise LedgerError(f"the price book {to_hex(book.hash)} is not signed by 0x{gateway.account.hex()}")
            try:
                charge(Tables(), (), book, tables)
            except ValueError as error:
                raise LedgerError(str(error)) from None
            newest = transaction.execute(select(func.max(PRICE_BOOKS.c.number))).scalar_one() or 0
            place = PRICE_BOOKS.c.hash == book.hash
            known = transaction.execute(select(PRICE_BOOKS.c.number).where(place)).scalar_one_or_none()
            if known is None:
                transaction.execute(
                    insert(PRICE_BOOKS).values(
                        hash=book.hash, number=newest + 1, content=book.to_bytes(), signature=signature, weights=content
                    )
                )
            elif known != newest:
                transaction.execute(update(PRICE_BOOKS).where(place).values(number=newest + 1))

    def check_prices(self, transaction: Connection, asked: Reservation) -> None:
        """A request is lent under a price book that was published, and at its prices: or no batch could charge it."""
        if asked.price_book not in self._books:
            self._books[asked.price_book] = _book(transaction, asked.price_book).book
        offer = self._books[asked.price_book].offer(asked.model)
        assert (offer.prompt, offer.output) == asked.prices, "a request has other prices than its price book"

    def books(self) -> list[bytes]:
        """Hashes of all price books, the one in force last."""
        with self._database.read() as transaction:
            return list(transaction.execute(select(PRICE_BOOKS.c.hash).order_by(PRICE_BOOKS.c.number)).scalars())

    def waiting(self) -> list[Waiting]:
        """What no batch has yet, by price book, the oldest book first."""
        row, now = REQUESTS.c, self._clock()
        asked: Select[Any] = (
            select(
                row.price_book, row.account, func.count(), func.min(row.ended_at), ACCOUNTS.c.withdraws, CAPS.c.expiry
            )
            .join(ACCOUNTS, ACCOUNTS.c.account == row.account)
            .outerjoin(CAPS, and_(CAPS.c.account == row.account, CAPS.c.price_book == row.price_book))
            .where(IS_WAITING)
            .group_by(row.price_book, row.account, ACCOUNTS.c.withdraws, CAPS.c.expiry)
        )
        with self._database.read() as transaction:
            groups = transaction.execute(asked).all()
            books = list(transaction.execute(select(PRICE_BOOKS.c.hash).order_by(PRICE_BOOKS.c.number)).scalars())
        found = []
        for book in books:
            own = [group for group in groups if group[0] == book]
            if own:
                lasting = [group for group in own if group[5] is not None and group[5] >= now + SETTLE_MARGIN]
                counted, ready = (sum(group[2] for group in groups) for groups in (own, lasting))
                found.append(
                    Waiting(
                        book, counted, counted - ready, min((group[3] for group in lasting), default=0),
                        sum(group[4] for group in lasting), sum(group[5] < now + SOON for group in lasting),
                        book == books[-1],
                    )
                )  # fmt: skip
        return found

    def take(self, price_book: bytes, chain_time: int = 0) -> Taken | None:
        """The batch that is taken and not settled; or the next one, of what waits and is under caps that last.

        Args:
            price_book: hash of the price book.
            chain_time: time of the chain's latest block, which may be ahead of the ledger's clock.

        Returns:
            The batch; None if nothing can be charged now.

        Raises:
            LedgerError: the ledger does not know the price book.
        """
        with self._database.write() as transaction:
            book = _book(transaction, price_book, lock=True)
            place = BATCHES.c.price_book == price_book
            last = transaction.execute(select(func.max(BATCHES.c.number)).where(place)).scalar_one() or 0
            if last:
                taken = _taken(transaction, book, last)
                if taken.settled_at is None:
                    return taken
                before = taken.after
            else:
                before = Tables()
            until = max(self._clock(), chain_time) + SETTLE_MARGIN
            lasting = and_(CAPS.c.price_book == price_book, CAPS.c.expiry >= until)
            first = (
                select(REQUESTS.c.request)
                .where(
                    REQUESTS.c.price_book == price_book, IS_WAITING,
                    REQUESTS.c.account.in_(select(CAPS.c.account).where(lasting)),
                )
                .order_by(REQUESTS.c.request)
                .limit(MAX_RECEIPTS)
            )  # fmt: skip
            transaction.execute(update(REQUESTS).where(REQUESTS.c.request.in_(first)).values(batch=last + 1))
            receipts = _receipts(transaction, price_book, last + 1)
            if not receipts:
                return None
            after = charge(before, (one.receipt for one in receipts), book.book, _by_hash(book))
            transaction.execute(
                insert(BATCHES).values(
                    price_book=price_book, number=last + 1, charges=_packed(after.charges),
                    payouts=_packed(after.payouts), receipts=len(receipts), collected=0,
                )
            )  # fmt: skip
            return _taken(transaction, book, last + 1)

    def check_caps(self, price_book: bytes, number: int, chain_time: int) -> None:
        """CapEndsError, if a cap over a batch ends before the batch could be in a block; `chain_time` as in `take`."""
        ended = self.get(price_book, number).uncovered(max(self._clock(), chain_time) + SEND_MARGIN)
        if ended:
            raise CapEndsError(
                f"batch {number} under the price book {to_hex(price_book)} charges {len(ended)} accounts whose caps end"
                " before it could be settled"
            )

    def give_back(self, price_book: bytes, number: int) -> None:
        """Undo a batch that is not on the chain and cannot come onto it, and those after it: their receipts wait."""
        batch, asked = BATCHES.c, REQUESTS.c
        with self._database.write() as transaction:
            _book(transaction, price_book, lock=True)
            undone = (asked.price_book == price_book) & (asked.batch >= number)
            transaction.execute(update(REQUESTS).where(undone).values(batch=None))
            transaction.execute(delete(BATCHES).where(batch.price_book == price_book, batch.number >= number))

    def get(self, price_book: bytes, number: int) -> Taken:
        """A batch that was taken; LedgerError if there is none."""
        with self._database.read() as transaction:
            return _taken(transaction, _book(transaction, price_book), number)

    def receipts(self, price_book: bytes, number: int) -> list[SignedReceipt]:
        """Receipts of a batch, by ascending request."""
        with self._database.read() as transaction:
            return _receipts(transaction, price_book, number)

    def mark_settled(self, price_book: bytes, number: int, settled_at: int) -> None:
        """A batch is on the chain since a time."""
        self._mark(price_book, number, settled_at=settled_at)

    def mark_collected(self, price_book: bytes, number: int) -> None:
        """All that a batch charges was collected."""
        self._mark(price_book, number, collected=1)

    def uncollected(self) -> list[tuple[bytes, int]]:
        """(price book, number) of batches that were taken and are not collected, the oldest of a series first."""
        asked = select(BATCHES.c.price_book, BATCHES.c.number).where(BATCHES.c.collected == 0)
        with self._database.read() as transaction:
            rows = transaction.execute(asked.order_by(BATCHES.c.price_book, BATCHES.c.number))
            return [(row.price_book, row.number) for row in rows]

    def uncollectable(self) -> list[Uncollectable]:
        """What was charged in settled batches and no cap lasts for, by price book and batch."""
        found = []
        for price_book, number in self.uncollected():
            taken = self.get(price_book, number)
            ended = [] if taken.settled_at is None else taken.uncovered(taken.settled_at)
            for account in ended:
                with self._database.read() as transaction:
                    _, collected = charged(transaction, account)[price_book]
                before = max(taken.before.charges.get(account, 0), collected)
                if units := max(taken.after.charges[account] - before, 0):
                    assert taken.settled_at is not None
                    found.append(Uncollectable(price_book, number, account, units, taken.settled_at))
        return found

    def unsettled(self) -> list[bytes]:
        """Price books with a batch that was taken and is not settled: its process was killed, say."""
        asked = select(BATCHES.c.price_book).where(BATCHES.c.settled_at.is_(None))
        with self._database.read() as transaction:
            return list(transaction.execute(asked.order_by(BATCHES.c.price_book)).scalars())

    def numbers(self, price_book: bytes) -> list[int]:
        """Numbers of all batches of a price book."""
        asked = select(BATCHES.c.number).where(BATCHES.c.price_book == price_book).order_by(BATCHES.c.number)
        with self._database.read() as transaction:
            return list(transaction.execute(asked).scalars())

    def charged_books(self) -> dict[bytes, list[bytes]]:
        """{account: price books that it was charged under}, of all accounts that have a key."""
        with self._database.read() as transaction:
            books: dict[bytes, list[bytes]] = {
                account: [] for account in transaction.execute(select(ACCOUNTS.c.account)).scalars()
            }
            for row in transaction.execute(select(CHARGES.c.account, CHARGES.c.price_book)):
                books[row.account].append(row.price_book)
        return books

    def _mark(self, price_book: bytes, number: int, **values: int) -> None:
        place = (BATCHES.c.price_book == price_book) & (BATCHES.c.number == number)
        with self._database.write() as transaction:
            marked = transaction.execute(update(BATCHES).where(place).values(values)).rowcount
            assert marked == 1, "only a batch that was taken is settled and collected"


def _book(transaction: Connection, price_book: bytes, lock: bool = False) -> SignedBook:
    asked = select(PRICE_BOOKS).where(PRICE_BOOKS.c.hash == price_book)
    row = transaction.execute(asked.with_for_update() if lock else asked).one_or_none()
    if row is None:
        raise LedgerError(f"the ledger has no price book 0x{price_book.hex()}")
    weights = tuple(
        LeafTable(
            value["chain_id"], from_hex(value["distributor"], 20), from_hex(value["task"]),
            {from_hex(account, 20): units for account, units in value["rewards"]},
        )
        for value in parse_canonical(row.weights, _MAX_TABLES)
    )  # fmt: skip
    assert len(row.content) <= MAX_BOOK
    return SignedBook(PriceBook.from_bytes(row.content), row.signature, weights)


def _taken(transaction: Connection, book: SignedBook, number: int) -> Taken:
    name = book.book.hash
    place = (BATCHES.c.price_book == name) & BATCHES.c.number.in_([number - 1, number])
    rows = {row.number: row for row in transaction.execute(select(BATCHES).where(place))}
    if number not in rows:
        raise LedgerError(f"the ledger has no batch {number} under the price book {to_hex(name)}")
    after = _tables(rows[number])
    before = _tables(rows[number - 1]) if number > 1 else Tables()
    own = {account for account, units in after.charges.items() if before.charges.get(account) != units}
    caps = transaction.execute(select(CAPS).where(CAPS.c.price_book == name))
    signed = {row.account: signed_cap(row, book.book.gateway) for row in caps if row.account in own}
    return Taken(book, number, before, after, rows[number].receipts, signed, rows[number].settled_at)


def _receipts(transaction: Connection, price_book: bytes, number: int) -> list[SignedReceipt]:
    row = REQUESTS.c
    asked = select(row.receipt, row.receipt_key, row.signature).where(row.price_book == price_book, row.batch == number)
    found = [signed_receipt(record) for record in transaction.execute(asked.order_by(row.request))]
    return [receipt for receipt in found if receipt is not None]


def _by_hash(book: SignedBook) -> dict[bytes, LeafTable]:
    return {table.hash: table for table in book.weights}


def _packed(amounts: Mapping[bytes, int]) -> bytes:
    return canonical_json([[to_hex(account), amounts[account]] for account in sorted(amounts)])


def _tables(row: Any) -> Tables:
    charges, payouts = (
        {from_hex(account, 20): units for account, units in parse_canonical(packed, _MAX_TABLES)}
        for packed in (row.charges, row.payouts)
    )
    return Tables(charges, payouts)
