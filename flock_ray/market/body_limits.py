"""Bodies of requests: not larger, and not slower, than allowed. ASGI middleware, before anything is parsed."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flock_ray.market.api_errors import ApiError


class BodyLimits:
    """Counts what comes in, and waits for it no longer than allowed."""

    def __init__(self, app: ASGIApp, max_body: int, seconds: float) -> None:
        """Guard an application: `max_body` bytes a request, within `seconds` from its headers."""
        self._app, self._max_body, self._seconds = app, max_body, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > self._max_body:
            await self._too_large().response()(scope, receive, send)
            return
        deadline, seen, whole = asyncio.get_running_loop().time() + self._seconds, 0, False

        async def limited() -> Message:
            nonlocal seen, whole
            if whole:  # what comes now is that the client goes away
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                late = f"The body did not arrive within {self._seconds:g} s"
                raise ApiError(408, late, code="request_timeout", headers={"Connection": "close"}) from None
            seen += len(message.get("body", b""))
            if seen > self._max_body:
                raise self._too_large()
            whole = not message.get("more_body", False)
            return message

        await self._app(scope, limited, send)

    def _too_large(self) -> ApiError:
        return ApiError(413, f"The body has more than the {self._max_body:,} bytes allowed", code="request_too_large")
