"""Sources of documents, and answers from them: `POST /chat/conversational_rag_chat`, as FLock documents it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass
from typing import Any

import msgspec
from fastapi import Request as HttpRequest
from fastapi.responses import Response
from pydantic import Field
from starlette.requests import ClientDisconnect

from flock_ray.errors import RequestError
from flock_ray.market.answering import Answering, Asked, ReplayedError
from flock_ray.market.answers import usage
from flock_ray.market.api_errors import ApiError
from flock_ray.market.catalogue import Served
from flock_ray.market.completions import body_hash, limits_of, named, tenant_of
from flock_ray.market.guard import idempotency_of, key_of, key_router, service_of
from flock_ray.market.knowledge import MOST_DOCUMENTS, Document, Knowledge, Passage
from flock_ray.market.openai_types import LONGEST_NAME, MOST_MESSAGES, Body, Message
from flock_ray.market.quoting import FRAME, cited, condensing, framed
from flock_ray.market.receipts import asked_hash, shown
from flock_ray.market.respond import json_response, replayed
from flock_ray.market.service import Service
from flock_ray.market.sse import unless_gone
from flock_ray.serving.request import Limits, Request, Sampling, Tokens
from flock_ray.serving.stream import Finished

router = key_router("Knowledge")
MOST_PASSAGES = 4  # in a prompt
CONDENSED_TOKENS = 64  # of a question that stands alone
DEFAULT_TOKENS = 256  # of an answer


class DocumentBody(Body):
    """A text."""

    name: str = Field("", max_length=LONGEST_NAME)
    text: str


class SourceBody(Body):
    """Documents that answers may cite."""

    name: str = Field("", max_length=LONGEST_NAME)
    documents: list[DocumentBody] = Field(min_length=1, max_length=MOST_DOCUMENTS)


class RagBody(Body):
    """Body of `POST /chat/conversational_rag_chat`; from `model` on ours."""

    question: str = Field(min_length=1)
    chat_history: list[Message | list[str]] = Field(
        default_factory=list, max_length=MOST_MESSAGES, description="Messages, or pairs [question, answer]."
    )
    knowledge_source_id: str = Field(max_length=64)
    model: str | None = Field(None, min_length=1, max_length=LONGEST_NAME)
    max_tokens: int = Field(DEFAULT_TOKENS, ge=1, lt=1 << 31)
    temperature: float = Field(0, ge=0, le=2)
    seed: int | None = Field(None, ge=-(1 << 63), lt=1 << 63)

    def history(self) -> list[dict[str, str]]:
        """As chat templates take it.

        Raises:
            RequestError: what is no message is no pair either.
        """
        messages: list[dict[str, str]] = []
        for one in self.chat_history:
            if isinstance(one, Message):
                messages.append(one.as_template())
            elif len(one) == 2:
                messages += [{"role": "user", "content": one[0]}, {"role": "assistant", "content": one[1]}]
            else:
                raise RequestError("chat_history holds messages {role, content} or pairs [question, answer]")
        return messages


def knowledge_of(request: HttpRequest) -> Knowledge:
    """The gateway's documents."""
    found: Knowledge = request.app.state.knowledge
    return found


@router.post("/v1/knowledge", summary="Keep documents", status_code=201)
async def create(body: SourceBody, request: HttpRequest) -> dict[str, Any]:
    """Documents that this key's account can have cited; nobody else can. They stay on the gateway's disk."""
    documents = [Document(one.name or f"document {number}", one.text) for number, one in enumerate(body.documents, 1)]
    account = key_of(request).terms.account
    info = await asyncio.to_thread(knowledge_of(request).create, account, body.name, documents, int(time.time()))
    return {"object": "knowledge_source", **asdict(info)}


@router.get("/v1/knowledge", summary="List what documents there are")
async def sources(request: HttpRequest) -> dict[str, Any]:
    """The account's sources, without their texts."""
    found = await asyncio.to_thread(knowledge_of(request).sources, key_of(request).terms.account)
    return {"object": "list", "data": [{"object": "knowledge_source", **asdict(info)} for info in found]}


@router.delete("/v1/knowledge/{id}", summary="Forget documents")
async def delete(id: str, request: HttpRequest) -> dict[str, Any]:
    """They are gone from the gateway's disk."""
    await asyncio.to_thread(knowledge_of(request).delete, key_of(request).terms.account, id)
    return {"id": id, "object": "knowledge_source", "deleted": True}


