"""From an engine's events to a response: whole, or as server-sent events."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import msgspec
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive

from flock_ray.errors import FlockRayError
from flock_ray.market.answering import Answering, Asked, ReplayedError
from flock_ray.market.answers import Choice, Shape, usage
from flock_ray.market.api_errors import ApiError, failed, refusal
from flock_ray.market.ledger_values import Row
from flock_ray.market.receipts import shown
from flock_ray.market.service import Service
from flock_ray.market.sse import DONE, EventStream, event, unless_gone
from flock_ray.serving.request import Request
from flock_ray.serving.stream import Event, Finished, Token

LOG = logging.getLogger(__name__)
REQUEST_HEADER = "x-request-id"
REPLAYED = {"Idempotent-Replayed": "true"}


async def respond(
    service: Service, asked: Asked, requests: Sequence[Request], shape: Shape, receive: Receive,
    include_usage: bool | None,
) -> Response:  # fmt: skip
    """The response to a request.

    Args:
        service: the gateway.
        asked: the request.
        requests: one for each answer.
        shape: kind of answer.
        receive: of the request, whose body was read: tells when the client goes away.
        include_usage: whether a stream has a chunk of usage; None for an answer that is no stream.

    Raises:
        ApiError, FlockRayError: there is no answer.
    """
    answering = Answering(service, asked)
    try:
        if include_usage is None:
            body = await unless_gone(receive, _whole(answering, asked, requests, shape))
            return json_response(body, answering.request)
        events = _streamed(answering, asked, requests, shape, include_usage)
        first = await unless_gone(receive, anext(events))
    except ReplayedError as error:
        return replayed(error.row)
    except ClientDisconnect:
        return Response(status_code=499)  # nobody reads it
    headers = {REQUEST_HEADER: answering.request.hex()}
    return EventStream(first, events, service.settings.write_seconds, headers)


def json_response(body: Mapping[str, Any], request: bytes, headers: Mapping[str, str] | None = None) -> Response:
    """A whole answer."""
    content = msgspec.json.encode(body)
    return Response(
        content, media_type="application/json", headers={REQUEST_HEADER: request.hex(), **(headers or {})}
    )  # fmt: skip


def replayed(row: Row) -> Response:
    """The answer that a request with this idempotency key had.

    Raises:
        ApiError: it was a stream, which is not kept, or its gateway died.
    """
    request = row.reservation.request
    if row.answer is None:
        raise ApiError(
            409,
            "This idempotency key was answered before, and the answer is not kept: the receipt is at"
            f" /v1/receipts/{request.hex()}",
            param="Idempotency-Key",
            code="idempotency_replayed",
        )
    return json_response({**msgspec.json.decode(row.answer), "receipt": shown(row.receipt)}, request, REPLAYED)


def _head(answering: Answering, asked: Asked, prefix: str, name: str) -> dict[str, Any]:
    return {
        "id": prefix + answering.request.hex(), "object": name, "created": answering.created, "model": asked.served.id,
    }  # fmt: skip


async def _end(answering: Answering, choices: Sequence[Choice], empty: bool, body: bytes | None = None) -> Row:
    """Bill whole answers; those without any text or log probability cost nothing."""
    if empty:
        return await answering.release("the answer is empty")
    ends = [choice.finished for choice in choices if choice.finished]
    made = sum(end.completion_tokens for end in ends)
    return await answering.settle(made, ends[-1].reason.value, body)


async def _whole(
    answering: Answering, asked: Asked, requests: Sequence[Request], shape: Shape
) -> dict[str, Any]:  # fmt: skip
    choices = [Choice(index) for index in range(asked.choices)]
    async with answering:
        async with aclosing(answering.events(requests)) as events:
            async for index, one in events:
                _take(choices[index], one)
        for choice in choices:
            answering.add(choice.index, choice.text)
        body = {
            **_head(answering, asked, shape.prefix, shape.whole_name),
            "choices": [shape.whole(choice) for choice in choices],
            "usage": usage([choice.finished for choice in choices if choice.finished]),
        }
        empty = not any(choice.text or choice.tokens for choice in choices)
        row = await _end(answering, choices, empty, msgspec.json.encode(body))
        return {**body, "receipt": shown(row.receipt)}


def _take(choice: Choice, one: Event) -> None:
    choice.text += one.text
    if isinstance(one, Finished):
        choice.finished = one
    elif one.logprobs is not None:
        choice.tokens.append(one)


async def _streamed(
    answering: Answering, asked: Asked, requests: Sequence[Request], shape: Shape, include_usage: bool
) -> AsyncGenerator[bytes, None]:
    """Events of a stream; what goes wrong before the first is raised, later it is an event.

    Where it is resumed, what it gave last was handed to the client's connection.
    """
    began = False
    try:
        async with answering:
            chunks = _chunks(answering, asked, requests, shape, include_usage)
            async with aclosing(chunks):
                async for chunk in chunks:
                    began = True
                    yield chunk
    except (ApiError, FlockRayError) as error:
        if not began:
            raise
        yield event((error if isinstance(error, ApiError) else refusal(error)).body)
    except ReplayedError:
        raise
    except Exception as error:
        if not began:
            raise
        LOG.error("request %s failed: %s", answering.request.hex(), type(error).__name__)
        yield event(failed().body)
    yield DONE


async def _chunks(
    answering: Answering, asked: Asked, requests: Sequence[Request], shape: Shape, include_usage: bool
) -> AsyncGenerator[bytes, None]:
    head = _head(answering, asked, shape.prefix, shape.part_name)
    if include_usage:
        head["usage"] = None
    choices = [Choice(index) for index in range(asked.choices)]
    opened = False
    held = [0] * asked.choices  # tokens without text so far
    empty = True
    async with aclosing(answering.events(requests)) as events:
        async for index, one in events:
            if not opened:
                opened = True
                for opening in filter(None, map(shape.opening, range(asked.choices))):
                    yield event({**head, "choices": [opening]})
            choice, ended = choices[index], isinstance(one, Finished)
            scored = one if isinstance(one, Token) and one.logprobs is not None else None
            held[index] += isinstance(one, Token) and not one.prompt
            if one.text or scored:
                yield event({**head, "choices": [shape.part(choice, one.text, scored)]})
                answering.add(index, one.text)
                empty = False
            if one.text or scored or ended:
                await answering.delivered(held[index])
                held[index] = 0
            if isinstance(one, Finished):
                choice.finished = one
                if not all(each.finished for each in choices):
                    yield event({**head, "choices": [shape.end(choice)]})
    row = await _end(answering, choices, empty)
    receipt = {"receipt": shown(row.receipt)}
    last = {**head, "choices": [shape.end(choice)]}
    if include_usage:
        yield event(last)
        ends = [each.finished for each in choices if each.finished]
        last = {**head, "choices": [], "usage": usage(ends)}
    yield event({**last, **receipt})
