"""Bodies of OpenAI's requests: what is taken, and by which name everything else is refused.

A parameter that would change the answer and that this gateway does not have is refused, never ignored. Its neutral
values, which many clients send, are taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from flock_ray.market.api_errors import Unsupported
from flock_ray.serving.request import LONGEST_STOP_STRING, MOST_STOP_STRINGS, MOST_TOP_LOGPROBS, Sampling

MOST_MESSAGES = 1_024
MOST_PROMPTS = 64
LONGEST_NAME = 256
_ROLES = {"developer": "system"}  # OpenAI's newer name of it

Neutral = Mapping[str, tuple[Any, ...]]
"""{parameter that is not supported: values of it that change nothing}."""

_EITHER: Neutral = {
    "n": (None, 1),
    "frequency_penalty": (None, 0, 0.0),
    "presence_penalty": (None, 0, 0.0),
    "repetition_penalty": (None, 1, 1.0),
    "logit_bias": (None, {}),
    "store": (None, False),
    "service_tier": (None, "auto", "default"),
}
_CHAT: Neutral = {
    **_EITHER,
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "parallel_tool_calls": (None, False, True),
    "functions": (None, []),
    "function_call": (None, "none", "auto"),
    "response_format": (None, {"type": "text"}),
    "modalities": (None, ["text"]),
    "audio": (None,),
    "prediction": (None,),
    "reasoning_effort": (None, "none"),
    "verbosity": (None,),
    "web_search_options": (None,),
}
_COMPLETION: Neutral = {**_EITHER, "best_of": (None, 1), "suffix": (None, "")}
_MESSAGE: Neutral = {
    "name": (None,),
    "refusal": (None,),
    "tool_calls": (None, []),
    "function_call": (None,),
    "audio": (None,),
    "annotations": (None, []),
}


class Body(BaseModel):
    """Of a request: fields have their own type, and no others are taken."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    neutral: ClassVar[Neutral] = {}

    @model_validator(mode="before")
    @classmethod
    def _without_neutral(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        for name in value.keys() & cls.neutral.keys():
            if not any(type(value[name]) is type(one) and value[name] == one for one in cls.neutral[name]):
                raise Unsupported(name)
        return {name: one for name, one in value.items() if name not in cls.neutral}


def _joined(content: Any) -> Any:
    """The text of a message's parts."""
    if not isinstance(content, list):
        return content
    texts = []
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text":
            raise Unsupported("messages.content of another type than text")
        if part.keys() != {"type", "text"} or not isinstance(part["text"], str):
            raise ValueError("a part of a message is {type: text, text: …}")
        texts.append(part["text"])
    return "".join(texts)


_TEXT = {"type": "string"}
_PARTS = {
    "type": "object", "required": ["type", "text"], "properties": {"type": {"const": "text"}, "text": _TEXT},
}  # fmt: skip
_TOKENS = {"type": "array", "items": {"type": "integer", "minimum": 0}}


class Message(Body):
    """One message of a conversation."""

    neutral = _MESSAGE
    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[
        str,
        BeforeValidator(_joined),
        WithJsonSchema({"anyOf": [_TEXT, {"type": "array", "items": _PARTS}], "title": "Content"}),
    ]

    def as_template(self) -> dict[str, str]:
        """As chat templates take it."""
        return {"role": _ROLES.get(self.role, self.role), "content": self.content}


def _listed(stop: Any) -> Any:
    return [stop] if isinstance(stop, str) else ([] if stop is None else stop)


class StreamOptions(Body):
    """What a stream has besides."""

    neutral = {"include_obfuscation": (None, False)}
    include_usage: bool = False


class Common(Body):
    """What both kinds of requests have."""

    model: str = Field(min_length=1, max_length=LONGEST_NAME, description="`name@hash8`, an alias, or a whole hash.")
    temperature: float | None = Field(None, ge=0, le=2, description="0: the likeliest token each time; by default 1.")
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0, lt=1 << 31, description="Of ours: 0 or null for all tokens.")
    seed: int | None = Field(None, ge=-(1 << 63), lt=1 << 63)
    stop: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=LONGEST_STOP_STRING)]],
        BeforeValidator(_listed),
        Field(max_length=MOST_STOP_STRINGS),
        WithJsonSchema({"anyOf": [_TEXT, {"type": "array", "items": _TEXT}, {"type": "null"}], "title": "Stop"}),
    ] = Field(default_factory=list)
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=0, lt=1 << 31)
    user: str | None = Field(None, max_length=LONGEST_NAME, description="Taken, and not kept.")
    safety_identifier: str | None = Field(None, max_length=LONGEST_NAME, description="Taken, and not kept.")
    prompt_cache_key: str | None = Field(None, max_length=LONGEST_NAME, description="Taken: prompts are cached anyway.")
    metadata: dict[str, str] | None = Field(None, max_length=16, description="Taken, and not kept.")

    @model_validator(mode="after")
    def _streams(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options needs stream: true")
        return self

    @property
    def sampling(self) -> Sampling:
        """How tokens are chosen."""
        temperature = 1.0 if self.temperature is None else float(self.temperature)
        return Sampling(temperature, 1.0 if self.top_p is None else float(self.top_p), self.top_k or 0, self.seed)

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a chunk of usage."""
        return self.stream_options is not None and self.stream_options.include_usage


class ChatRequest(Common):
    """Body of `POST /v1/chat/completions`."""

    neutral = _CHAT
    messages: list[Message] = Field(min_length=1, max_length=MOST_MESSAGES)
    max_completion_tokens: int | None = Field(None, ge=0, lt=1 << 31, description="Newer name of max_tokens.")
    logprobs: bool | None = False
    top_logprobs: int | None = Field(None, ge=0, le=MOST_TOP_LOGPROBS)

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise ValueError("max_tokens and max_completion_tokens differ; send one of them")
        return self

    @property
    def longest(self) -> int | None:
        """Most tokens of the answer; None for as many as the context has room for."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def fewest_tokens(self) -> int:
        """Of prompt and answer, as far as it is known before the prompt is tokenised."""
        return 1 + (self.longest or 0)

    @property
    def scored(self) -> int | None:
        """How many likeliest tokens are told beside each token; None for no log probabilities."""
        return (self.top_logprobs or 0) if self.logprobs else None


def _several(prompt: Any) -> Any:
    """Prompts, each a text or token ids."""
    if isinstance(prompt, str):
        return [prompt]
    if isinstance(prompt, list) and prompt and all(type(one) is int for one in prompt):
        return [prompt]
    return prompt


class CompletionRequest(Common):
    """Body of `POST /v1/completions`."""

    neutral = _COMPLETION
    prompt: Annotated[
        list[str] | list[list[int]],
        BeforeValidator(_several),
        Field(min_length=1, max_length=MOST_PROMPTS),
        WithJsonSchema({
            "anyOf": [_TEXT, {"type": "array", "items": _TEXT}, _TOKENS, {"type": "array", "items": _TOKENS}],
            "title": "Prompt",
        }),
    ]  # fmt: skip
    logprobs: int | None = Field(None, ge=0, le=MOST_TOP_LOGPROBS)
    echo: bool | None = False

    @property
    def longest(self) -> int:
        """Most tokens of each answer: OpenAI's default here is 16."""
        return 16 if self.max_tokens is None else self.max_tokens

    @property
    def fewest_tokens(self) -> int:
        """Of all prompts and answers, as far as it is known before texts are tokenised."""
        return sum((1 if isinstance(one, str) else len(one)) + self.longest for one in self.prompt)