@router.post("/chat/conversational_rag_chat", summary="Answer from documents")
async def rag(body: RagBody, request: HttpRequest) -> Response:
    """FLock's RAG route: answer, source_docs with offsets, and the question that was searched for."""
    service = service_of(request)
    name = body.model or service.settings.default_model
    if not name:
        raise ApiError(400, "model: name one, this gateway has no default", param="model", code="invalid_value")
    served = named(name, request)
    await service.admit(key_of(request), 1 + body.max_tokens)
    turn = _Turn(service, knowledge_of(request), request, body, served, limits_of(service, served))
    condensing_prompt = await turn.prepare()
    asked = Asked(
        key_of(request), served, 1,
        asked_hash({
            "question": body.question, "chat_history": turn.history, "knowledge_source_id": body.knowledge_source_id,
        }),
        len(condensing_prompt) + turn.room, (CONDENSED_TOKENS if condensing_prompt else 0) + body.max_tokens,
        idempotency_of(request), await body_hash(request),
    )  # fmt: skip
    answering = Answering(service, asked)
    try:
        return json_response(
            await unless_gone(request.receive, _answer(answering, turn, condensing_prompt)), answering.request
        )
    except ReplayedError as error:
        return replayed(error.row)
    except ClientDisconnect:
        return Response(status_code=499)  # nobody reads it


@dataclass
class _Turn:
    """One question about documents."""

    service: Service
    knowledge: Knowledge
    request: HttpRequest
    body: RagBody
    served: Served
    limits: Limits

    def __post_init__(self) -> None:
        self.history: Sequence[Mapping[str, str]] = self.body.history()
        self.room = self.limits.context_length - self.body.max_tokens

    async def prepare(self) -> Tokens:
        """The prompt that asks for a question that stands alone; empty without a history.

        Raises:
            RequestError: the question is too long, or there is no such source.
        """
        await self.search(self.body.question)
        self.limits.check(self.asked(await self.prompt(()), self.body.max_tokens))
        if not self.history:
            return ()
        message = {"role": "user", "content": condensing(self.history, self.body.question)}
        prompt = await self.service.engine.prompt([message])
        self.limits.check(self.asked(prompt, CONDENSED_TOKENS))
        return prompt

    def asked(self, prompt: Tokens, max_tokens: int) -> Request:
        """For the engine."""
        sampling = Sampling(float(self.body.temperature), seed=self.body.seed)
        return Request(prompt, self.served.adapter, max_tokens, tenant_of(self.request), sampling)

    async def search(self, query: str) -> list[Passage]:
        """Passages for a question."""
        account = key_of(self.request).terms.account
        return await asyncio.to_thread(
            self.knowledge.search, account, self.body.knowledge_source_id, query, MOST_PASSAGES
        )

    async def prompt(self, passages: Sequence[Passage]) -> Tokens:
        """The prompt with these passages: frame, history, quoted passages, question."""
        engine = self.service.engine
        question = {"role": "user", "content": framed(self.body.question, passages, engine.reserved)}
        return await engine.prompt([{"role": "system", "content": FRAME}, *self.history, question])

    async def fitting(self, passages: Sequence[Passage]) -> tuple[Sequence[Passage], Tokens]:
        """As many of the best passages as there is room for, and the prompt with them."""
        while len(prompt := await self.prompt(passages)) > self.room:
            assert passages, "it was checked to fit without passages"
            passages = passages[:-1]
        return passages, prompt


async def _made(answering: Answering, request: Request) -> tuple[str, Finished]:
    """The text of one answer of the engine, and its end."""
    text, end = "", None
    async with aclosing(answering.events([request])) as events:
        async for _, event in events:
            text += event.text
            end = event if isinstance(event, Finished) else end
    assert end is not None, "an answer has no end"
    return text, end


async def _answer(answering: Answering, turn: _Turn, condensing_prompt: Tokens) -> dict[str, Any]:
    body, ends, question = turn.body, [], turn.body.question
    async with answering:
        if condensing_prompt:
            text, end = await _made(answering, turn.asked(condensing_prompt, CONDENSED_TOKENS))
            ends.append(end)
            question = next((line.strip() for line in text.splitlines() if line.strip()), question)
        query = question if question == body.question else f"{body.question}\n{question}"
        passages, prompt = await turn.fitting(await turn.search(query))
        text, end = await _made(answering, turn.asked(prompt, body.max_tokens))
        ends.append(end)
        answering.add(0, text)
        named_by_answer = cited(text, len(passages))
        found = {
            "answer": text,
            "source_docs": [
                _source(passage, number, number in named_by_answer) for number, passage in enumerate(passages, 1)
            ],
            "generated_question": question, "model": turn.served.id, "finish_reason": end.reason.value,
            "usage": usage(ends),
        }  # fmt: skip
        if not text:
            row = await answering.release("the answer is empty")
        else:
            made = sum(one.completion_tokens for one in ends)
            row = await answering.settle(made, end.reason.value, msgspec.json.encode(found))
        return {**found, "receipt": shown(row.receipt)}


def _source(passage: Passage, number: int, is_cited: bool) -> dict[str, Any]:
    return {
        "page_content": passage.text,
        "metadata": {
            "citation": number, "cited": is_cited, "source": passage.name, "document": passage.document,
            "start": passage.start, "end": passage.end, "score": passage.score,
        },
    }  # fmt: skip
