"""Server-sent events: one JSON object each, `[DONE]` at the end; and clients that go away or do not read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

import msgspec
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

T = TypeVar("T")
DONE = b"data: [DONE]\n\n"
_ENCODER = msgspec.json.Encoder()


def event(value: Mapping[str, Any]) -> bytes:
    """An event; its text is UTF-8, not escaped."""
    return b"data: " + _ENCODER.encode(value) + b"\n\n"


class EventStream(Response):
    """A response of events, sent as they are made.

    A client that goes away, or does not take an event within `write_seconds`, ends the generator: it is closed where it
    gave the event that was not taken. What it gave before that was handed to the connection.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        first: bytes,
        rest: AsyncGenerator[bytes, None],
        write_seconds: float,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Send events.

        Args:
            first: the first one, which `rest` gave: so it has begun, and is closed whatever happens.
            rest: gives the others.
            write_seconds: that a client may take for one.
            headers: besides those that say that nothing between may keep events.
        """
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no", **(headers or {})})
        del self.headers["content-length"]
        self._first, self._rest, self._write_seconds = first, rest, write_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        with suppress(ClientDisconnect):
            await unless_gone(receive, self._send_all(send))

    async def _send_all(self, send: Send) -> None:
        try:
            async with asyncio.timeout(self._write_seconds):
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await self._send(send, self._first)
            async for data in self._rest:
                await self._send(send, data)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except (TimeoutError, OSError):  # it does not read, or the connection broke
            raise ClientDisconnect from None
        finally:
            await self._rest.aclose()

    async def _send(self, send: Send, data: bytes) -> None:
        async with asyncio.timeout(self._write_seconds):
            await send({"type": "http.response.body", "body": data, "more_body": True})


async def unless_gone(receive: Receive, work: Awaitable[T]) -> T:
    """The result of some work for a client, which is cancelled when the client goes away.

    Args:
        receive: of the request, whose body was read.
        work: what is done for it.

    Raises:
        ClientDisconnect: the client went away.
    """

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    working, going = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait((working, going), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        for task in (going, working):
            task.cancel()
        await asyncio.gather(going, working, return_exceptions=True)
