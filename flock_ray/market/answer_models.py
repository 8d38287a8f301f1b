"""Bodies of responses, as the OpenAPI page describes them. Answers are made in `answers`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field


class ReceiptFields(BaseModel):
    """What the gateway signed about an answer (`protocol.receipt.Receipt`); bytes as `0x…`, amounts in wei."""

    gateway: str
    request: str
    account: str
    model: str
    prompt: str
    output: str
    prompt_tokens: int
    output_tokens: int
    price_book: str
    cost: int


class SignedReceiptFields(BaseModel):
    """A receipt, the account of the receipt key, and its EIP-712 signature."""

    receipt: ReceiptFields
    key: str
    signature: str


class PromptTokensDetails(BaseModel):
    """Tokens of prompts by where they came from."""

    cached_tokens: int


class Usage(BaseModel):
    """Tokens of an answer."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class AssistantMessage(BaseModel):
    """What was answered."""

    role: Literal["assistant"]
    content: str
    refusal: None = None


class ChatChoice(BaseModel):
    """An answer to a conversation."""

    index: int
    message: AssistantMessage
    logprobs: dict[str, Any] | None
    finish_reason: Literal["stop", "length"]


class TextChoice(BaseModel):
    """The continuation of a text."""

    index: int
    text: str
    logprobs: dict[str, Any] | None
    finish_reason: Literal["stop", "length"]


class _Answer(BaseModel):
    id: str
    created: int
    model: str = Field(description="`name@hash8` of the model that answered.")
    usage: Usage
    receipt: SignedReceiptFields | None = Field(description="Null for an empty answer, which costs nothing.")


class ChatCompletion(_Answer):
    """A whole answer to a conversation."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]


class TextCompletion(_Answer):
    """Whole continuations."""

    object: Literal["text_completion"]
    choices: list[TextChoice]


class ErrorFields(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """Body of every error."""

    error: ErrorFields
