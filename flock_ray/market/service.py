"""What all routes of a gateway share, and the work that goes on beside them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, ParamSpec, TypeVar

from flock_ray.chain.eip712 import price_book_digest
from flock_ray.chain.keys import Signer
from flock_ray.chain.usage import account_text
from flock_ray.errors import ConfigError, KeyRefusedError
from flock_ray.market.api_errors import ApiError, not_allowed, unauthorized
from flock_ray.market.catalogue import Catalogue, Served
from flock_ray.market.engines import EngineClient
from flock_ray.market.ledger import LEASE, Ledger
from flock_ray.market.ledger_values import Gateway, Key
from flock_ray.market.metrics import Metrics
from flock_ray.market.receipts import receipt_signer
from flock_ray.market.registry import Registry
from flock_ray.market.settings import Settings
from flock_ray.protocol.price_book import PriceBook

LOG = logging.getLogger(__name__)
LEDGER_THREADS = 4
P = ParamSpec("P")
T = TypeVar("T")


def may_ask(key: Key, served: Served) -> bool:
    """Whether a key may ask a model."""
    try:
        key.check_model(served.offer.model, served.id)
    except KeyRefusedError:
        return False
    return True


class Service:
    """One gateway process.

    Attributes:
        catalogue: its models.
        ledger: its books; ask it through `book`.
        engine: answers.
        settings: what its operator decides.
        sign: signs receipts.
        metrics: its figures.
        unended: ids of requests that the ledger could not be told the end of; it is told again.
    """

    def __init__(
        self,
        registry: Registry,
        ledger: Ledger,
        engine: EngineClient,
        signer: Signer,
        settings: Settings,
        gateway: Signer | None,
    ) -> None:
        """See `api.create_app`."""
        if settings.lends and (gateway is None or gateway.address != account_text(settings.gateway)):
            raise ConfigError("a gateway that lends signs its price books: it needs the key of its own account")
        self._gateway = gateway
        self._published = set[bytes]()
        self.catalogue = Catalogue(registry, engine, settings)
        self.ledger, self.engine, self.settings = ledger, engine, settings
        self.sign = receipt_signer(signer, settings.domain)
        self.metrics = Metrics()
        self._threads = ThreadPoolExecutor(LEDGER_THREADS, "flock_ray-ledger")
        self.unended = set[bytes]()
        self._tasks: set[asyncio.Future[Any]] = set()

    async def book(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """A call of the ledger, in a thread: it may wait for other processes."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(call, *args, **kwargs))

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Work that goes on whoever goes away; `running` waits for it at the end."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def authenticate(self, secrets: set[str]) -> Key:
        """The key of a request.

        Args:
            secrets: all that its headers name.

        Raises:
            ApiError: none, several, or one that is unknown, revoked or expired.
        """
        if len(secrets) > 1:
            raise ApiError(400, "The request names two different API keys; send one", code="conflicting_api_keys")
        if not secrets:
            raise unauthorized("No API key: send Authorization: Bearer KEY, x-api-key or x-litellm-api-key")
        try:
            return await self.book(self.ledger.keys.authenticate, secrets.pop())
        except KeyRefusedError as error:
            raise unauthorized(str(error)) from None

    async def admit(self, key: Key, tokens: int) -> None:
        """Count a request of a key that takes so many tokens at least; nothing is done for one that is refused.

        Raises:
            FlockRayError: the ledger refuses it (`Ledger.admit`).
        """
        await self.book(self.ledger.admit, key.id, tokens)

    async def publish(self, book: PriceBook) -> None:
        """Put a price book in force, before anything is lent under it.

        Raises:
            LedgerError: it lacks a table of members' rewards.
        """
        if not self.settings.lends or book.hash in self._published:
            return
        assert self._gateway is not None, "a gateway lends without its key"
        signature = self._gateway.sign_digest(price_book_digest(self.settings.domain, book))
        tables = self.catalogue.snapshot().leaf_tables().values()
        await self.book(self.ledger.batches.publish, book, signature, tables)
        self._published.add(book.hash)

    def resolve(self, text: str, key: Key) -> Served:
        """The model that a request names.

        Raises:
            UnknownModelError: there is none.
            ApiError: the key may not ask it.
        """
        served = self.catalogue.resolve(text)
        if not may_ask(key, served):
            raise not_allowed(served.id)
        return served

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """From the process' start to its end: follow the registry, keep the lease, end what dead processes left."""
        settings = self.settings
        gateway = Gateway(settings.gateway, settings.domain, settings.lends)
        await self.book(self.ledger.bind, gateway, settings.account_concurrent, settings.cap_margin)
        await self.book(self.ledger.recover, self.sign)
        beside = [asyncio.ensure_future(each) for each in (self.catalogue.watch(), self._keep_lease())]
        try:
            yield
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
            while self._tasks:
                await asyncio.wait(self._tasks)
            self._threads.shutdown()

    async def _keep_lease(self) -> None:
        while True:
            try:
                await self.book(self.ledger.beat)
                for row in await self.book(self.ledger.recover, self.sign):
                    LOG.warning("request %s of a gateway that died: %s", row.reservation.request.hex(), row.state.value)
                for request in tuple(self.unended):
                    await self.book(self.ledger.release, request, "the ledger was away")
                    self.unended.discard(request)
            except Exception as error:  # the database is away, say: it may be there next time
                LOG.error("the ledger is not kept: %s: %s", type(error).__name__, error)
            await asyncio.sleep(LEASE / 3)
