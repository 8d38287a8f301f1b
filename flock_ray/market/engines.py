"""The gateway's view of an engine, wherever it runs: in this process, or behind Ray Serve (`deployments.Served`)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from flock_ray.errors import BusyError
from flock_ray.serving.engine import Engine, Stats
from flock_ray.serving.request import Limits, Request, Tokens
from flock_ray.serving.stream import Event

if TYPE_CHECKING:
    from flock_ray.market.models import Model
    from flock_ray.serving.adapters import AdapterSource
    from flock_ray.training.chat_template import Messages

Events = AsyncGenerator[Event, None]
"""Tokens as they are made, and in the end exactly one `Finished`. `aclose` ends the answer within one step."""


class AwayError(BusyError):
    """No engine answers at all: a client is told 503, where a full queue is 429."""


class EngineClient(Protocol):
    """An engine that is asked from asyncio.

    Attributes:
        limits: what it can do at most.
        reserved: texts that its tokenizer reads as control tokens, such as `<|im_start|>`.
    """

    limits: Limits
    reserved: tuple[str, ...]

    async def prompt(self, messages: Messages, tools: Sequence[Any] = ()) -> Tokens:
        """The prompt of a conversation; see `Engine.render`.

        Raises:
            DataError: the model's chat template does not take it.
        """

    async def encode(self, text: str) -> Tokens:
        """The prompt of a plain text; see `Engine.encode`."""

    def submit(self, request: Request) -> Events:
        """Have a request answered; it starts with the first event that is asked for.

        Raises:
            RequestError: (of the first event) it cannot be answered as it is asked.
            UnknownAdapterError: (of the first event) no adapter of that hash is known.
            BusyError: (of the first event) the queue is full.
            AwayError: (of the first event) no engine answers.
        """

    async def load(self, model: Model) -> None:
        """Make a model's adapter known, beside what runs; loading it again changes nothing.

        Raises:
            AdapterError: it does not fit the base model.
        """

    async def unload(self, adapter: bytes) -> None:
        """Forget an adapter: later requests are refused, those that run go on."""

    async def stats(self) -> Stats:
        """What the engine is at."""


class InProcess:
    """An engine of this process."""

    def __init__(self, engine: Engine, source: Callable[[Model], AdapterSource]) -> None:
        """Take an engine, which the caller closes, and where adapters come from: `Registry.source`."""
        self._engine, self._source = engine, source
        self.limits, self.reserved = engine.limits, engine.reserved

    async def prompt(self, messages: Messages, tools: Sequence[Any] = ()) -> Tokens:
        """See `EngineClient`; a tokenizer computes, so it does that in a thread."""
        return await asyncio.to_thread(self._engine.render, messages, tools)

    async def encode(self, text: str) -> Tokens:
        """See `EngineClient`."""
        return await asyncio.to_thread(self._engine.encode, text)

    async def submit(self, request: Request) -> Events:
        """See `EngineClient`."""
        stream = self._engine.submit(request)
        try:
            async for event in stream:
                yield event
        finally:
            stream.cancel()

    async def load(self, model: Model) -> None:
        """See `EngineClient`."""
        await asyncio.to_thread(lambda: self._engine.add_adapter(self._source(model)))

    async def unload(self, adapter: bytes) -> None:
        """See `EngineClient`."""
        await asyncio.to_thread(self._engine.discard_adapter, adapter)

    async def stats(self) -> Stats:
        """See `EngineClient`."""
        return self._engine.stats()
