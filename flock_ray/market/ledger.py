"""The ledger: every request's row, from its reservation to its receipt, and what bounds it.

One database, shared by all gateway processes: SQLite on one machine, PostgreSQL for several. A request's worst case is
reserved in one transaction, which checks every bound; it is settled to what was used, or released. Methods are
blocking and may be called from any thread.

A killed process loses nothing that a method returned. Keys, caps, batches, and receipts of a gateway that lends are on
disk when a method returns: a receipt that a power failure took back would be signed again, with other tokens. Without
money the bills of the last moments before a power failure may be missing.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from sqlalchemy import Connection, bindparam, delete, insert, select, update
from sqlalchemy import Row as Record

from flock_ray.chain.eip712 import usage_domain
from flock_ray.chain.usage import SignedReceipt
from flock_ray.errors import LedgerError
from flock_ray.market import accounts, bounds
from flock_ray.market.batches import Batches
from flock_ray.market.caps import Caps
from flock_ray.market.database import Database
from flock_ray.market.keys import Keys, check_valid, key_of
from flock_ray.market.ledger_schema import ACCOUNTS, GATEWAY, IS_OPEN, PROCESSES, REQUESTS, USAGE
from flock_ray.market.ledger_values import (
    Balance,
    Gateway,
    IdempotencyError,
    Key,
    Replay,
    RequestRunningError,
    Reservation,
    Row,
    State,
    UsageOfDay,
    Used,
)
from flock_ray.market.places import DEFAULT_URL as DEFAULT_URL
from flock_ray.market.rows import (
    DAY,
    forget_idempotency,
    open_row,
    release_row,
    row_of,
    row_of_idempotency,
    settle_row,
)
from flock_ray.protocol.receipt import Receipt

_PROGRESS = (
    update(REQUESTS)
    .where(
        REQUESTS.c.request == bindparam("of"), REQUESTS.c.state == State.OPEN.value,
        REQUESTS.c.delivered < bindparam("tokens"), REQUESTS.c.max_tokens >= bindparam("tokens"),
        REQUESTS.c.prompt_tokens >= bindparam("prompts"),
    )
    .values(delivered=bindparam("tokens"), begun=bindparam("prompts"), output=bindparam("hash"))
)  # fmt: skip

LEASE = 30  # seconds without a heartbeat after which a process is taken for dead

Sign = Callable[[Receipt], SignedReceipt]
"""Signs with the deployment's receipt key; called inside a transaction, so it must not wait."""


