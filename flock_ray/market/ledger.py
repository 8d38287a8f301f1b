"""The ledger: every request's row, from its reservation to its receipt, and what bounds it.

One database, shared by all gateway processes: SQLite on one machine, PostgreSQL for several. A request's worst case is
reserved in one transaction, which checks every bound; it is settled to what was used, or released. Methods are
blocking and may be called from any thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from flock_ray.chain.usage import SignedReceipt
from flock_ray.market.batches import Batches
from flock_ray.market.caps import Caps
from flock_ray.market.keys import Keys
from flock_ray.market.ledger_values import Balance, Gateway, Replay, Reservation, Row, UsageOfDay, Used
from flock_ray.protocol.receipt import Receipt

DEFAULT_URL = "sqlite:///outputs/market/ledger.db"
"""Ledger of `flock-ray serve` and `flock-ray key`, unless another is named."""

Sign = Callable[[Receipt], SignedReceipt]
"""Signs with the deployment's receipt key; called inside a transaction, so it must not wait."""


class Ledger:
    """The books of one gateway.

    Attributes:
        keys: create, list, revoke, authenticate.
        caps: what users signed.
        batches: receipts on their way to the chain.
    """

    keys: Keys
    caps: Caps
    batches: Batches

    @classmethod
    def open(cls, url: str = DEFAULT_URL, clock: Callable[[], float] = time.time) -> Self:
        """Open a ledger, or create it where there is none.

        Args:
            url: `sqlite:///FILE` or `postgresql+psycopg://USER@HOST/DATABASE`.
            clock: tells the Unix time.

        Raises:
            LedgerError: the URL names no such database, or one that has other tables, or another version's.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Close its connections."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    # A gateway process

    def bind(self, gateway: Gateway, account_concurrent: int = 32) -> None:
        """Serve from this ledger: it is this gateway's, for ever.

        Args:
            gateway: account, chain and contract.
            account_concurrent: most requests at once of all keys of an account.

        Raises:
            LedgerError: it is the ledger of another gateway, chain or contract.
        """

    def beat(self) -> None:
        """Tell that this process lives: call it every `LEASE / 3` seconds, or its requests are taken for dead."""

    def recover(self, sign: Sign) -> list[Row]:
        """End the requests of processes whose lease is over: billed at the last progress, released if there is none.

        Call it at start and from time to time; several processes may. Returns the rows that it ended.
        """
        raise NotImplementedError

    # A request

    def reserve(self, key: str, asked: Reservation) -> Row | Replay:
        """Reserve the worst case of a request, before it runs.

        Args:
            key: id of the key, as `keys.authenticate` returned it.
            asked: the request.

        Returns:
            The open row; or a `Replay`, if its idempotency key was answered before.

        Raises:
            KeyRefusedError: the key is unknown, revoked or expired, or may not ask this model.
            RateLimitedError: too many requests or tokens a minute, or too many at once by the key or the account.
            BudgetError: the key's budget, or the account's cap or deposit, does not last.
            RequestRunningError: the idempotency key's request still runs.
            IdempotencyError: the idempotency key was used for another body.
            RequestError: the request id was used before.
        """
        raise NotImplementedError

    def progress(self, request: bytes, output_tokens: int, output: bytes) -> None:
        """Tell what was delivered so far: every 16 tokens. A kill costs what came after it.

        Args:
            request: its id.
            output_tokens: delivered.
            output: hash of them, as it will be in the receipt if the process dies.
        """

    def settle(self, request: bytes, used: Used, sign: Sign) -> Row:
        """Bill what was used. A receipt may leave the gateway only after this returned it.

        Returns:
            The settled row; if it had ended before (a recovery was faster, or the call is repeated), that row.

        Raises:
            ValueError: more was used than reserved.
            LedgerError: there is no such request.
        """
        raise NotImplementedError

    def release(self, request: bytes, error: str) -> Row:
        """End a request that failed, or whose answer is empty: nothing is charged, and it has no receipt.

        Returns:
            The released row; if it had ended before, that row.
        """
        raise NotImplementedError

    # What is in it

    def row(self, request: bytes) -> Row | None:
        """The row of a request."""
        raise NotImplementedError

    def usage(self, account: bytes, since: int = 0, key: str | None = None) -> list[UsageOfDay]:
        """What an account (or one key of it) used, by day, key and model, from the day of `since` on."""
        raise NotImplementedError

    def balance(self, account: bytes) -> Balance:
        """What an account can still spend."""
        raise NotImplementedError

    def set_deposit(self, account: bytes, standing: int, collected: dict[bytes, int]) -> None:
        """Tell what the chain says of an account.

        Args:
            account: the account.
            standing: its deposit that it did not ask back, read after `collected`.
            collected: {price book: all that was collected of it under the gateway's series}.
        """
