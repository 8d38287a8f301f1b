"""OpenAI's objects of answers, whole and in parts: those of chats and those of completions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from flock_ray.serving.detokenizer import UNFINISHED
from flock_ray.serving.stream import Finished, Logprobs, Token

LEAST_LOGPROB = -9_999.0  # OpenAI's figure for less than that: JSON has no infinity

Object = dict[str, Any]


@dataclass
class Choice:
    """One answer, as it comes.

    Attributes:
        index: of it among the answers.
        text: so far.
        tokens: so far, of a request with log probabilities.
        offset: characters of what was shown in parts.
        finished: its end.
    """

    index: int
    text: str = ""
    tokens: list[Token] = field(default_factory=list)
    offset: int = 0
    finished: Finished | None = None


class Shape(ABC):
    """A kind of answer.

    Attributes:
        prefix: of its ids.
        whole_name: `object` of a whole answer.
        part_name: `object` of a part.
    """

    prefix: str
    whole_name: str
    part_name: str

    @abstractmethod
    def opening(self, index: int) -> Object | None:
        """What a stream begins with for each answer."""

    @abstractmethod
    def part(self, choice: Choice, text: str, token: Token | None) -> Object:
        """More text of an answer; the token is that of its log probabilities."""

    @abstractmethod
    def end(self, choice: Choice) -> Object:
        """The last part of an answer, without text."""

    @abstractmethod
    def whole(self, choice: Choice) -> Object:
        """A whole answer."""


class Chat(Shape):
    """Answers of `/v1/chat/completions`."""

    prefix, whole_name, part_name = "chatcmpl-", "chat.completion", "chat.completion.chunk"

    def opening(self, index: int) -> Object:
        """See `Shape`."""
        return _delta(index, {"role": "assistant", "content": ""})

    def part(self, choice: Choice, text: str, token: Token | None) -> Object:
        """See `Shape`."""
        return _delta(choice.index, {"content": text}, _chat_logprobs([token] if token else []))

    def end(self, choice: Choice) -> Object:
        """See `Shape`."""
        return _delta(choice.index, {}, finish_reason=_reason(choice))

    def whole(self, choice: Choice) -> Object:
        """See `Shape`."""
        message = {"role": "assistant", "content": choice.text, "refusal": None}
        return {
            "index": choice.index, "message": message, "logprobs": _chat_logprobs(choice.tokens),
            "finish_reason": _reason(choice),
        }  # fmt: skip


class Completion(Shape):
    """Answers of `/v1/completions`."""

    prefix, whole_name, part_name = "cmpl-", "text_completion", "text_completion"

    def opening(self, index: int) -> None:
        """See `Shape`: there is none."""

    def part(self, choice: Choice, text: str, token: Token | None) -> Object:
        """See `Shape`."""
        scored = _completion_logprobs([token] if token else [], choice.offset)
        choice.offset += len(text)
        return _text(choice.index, text, scored)

    def end(self, choice: Choice) -> Object:
        """See `Shape`."""
        return _text(choice.index, "", None, _reason(choice))

    def whole(self, choice: Choice) -> Object:
        """See `Shape`."""
        return _text(choice.index, choice.text, _completion_logprobs(choice.tokens, 0), _reason(choice))


def usage(finished: Sequence[Finished]) -> Object:
    """Tokens of answers that ended."""
    prompt, made = sum(one.prompt_tokens for one in finished), sum(one.completion_tokens for one in finished)
    return {
        "prompt_tokens": prompt, "completion_tokens": made, "total_tokens": prompt + made,
        "prompt_tokens_details": {"cached_tokens": sum(one.cached_tokens for one in finished)},
    }  # fmt: skip


def _delta(index: int, delta: Object, logprobs: Object | None = None, finish_reason: str | None = None) -> Object:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}


def _text(index: int, text: str, logprobs: Object | None, finish_reason: str | None = None) -> Object:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}


def _reason(choice: Choice) -> str:
    assert choice.finished is not None, "an answer has no end"
    return choice.finished.reason.value


def _chat_logprobs(tokens: Sequence[Token]) -> Object | None:
    scored = [token.logprobs for token in tokens if token.logprobs is not None]
    if not scored:
        return None
    content = [
        {
            **_spelled(one.text, one.logprob),
            "top_logprobs": [_spelled(top.text, top.logprob) for top in one.top],
        }
        for one in scored
    ]
    return {"content": content, "refusal": None}


def _spelled(text: str, logprob: float | None) -> Object:
    """A token; a part of a character has no bytes here that would be true."""
    written = None if UNFINISHED in text else list(text.encode())
    return {"token": text, "logprob": _finite(logprob), "bytes": written}


def _completion_logprobs(tokens: Sequence[Token], offset: int) -> Object | None:
    found: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    for token in tokens:
        if token.logprobs is not None:
            found["tokens"].append(token.logprobs.text)
            found["token_logprobs"].append(_finite(token.logprobs.logprob))
            found["top_logprobs"].append(_top(token.logprobs))
            found["text_offset"].append(offset)
        offset += len(token.text)
    return found if found["tokens"] else None


def _top(logprobs: Logprobs) -> dict[str, float | None] | None:
    """The likeliest tokens by text, the likelier of two with the same; none for the first token of a prompt."""
    if logprobs.logprob is None:
        return None
    return {top.text: _finite(top.logprob) for top in reversed(logprobs.top)}


def _finite(logprob: float | None) -> float | None:
    return None if logprob is None else max(logprob, LEAST_LOGPROB)
