"""One request from its reservation to its end, of which there is exactly one: a receipt, or a release.

What a client is charged is what was delivered to it. A stream delivers as it goes, and its progress is in the ledger
every 16 tokens; any other answer is delivered as a whole, or not at all. Failed and empty answers cost nothing; one
that its client leaves, or that takes too long, has not failed.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from flock_ray.errors import UnknownAdapterError
from flock_ray.market.api_errors import TooSlowError, away, failed
from flock_ray.market.catalogue import Served
from flock_ray.market.ledger_values import Key, Replay, Reservation, Row, Used
from flock_ray.market.receipts import OutputHash
from flock_ray.market.service import Service
from flock_ray.serving.request import Request
from flock_ray.serving.stream import Event, Finished, FinishReason

LOG = logging.getLogger(__name__)
PROGRESS = 16
"""Tokens that are delivered between two notes in the ledger: the most that a kill costs a gateway for each stream."""
AT_ONCE = 4
"""Answers of one request that an engine makes at once: with the bounds on requests, no account fills its queue."""
_PUMPED = 64  # events of several answers that wait to be sent

T = TypeVar("T")
Events = AsyncGenerator[tuple[int, Event], None]


@dataclass(frozen=True)
class Asked:
    """A request that was understood.

    Attributes:
        key: who asks.
        served: what answers.
        choices: number of answers.
        prompt: hash of what is asked, for the receipt.
        prompt_tokens: most of all prompts together.
        max_tokens: most of all answers together.
        idempotency: the client's key for repetitions, or None.
        body_hash: of the request's body and route.
    """

    key: Key
    served: Served
    choices: int
    prompt: bytes
    prompt_tokens: int
    max_tokens: int
    idempotency: str | None
    body_hash: bytes


class ReplayedError(Exception):
    """The request was answered before: its row is in `row`."""

    def __init__(self, row: Row) -> None:
        super().__init__("the request was answered before")
        self.row = row


class Answering:
    """A request that has a reservation while it is entered: `async with Answering(service, asked) as answering`.

    Left without `settle`, it is billed for what was delivered, and released if that is nothing or the answer failed.

    Attributes:
        request: its id, 32 bytes.
        created: Unix time.
    """

    def __init__(self, service: Service, asked: Asked) -> None:
        self._service, self._asked = service, asked
        self.request, self.created = secrets.token_bytes(32), int(time.time())
        self._began = time.perf_counter()
        self._deadline = asyncio.get_running_loop().time() + service.settings.answer_seconds
        self._output = OutputHash(asked.choices)
        self._prompt_tokens = self._delivered = self._noted = 0
        self._begun: dict[int, int] = {}  # choice -> tokens of its prompt, once the engine computed them
        self._first = self._ended = False

    # From reservation to end

    async def __aenter__(self) -> Self:
        """Reserve.

        Raises:
            ReplayedError: it was answered before.
            FlockRayError: the ledger refuses it (`Ledger.reserve`).
        """
        asked, offer = self._asked, self._asked.served.offer
        wanted = Reservation(
            self.request, offer.model, asked.served.id, asked.served.book.hash, (offer.prompt, offer.output),
            asked.prompt, asked.prompt_tokens, asked.max_tokens, asked.idempotency, asked.body_hash,
        )  # fmt: skip
        service = self._service
        await service.publish(asked.served.book)
        reserving = service.spawn(service.book(service.ledger.reserve, asked.key.id, wanted))
        try:
            row = await asyncio.shield(reserving)
        except asyncio.CancelledError:
            service.spawn(self._undo(reserving))
            raise
        if isinstance(row, Replay):
            raise ReplayedError(row.row)
        service.metrics.open.inc()
        return self

    async def _undo(self, reserving: asyncio.Task[Row | Replay]) -> None:
        """Release what was reserved for a client that went away meanwhile."""
        if isinstance(await reserving, Row):
            self._service.unended.add(self.request)
            await self._service.book(self._service.ledger.release, self.request, "cancelled")
            self._service.unended.discard(self.request)

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, at: Any) -> None:
        try:
            if not self._ended:
                self._service.unended.add(self.request)
                gone = isinstance(error, (asyncio.CancelledError, GeneratorExit))
                why = "timeout" if isinstance(error, TooSlowError) else "cancelled" if gone else ""
                await self._surely(self._leave(why, type(error).__name__ if error else "no answer"))
                self._service.unended.discard(self.request)
        finally:
            self._service.metrics.open.dec()

    async def _leave(self, billed: str, why: str) -> None:
        """End it early; `billed` is the reason where what was delivered is charged, else empty."""
        if billed and self._delivered:
            self._prompt_tokens = sum(self._begun.values())
            await self._settle(self._delivered, billed, None)
        else:
            await self._release(billed or why)

    async def settle(self, output_tokens: int, finish_reason: str, body: bytes | None = None) -> Row:
        """End an answer that is whole.

        Args:
            output_tokens: of all its choices.
            finish_reason: why it ended.
            body: of the response without its receipt, for repetitions.
        """
        return await self._surely(self._settle(output_tokens, finish_reason, body))

    async def release(self, why: str) -> Row:
        """End an answer that is empty."""
        return await self._surely(self._release(why))

    async def _settle(self, output_tokens: int, finish_reason: str, body: bytes | None) -> Row:
        service, served = self._service, self._asked.served
        kept = body if self._asked.idempotency is not None else None
        used = Used(self._prompt_tokens, output_tokens, self._output.digest(), finish_reason, kept)
        row = await service.book(service.ledger.settle, self.request, used, service.sign)
        self._ended = True
        if row.receipt is not None:
            receipt = row.receipt.receipt
            service.metrics.tokens.labels(served.id, "prompt").inc(receipt.prompt_tokens)
            service.metrics.tokens.labels(served.id, "output").inc(receipt.output_tokens)
        return row

    async def _release(self, why: str) -> Row:
        row = await self._service.book(self._service.ledger.release, self.request, why)
        self._ended = True
        return row

    async def _surely(self, ending: Coroutine[Any, Any, T]) -> T:
        """Finish even if the client's task is cancelled meanwhile."""
        task = self._service.spawn(ending)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait((task,))
            raise

    # What is delivered

    def add(self, choice: int, text: str) -> None:
        """Text that is part of the answer."""
        self._output.add(choice, text)

    async def delivered(self, tokens: int) -> None:
        """Tokens were handed to the client's connection, with all text that was added."""
        self._delivered += tokens
        if self._delivered - self._noted >= PROGRESS:
            self._noted = self._delivered
            service, begun = self._service, sum(self._begun.values())
            await service.book(service.ledger.progress, self.request, begun, self._delivered, self._output.digest())

    # What the engine makes

    async def events(self, requests: Sequence[Request]) -> Events:
        """The answers' events as they come, each with the number of its request.

        Raises:
            ApiError: an answer failed, the engine is away, or it takes too long.
            FlockRayError: the engine refuses a request.
        """
        service, served = self._service, self._asked.served
        async with aclosing(self._all(requests)) as events:
            while True:
                try:
                    async with asyncio.timeout_at(self._deadline):
                        choice, event = await anext(events)
                except StopAsyncIteration:
                    return
                except TimeoutError:
                    raise TooSlowError(service.settings.answer_seconds) from None
                if not self._first:
                    self._first = True
                    service.metrics.first_token.labels(served.id).observe(time.perf_counter() - self._began)
                self._begun.setdefault(choice, len(requests[choice].prompt))
                if isinstance(event, Finished):
                    self._finished(event)
                yield choice, event

    def _finished(self, event: Finished) -> None:
        if event.reason is FinishReason.CANCELLED:
            raise away()
        if event.reason is FinishReason.ERROR:
            LOG.error("request %s failed: %s", self.request.hex(), event.error)
            raise failed()
        self._prompt_tokens += event.prompt_tokens

    async def _all(self, requests: Sequence[Request]) -> Events:
        if len(requests) == 1:
            async with aclosing(self._one(requests[0])) as events:
                async for event in events:
                    yield 0, event
            return
        queue, room = asyncio.Queue[tuple[int, Event | BaseException | None]](_PUMPED), asyncio.Semaphore(AT_ONCE)
        pumps = [asyncio.ensure_future(self._pump(queue, room, at, one)) for at, one in enumerate(requests)]
        try:
            left = len(pumps)
            while left:
                at, found = await queue.get()
                if isinstance(found, BaseException):
                    raise found
                if found is None:
                    left -= 1
                else:
                    yield at, found
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(
        self, queue: asyncio.Queue[tuple[int, Event | BaseException | None]], room: asyncio.Semaphore, at: int,
        request: Request,
    ) -> None:  # fmt: skip
        try:
            async with room, aclosing(self._one(request)) as events:
                async for event in events:
                    await queue.put((at, event))
            await queue.put((at, None))
        except Exception as error:
            await queue.put((at, error))

    async def _one(self, request: Request) -> AsyncGenerator[Event, None]:
        """The events of one request; an engine that lost the adapter (it was started anew) is given it once more."""
        catalogue, served = self._service.catalogue, self._asked.served
        await catalogue.ready(served)
        try:
            async with aclosing(self._service.engine.submit(request)) as events:
                async for event in events:
                    yield event
            return
        except UnknownAdapterError:
            catalogue.forget(served)
        await catalogue.ready(served)
        async with aclosing(self._service.engine.submit(request)) as events:
            async for event in events:
                yield event
