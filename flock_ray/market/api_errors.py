"""Errors as OpenAI's clients expect them: `{"error": {message, type, param, code}}` with the status that is meant."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from flock_ray.errors import (
    BudgetError,
    BusyError,
    DataError,
    FlockRayError,
    KeyRefusedError,
    RateLimitedError,
    RequestError,
    UnknownAdapterError,
    UnknownModelError,
)
from flock_ray.market.engines import AwayError
from flock_ray.market.knowledge import UnknownSourceError
from flock_ray.market.ledger_values import CapError, IdempotencyError, NotLendingError, RequestRunningError

LOG = logging.getLogger(__name__)
BUSY_SECONDS = 1  # after which a client may ask a full engine again
LENDING_SECONDS = 30  # after which a gateway that was cut off from its chain may see it again
NO_RETRY = {"x-should-retry": "false"}
"""Heard by OpenAI's clients, which would ask again after every 429."""
_SHOWN = 120  # characters of a client's text that an error repeats


class ApiError(HTTPException):
    """An answer that is an error.

    Attributes:
        body: the OpenAI error object, as in a response's body or in an event of a stream.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, dict(headers) if headers else None)
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}

    def response(self) -> JSONResponse:
        """It as a response."""
        return JSONResponse(self.body, self.status_code, self.headers)


def unauthorized(message: str) -> ApiError:
    """No key, or one that is unknown or revoked."""
    headers = {"WWW-Authenticate": "Bearer"}
    return ApiError(401, message, kind="authentication_error", code="invalid_api_key", headers=headers)


def unsupported(name: str, why: str = "") -> ApiError:
    """A parameter that would change the answer, and that this gateway does not have."""
    message = f"Unsupported parameter: {name[:_SHOWN]!r}{f': {why}' if why else ''}"
    return ApiError(400, message, param=name[:_SHOWN], code="unsupported_parameter")


def not_allowed(model: str) -> ApiError:
    """The key is valid, but not for this model."""
    message = f"This key may not ask {model}"
    return ApiError(403, message, kind="permission_error", param="model", code="model_not_allowed")


def failed() -> ApiError:
    """The answer failed; why is for who runs the gateway."""
    message = "The answer failed, and nothing was charged; try again"
    return ApiError(500, message, kind="server_error", code="internal_error")


def away() -> ApiError:
    """No engine answers."""
    message = "No engine answers now, and nothing was charged; try again later"
    headers = {"Retry-After": str(BUSY_SECONDS)}
    return ApiError(503, message, kind="server_error", code="engine_unavailable", headers=headers)


class TooSlowError(ApiError):
    """The answer took longer than an answer may: what was delivered of it is charged."""

    def __init__(self, seconds: float) -> None:
        message = f"The answer was not whole after {seconds:g} s; what was delivered is charged: ask for fewer tokens"
        super().__init__(504, message, kind="server_error", code="timeout")


def refusal(error: FlockRayError) -> ApiError:
    """What a client is told about an error of this package; of those that are not its doing, nothing."""
    text = str(error)
    if isinstance(error, UnknownModelError):
        return ApiError(404, text, param="model", code="model_not_found")
    if isinstance(error, UnknownAdapterError):  # retired since it was resolved
        return ApiError(404, "The model is no longer served", param="model", code="model_not_found")
    if isinstance(error, KeyRefusedError):
        return unauthorized(text)
    if isinstance(error, RateLimitedError):
        never = error.retry_after is None
        headers = NO_RETRY if never else {"Retry-After": str(max(1, math.ceil(error.retry_after or 0)))}
        return ApiError(429, text, kind="rate_limit_error", code="rate_limit_exceeded", headers=headers)
    if isinstance(error, BudgetError):
        return ApiError(429, text, kind="insufficient_quota", code="insufficient_quota", headers=NO_RETRY)
    if isinstance(error, RequestRunningError):
        headers = {"Retry-After": str(BUSY_SECONDS)}
        return ApiError(409, text, param="Idempotency-Key", code="idempotency_running", headers=headers)
    if isinstance(error, NotLendingError):
        headers = {"Retry-After": str(LENDING_SECONDS)}
        return ApiError(503, text, kind="server_error", code="not_lending", headers=headers)
    if isinstance(error, UnknownSourceError):
        return ApiError(404, text, param="knowledge_source_id", code="knowledge_source_not_found")
    if isinstance(error, CapError):
        return ApiError(400, text, param="cap", code="invalid_cap")
    if isinstance(error, IdempotencyError):
        return ApiError(422, text, param="Idempotency-Key", code="idempotency_conflict")
    if isinstance(error, AwayError):
        return away()
    if isinstance(error, BusyError):
        headers = {"Retry-After": str(BUSY_SECONDS)}
        return ApiError(429, text, kind="rate_limit_error", code="engine_busy", headers=headers)
    if isinstance(error, RequestError):
        code = "context_length_exceeded" if "that this engine takes" in text else "invalid_value"
        return ApiError(400, text, param=_param(text), code=code)
    if isinstance(error, DataError):
        return ApiError(400, text, param="messages", code="invalid_value")
    LOG.error("a request failed: %s: %s", type(error).__name__, text)
    return failed()


def _param(text: str) -> str | None:
    """The parameter that a `RequestError` begins with."""
    first = text.partition(" ")[0]
    return first if first in ("temperature", "top_p", "top_k", "logprobs", "stop", "max_tokens") else None


def invalid(errors: Sequence[Mapping[str, Any]]) -> ApiError:
    """The first thing that is wrong with a body or a query, by its place; never the value itself."""
    first = errors[0]
    place = [str(part)[:_SHOWN] for part in first["loc"][1:] if "[" not in str(part)]  # a branch of a union
    if isinstance(cause := first.get("ctx", {}).get("error"), Unsupported):
        return unsupported(str(cause))
    if first["type"] == "extra_forbidden":
        return unsupported(".".join(place))
    if first["type"] == "json_invalid":
        return ApiError(400, "The body is not JSON", code="invalid_json")
    if first["type"] in ("model_attributes_type", "dict_type", "missing") and not place:
        return ApiError(400, "The body must be a JSON object, sent as application/json", code="invalid_json")
    name = ".".join(place)
    what = str(first["msg"]).removeprefix("Value error, ")[:300]
    return ApiError(400, f"{name}: {what}" if name else what, param=name or None, code="invalid_value")


class Unsupported(ValueError):
    """Raised by checks of a body: its text is the name of a parameter that this gateway does not have."""


def install_error_handlers(app: FastAPI) -> None:
    """Have every error of an application be an OpenAI error object."""

    async def on_api_error(_: Request, error: HTTPException) -> JSONResponse:
        if isinstance(error, ApiError):
            return error.response()
        code = {404: "unknown_url", 405: "method_not_allowed", 413: "request_too_large"}.get(error.status_code)
        return ApiError(error.status_code, str(error.detail), code=code, headers=error.headers).response()

    async def on_invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return invalid(error.errors()).response()

    async def on_refusal(_: Request, error: FlockRayError) -> JSONResponse:
        return refusal(error).response()

    async def on_anything(_: Request, error: Exception) -> JSONResponse:
        return failed().response()

    app.add_exception_handler(HTTPException, on_api_error)  # type: ignore[arg-type]
    app.add_exception_handler(RequestValidationError, on_invalid)  # type: ignore[arg-type]
    app.add_exception_handler(FlockRayError, on_refusal)  # type: ignore[arg-type]
    app.add_exception_handler(Exception, on_anything)
