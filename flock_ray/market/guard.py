"""What stands before every route that needs a key: the key first, and only then the body."""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine
from json import JSONDecodeError
from typing import Any

import msgspec
from fastapi import APIRouter, Request, Security
from fastapi.responses import Response
from fastapi.routing import APIRoute
from fastapi.security import APIKeyHeader, HTTPBearer

from flock_ray.market.api_errors import ApiError, unauthorized
from flock_ray.market.ledger_values import Key
from flock_ray.market.service import Service
from flock_ray.protocol.encoding import parse_json

KEY_HEADERS = ("x-api-key", "x-litellm-api-key")
IDEMPOTENCY_HEADER = "Idempotency-Key"
MAX_DEPTH = 16  # of a body's brackets
_IDEMPOTENCY = re.compile(r"[\x21-\x7e]{1,255}")
_KEY = re.compile(r"[\x21-\x7e]{1,256}")


def secrets_of(request: Request) -> set[str]:
    """All API keys that a request's headers name.

    Raises:
        ApiError: an Authorization header of another scheme, or what cannot be a key.
    """
    found = {value.removeprefix("Bearer ").strip() for name in KEY_HEADERS for value in request.headers.getlist(name)}
    for value in request.headers.getlist("authorization"):
        scheme, _, secret = value.strip().partition(" ")
        if scheme.lower() != "bearer":
            raise unauthorized("The Authorization header must be: Bearer KEY")
        found.add(secret.strip())
    if not all(_KEY.fullmatch(secret) for secret in found):
        raise unauthorized("What was sent as API key is none")
    return found


class _CheckedRequest(Request):
    async def json(self) -> Any:
        """The body: nested no deeper than allowed, and of whole characters."""
        try:
            text = (await self.body()).decode()
            value = parse_json(text, MAX_DEPTH)
            if "\\u" in text:
                msgspec.json.encode(value)  # refuses half a surrogate pair, which UTF-8 cannot hold
        except JSONDecodeError:
            raise
        except ValueError:
            raise ApiError(
                400, f"The body is not JSON in UTF-8 with at most {MAX_DEPTH} levels", code="invalid_json"
            ) from None
        return value


class KeyRoute(APIRoute):
    """A route that answers only to a key."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """See FastAPI: wraps the handler, which parses the body."""
        handle = super().get_route_handler()

        async def handler(request: Request) -> Response:
            request.state.key = await service_of(request).authenticate(secrets_of(request))
            return await handle(_CheckedRequest(request.scope, request.receive))

        return handler


def key_router(tag: str) -> APIRouter:
    """A router of such routes."""
    headers = [APIKeyHeader(name=name, scheme_name=name, auto_error=False) for name in KEY_HEADERS]
    schemes: list[Callable[..., Any]] = [HTTPBearer(scheme_name="Bearer", auto_error=False), *headers]
    return APIRouter(route_class=KeyRoute, dependencies=[Security(scheme) for scheme in schemes], tags=[tag])


def service_of(request: Request) -> Service:
    """The gateway that a request came to."""
    service: Service = request.app.state.service
    return service


def key_of(request: Request) -> Key:
    """The key of a request to a `KeyRoute`."""
    key: Key = request.state.key
    return key


def idempotency_of(request: Request) -> str | None:
    """The client's key for repetitions.

    Raises:
        ApiError: it is malformed.
    """
    value = request.headers.get(IDEMPOTENCY_HEADER)
    if value is not None and not _IDEMPOTENCY.fullmatch(value):
        message = f"{IDEMPOTENCY_HEADER} must have 1 to 255 printable characters without spaces"
        raise ApiError(400, message, param=IDEMPOTENCY_HEADER, code="invalid_value")
    return value