class Ledger:
    """The books of one gateway.

    Attributes:
        keys: create, revoke, find, authenticate.
        caps: what users signed.
        batches: receipts on their way to the chain.
    """

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        """The ledger in a database; see `open`."""
        self._database = database
        self._clock = clock
        self._process = secrets.token_hex(16)
        self._bound: tuple[Gateway, int, int, int] | None = None
        self._beaten = 0
        self.keys = Keys(database, self._now)
        self.caps = Caps(database, self._now, self._cap_margin)
        self.batches = Batches(database, self._now)

    @classmethod
    def open(
        cls, url: str = DEFAULT_URL, clock: Callable[[], float] = time.time, create: bool = True, wait: float = 30.0
    ) -> Self:
        """Open a ledger.

        Args:
            url: `sqlite:///FILE` or `postgresql+psycopg://USER@HOST/DATABASE`.
            clock: tells the Unix time.
            create: whether to make it where there is none.
            wait: seconds that a call waits for a free connection, or for SQLite's one writer.

        Raises:
            LedgerError: the URL names no such database, or one that has other tables, or another version's.
        """
        return cls(Database(url, create, wait), clock)

    def close(self) -> None:
        """Close its connections."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _now(self) -> int:
        return int(self._clock())

    # A gateway process

    def bind(self, gateway: Gateway, account_concurrent: int, cap_margin: int, chain_age: int = 600) -> None:
        """Serve from this ledger: it is this gateway's, for ever.

        Args:
            gateway: account, chain and contract.
            account_concurrent: most requests at once of all keys of an account.
            cap_margin: seconds before a cap's end from which nothing is lent on it.
            chain_age: seconds after which what was seen on the chain is too old to lend on.

        Raises:
            LedgerError: it is the ledger of another gateway, chain or contract.
        """
        domain = gateway.domain
        mine = {
            "account": gateway.account, "chain_id": domain.chain_id, "contract": domain.contract.lower(),
            "lends": int(gateway.lends),
        }  # fmt: skip
        with self._database.write() as transaction:
            row = transaction.execute(select(GATEWAY)).one_or_none()
            if row is None:
                transaction.execute(insert(GATEWAY).values(id=1, **mine))
            elif other := [name for name, value in mine.items() if getattr(row, name) != value]:
                raise LedgerError(f"the ledger {self._database.name} is of a gateway with another {', '.join(other)}")
        self._bound = gateway, account_concurrent, cap_margin, chain_age
        self.beat()

    def _cap_margin(self) -> int:
        assert self._bound is not None, "a ledger serves after bind()"
        return self._bound[2]

    @property
    def _lends(self) -> bool:
        """Whether a receipt may cost the gateway its stake: then none is given that a power failure takes back."""
        return self._bound is None or self._bound[0].lends

    def gateway(self) -> Gateway:
        """The gateway that this ledger is of; LedgerError if none has bound it."""
        with self._database.read() as transaction:
            row = accounts.gateway_row(transaction)
        return Gateway(row.account, usage_domain(row.chain_id, row.contract), bool(row.lends))

    def beat(self) -> None:
        """Tell that this process lives: call it every `LEASE / 3` seconds, or its requests are taken for dead."""
        with self._database.write(durable=False) as transaction:
            self._beat(transaction)

    def _beat(self, transaction: Connection) -> None:
        now = self._now()
        seen = update(PROCESSES).where(PROCESSES.c.id == self._process).values(seen_at=now)
        if not transaction.execute(seen).rowcount:
            transaction.execute(insert(PROCESSES).values(id=self._process, seen_at=now))
        self._beaten = now

    def recover(self, sign: Sign) -> list[Row]:
        """End the requests of processes whose lease is over: billed at the last progress, released if there is none.

        Call it at start and from time to time; several processes may. Returns the rows that it ended.
        """
        now = self._now()
        alive = select(PROCESSES.c.id).where(PROCESSES.c.seen_at >= now - LEASE)
        dead = REQUESTS.c.process.not_in(alive)
        with self._database.write(durable=False) as transaction:
            self._beat(transaction)
            forget_idempotency(transaction, now - DAY)
            left = select(REQUESTS.c.request).where(IS_OPEN, dead)
            requests = transaction.execute(left).scalars().all()
            if not requests:
                transaction.execute(delete(PROCESSES).where(PROCESSES.c.seen_at < now - DAY))
        return [row for request in requests if (row := self._end_of_dead(request, sign)) is not None]

    def _end_of_dead(self, request: bytes, sign: Sign) -> Row | None:
        """End a dead process's request; None if it ended otherwise meanwhile, or its process came back."""
        with self._database.write(durable=self._lends) as transaction:
            row = self._locked(transaction, request)
            now = self._now()
            owner = REQUESTS.c.request == request
            process = select(REQUESTS.c.process).where(owner).scalar_subquery()
            seen = transaction.execute(
                select(PROCESSES.c.seen_at).where(PROCESSES.c.id == process)
            ).scalar_one_or_none()
            if row.state is not State.OPEN or (seen is not None and seen >= now - LEASE):
                return None
            if row.delivered:
                used = Used(row.begun, row.delivered, row.output, "interrupted")
                return self._settle(transaction, row, used, sign)
            return release_row(transaction, row, "its gateway ended before anything was delivered", now)

    # A request

    def admit(self, key: str, tokens: int) -> None:
        """Count a request against its key's rate, before any work is done for it: its prompt is not even tokenised.

        Args:
            key: id of the key, as `keys.authenticate` returned it.
            tokens: fewest that the request takes, as far as that is known.

        Raises:
            KeyRefusedError: the key is unknown, revoked or expired.
            RateLimitedError: too many requests or tokens a minute, or too many at once by the key or the account.
        """
        assert self._bound is not None, "a ledger serves after bind()"
        of_account = self._bound[1]
        with self._database.write(durable=False) as transaction:
            account, found, now = self._locked_key(transaction, key)
            bounds.check_concurrent(found, bounds.open_requests(transaction, account.account), of_account)
            bounds.admit(transaction, found, tokens, now)

    def reserve(self, key: str, asked: Reservation) -> Row | Replay:
        """Reserve the worst case of a request that was admitted, before it runs.

        Args:
            key: id of the key, as `keys.authenticate` returned it.
            asked: the request.

        Returns:
            The open row; or a `Replay`, if its idempotency key was answered before.

        Raises:
            KeyRefusedError: the key is unknown, revoked or expired, or may not ask this model.
            RateLimitedError: too many tokens a minute, or too many requests at once by the key or the account.
            BudgetError: the key's budget, or the account's cap or deposit, does not last.
            NotLendingError: the gateway's stake is too low, or it has not seen the chain lately.
            RequestRunningError: the idempotency key's request still runs.
            IdempotencyError: the idempotency key was used for another body.
            RequestError: the request id was used before.
        """
        assert self._bound is not None, "a ledger serves after bind()"
        gateway, of_account, cap_margin, chain_age = self._bound
        with self._database.write(durable=False) as transaction:
            account, found, now = self._locked_key(transaction, key)
            found.check_model(asked.model, asked.model_id)
            if replay := self._replay(transaction, found, asked, now):
                return replay
            running = bounds.open_requests(transaction, account.account)
            bounds.check_concurrent(found, running, of_account)
            bounds.count_tokens(transaction, found, asked.tokens, now)
            bounds.check_budget(found, running, asked.cost)
            if gateway.lends and asked.cost:
                self.batches.check_prices(transaction, asked)
                bounds.check_money(transaction, account, asked, running, now, chain_age, cap_margin)
            if now - self._beaten >= LEASE // 3:
                self._beat(transaction)
            return open_row(transaction, found, asked, self._process, now)

    def _locked_key(self, transaction: Connection, key: str) -> tuple[Record[Any], Key, int]:
        """(its account's row, which is locked, the key, time) of a valid key."""
        account = accounts.lock_account_of_key(transaction, key)
        found, now = key_of(transaction, key), self._now()
        assert account is not None, "a key has an account"
        check_valid(found, now)
        return account, found, now

    def _replay(self, transaction: Connection, key: Key, asked: Reservation, now: int) -> Replay | None:
        if asked.idempotency is None:
            return None
        row = row_of_idempotency(transaction, key.id, asked.idempotency)
        if row is None:
            return None
        if row.state is not State.OPEN and row.created_at <= now - DAY:
            forget_idempotency(transaction, now - DAY, row)
            return None
        if row.reservation.body_hash != asked.body_hash:
            raise IdempotencyError("this idempotency key was used for another body: take a new one for a new request")
        if row.state is State.OPEN:
            raise RequestRunningError("the request with this idempotency key still runs; ask again later")
        return Replay(row)

    def progress(self, request: bytes, prompt_tokens: int, output_tokens: int, output: bytes) -> None:
        """Tell what was delivered so far: every 16 tokens. A kill costs what came after it.

        Args:
            request: its id.
            prompt_tokens: of the prompts whose answers began.
            output_tokens: delivered.
            output: hash of them, as it will be in the receipt if the process dies.
        """
        with self._database.write(durable=False) as transaction:
            told = {"of": request, "prompts": prompt_tokens, "tokens": output_tokens, "hash": output}
            transaction.execute(_PROGRESS, told)

    def settle(self, request: bytes, used: Used, sign: Sign) -> Row:
        """Bill what was used. A receipt may leave the gateway only after this returned it.

        Returns:
            The settled row; if it had ended before (a recovery was faster, or the call is repeated), that row.

        Raises:
            LedgerError: there is no such request.
        """
        with self._database.write(durable=self._lends) as transaction:
            row = self._locked(transaction, request)
            return self._settle(transaction, row, used, sign) if row.state is State.OPEN else row

    def _settle(self, transaction: Connection, row: Row, used: Used, sign: Sign) -> Row:
        asked = row.reservation
        assert 0 <= used.prompt_tokens <= asked.prompt_tokens, "more prompt tokens were used than reserved"
        assert 0 <= used.output_tokens <= asked.max_tokens, "more output tokens were used than reserved"
        assert self._bound is not None, "a ledger serves after bind()"
        receipt = row.receipt_for(self._bound[0].account, used)
        return settle_row(transaction, row, used, sign(receipt), self._now())

    def release(self, request: bytes, error: str) -> Row:
        """End a request that failed, or whose answer is empty: nothing is charged, and it has no receipt.

        Returns:
            The released row; if it had ended before, that row.

        Raises:
            LedgerError: there is no such request.
        """
        with self._database.write(durable=False) as transaction:
            row = self._locked(transaction, request)
            return release_row(transaction, row, error, self._now()) if row.state is State.OPEN else row

    def _locked(self, transaction: Connection, request: bytes) -> Row:
        """A request's row, after its account's lock was taken."""
        if accounts.lock_account_of_request(transaction, request) is None:
            raise LedgerError(f"the ledger has no request 0x{request.hex()}")
        row = row_of(transaction, request)
        assert row is not None, "a row is never deleted"
        return row

    # What is in it

    def row(self, request: bytes) -> Row | None:
        """The row of a request."""
        with self._database.read() as transaction:
            return row_of(transaction, request)

    def usage(self, account: bytes | None, since: int = 0, key: str | None = None) -> list[UsageOfDay]:
        """What an account (None: all; or one key) used, by day, key and model, from the day of `since` on."""
        column = USAGE.c
        asked = select(USAGE).where(column.day >= since - since % DAY)
        if account is not None:
            asked = asked.where(column.account == account)
        if key is not None:
            asked = asked.where(column.key == key)
        with self._database.read() as transaction:
            rows = transaction.execute(asked.order_by(column.day, column.key, column.model_id)).all()
        return [
            UsageOfDay(row.day, row.key, row.model_id, row.requests, row.prompt_tokens, row.output_tokens, row.cost)
            for row in rows
        ]

    def balance(self, account: bytes) -> Balance:
        """What an account can still spend; LedgerError if it has no key."""
        with self._database.read() as transaction:
            row = transaction.execute(select(ACCOUNTS.c.standing).where(ACCOUNTS.c.account == account)).one_or_none()
            if row is None:
                raise LedgerError(f"the ledger has no account 0x{account.hex()}: make a key for it")
            running = bounds.open_requests(transaction, account)
            charges = accounts.charged(transaction, account)
        return accounts.balance_of(row.standing, charges, sum(request.cost for request in running))

    # What the chain says

    def set_deposit(
        self, account: bytes, standing: int, collected: Mapping[bytes, int], withdraws: bool = False
    ) -> None:
        """Tell what the chain says of an account.

        Args:
            account: the account.
            standing: its deposit that it did not ask back, read after `collected`.
            collected: {price book: all that was collected of it under the gateway's series}.
            withdraws: whether it asked for a part of its deposit.
        """
        with self._database.write(durable=False) as transaction:
            accounts.set_deposit(transaction, account, standing, withdraws, collected, self._now())

    def set_stake(self, standing: int, minimum: int) -> None:
        """Tell what the chain says of the gateway's stake: below the minimum nothing is lent."""
        with self._database.write(durable=False) as transaction:
            transaction.execute(update(GATEWAY).values(stake=standing, min_stake=minimum))
