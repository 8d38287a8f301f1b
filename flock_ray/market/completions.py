"""`/v1/chat/completions` and `/v1/completions`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fastapi import Request as HttpRequest
from fastapi.responses import Response

from flock_ray.market.answer_models import ChatCompletion, TextCompletion
from flock_ray.market.answering import Asked
from flock_ray.market.answers import Chat, Completion, Shape
from flock_ray.market.catalogue import Served
from flock_ray.market.guard import idempotency_of, key_of, key_router, service_of
from flock_ray.market.openai_types import ChatRequest, Common, CompletionRequest
from flock_ray.market.receipts import asked_hash
from flock_ray.market.respond import respond
from flock_ray.market.service import Service
from flock_ray.protocol.encoding import Json
from flock_ray.protocol.hashing import sha256
from flock_ray.serving.request import Limits, Request

router = key_router("Answers")


@router.post("/v1/chat/completions", response_model=ChatCompletion, summary="Answer a conversation")
async def chat(body: ChatRequest, request: HttpRequest) -> Response:
    """OpenAI's chat completions; with `stream: true` as server-sent events."""
    service = service_of(request)
    served = named(body.model, request)
    await service.admit(key_of(request), body.fewest_tokens)
    messages = [message.as_template() for message in body.messages]
    prompt = await service.engine.prompt(messages)
    asked = Request(
        prompt, served.adapter, body.longest, tenant_of(request), body.sampling, tuple(body.stop),
        logprobs=body.scored,
    )  # fmt: skip
    return await _answer(request, body, served, [asked], messages, Chat())


@router.post("/v1/completions", response_model=TextCompletion, summary="Continue texts")
async def completions(body: CompletionRequest, request: HttpRequest) -> Response:
    """OpenAI's completions of one or several prompts, each a text or token ids."""
    service = service_of(request)
    served = named(body.model, request)
    await service.admit(key_of(request), body.fewest_tokens)
    prompts = [await service.engine.encode(one) if isinstance(one, str) else tuple(one) for one in body.prompt]
    asked = [
        Request(
            prompt, served.adapter, body.longest, tenant_of(request), body.sampling, tuple(body.stop),
            logprobs=body.logprobs, echo=bool(body.echo),
        )
        for prompt in prompts
    ]  # fmt: skip
    return await _answer(request, body, served, asked, body.prompt, Completion())


def named(model: str, request: HttpRequest) -> Served:
    """The model that a request names, noted for the figures.

    Raises:
        UnknownModelError: there is none.
        ApiError: the key may not ask it.
    """
    served = service_of(request).resolve(model, key_of(request))
    request.state.model = served.id
    return served


def tenant_of(request: HttpRequest) -> str:
    """Whose cached prompts a request may use, and with whom it shares the engine's time: its account."""
    return key_of(request).terms.account.hex()


def limits_of(service: Service, served: Served) -> Limits:
    """What the engine can do with a model."""
    limits = service.engine.limits
    if served.entry is None:
        return limits
    return replace(limits, context_length=min(limits.context_length, served.entry.context_length))


async def body_hash(request: HttpRequest) -> bytes:
    """What two requests with the same idempotency key must share: route and body."""
    return sha256(request.url.path.encode() + b"\n" + await request.body())


async def _answer(
    request: HttpRequest, body: Common, served: Served, asked: Sequence[Request], what: Any, shape: Shape
) -> Response:
    service = service_of(request)
    limits = limits_of(service, served)
    for one in asked:
        limits.check(one)
    hashed: Json = what
    understood = Asked(
        key_of(request), served, len(asked), asked_hash(hashed), sum(len(one.prompt) for one in asked),
        sum(limits.answer_length(one) for one in asked), idempotency_of(request), await body_hash(request),
    )  # fmt: skip
    requests = [replace(one, max_tokens=limits.answer_length(one)) for one in asked]
    usage = body.include_usage if body.stream else None
    return await respond(service, understood, requests, shape, request.receive, usage)
