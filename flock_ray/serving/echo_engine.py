"""An engine without a model: it answers at once with the prompt's own text, byte by byte.

It keeps every promise of `Engine` that a client can see, so what stands before an engine can be driven, and timed,
without one that computes.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from flock_ray.errors import AdapterError, BusyError, DataError
from flock_ray.lora.serialization import adapter_hash
from flock_ray.serving.adapters import AdapterSource, require_known
from flock_ray.serving.detokenizer import Detokenizer, StopStrings
from flock_ray.serving.engine import Engine, Stats
from flock_ray.serving.request import Limits, Request, Tokens
from flock_ray.serving.stream import Finished, FinishReason, Logprobs, Stream, Token, TopToken

if TYPE_CHECKING:
    from flock_ray.training.chat_template import Messages

VOCABULARY = 256


def decode(tokens: Sequence[int]) -> str:
    """Bytes to text."""
    return bytes(tokens).decode(errors="replace")


class EchoEngine(Engine):
    """A token is a byte of UTF-8, and the answer is the prompt, or of a conversation its last message.

    It ends after the last byte, after `max_tokens`, or at a stop string. Every token has the log probability 0.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        """Start; `limits` as an engine with a model might have them."""
        self.limits = limits or Limits(context_length=4_096, vocabulary=VOCABULARY, rows=64, waiting=256)
        assert self.limits.vocabulary == VOCABULARY
        self._known: dict[bytes, float] = {}
        self._lock = threading.Lock()
        self._closed = False
        self._stats = Stats()

    def render(self, messages: Messages, tools: Sequence[Any] = ()) -> Tokens:
        """See `Engine`."""
        if not messages or not isinstance(messages[-1].get("content"), str):
            raise DataError("the last message has no text")
        return self.encode(messages[-1]["content"])

    def encode(self, text: str) -> Tokens:
        """See `Engine`."""
        return tuple(text.encode())

    def add_adapter(self, source: AdapterSource) -> bytes:
        """See `Engine`; whatever has a hash is served."""
        digest = adapter_hash(source.read())
        with self._lock:
            if self._known.setdefault(digest, source.scaling) != source.scaling:
                raise AdapterError("the adapter is served with another scaling; discard it first")
        return digest

    def discard_adapter(self, adapter: bytes) -> None:
        """See `Engine`."""
        with self._lock:
            self._known.pop(adapter, None)

    def submit(self, request: Request) -> Stream:
        """See `Engine`."""
        self.limits.check(request)
        with self._lock:
            require_known(request.adapter, self._known)
            if self._closed:
                raise BusyError("the engine is closed; ask another one")
        stream = Stream()
        detokenizer, stops, made = Detokenizer(decode), StopStrings(request.stop), 0
        if request.echo:
            for token in request.prompt:
                stream.put(Token(token, detokenizer.push(token), self._logprobs(request, token), prompt=True))
        reason = FinishReason.STOP
        for token in request.prompt:
            if made == self.limits.answer_length(request):
                reason = FinishReason.LENGTH
                break
            made += 1
            stream.put(Token(token, stops.push(detokenizer.push(token)), self._logprobs(request, token)))
            if stops.stopped:
                break
        rest = stops.push(detokenizer.flush()) + stops.flush()
        stream.put(Finished(reason, len(request.prompt), 0, made, rest))
        with self._lock:
            before = self._stats
            self._stats = Stats(
                prompt_tokens=before.prompt_tokens + len(request.prompt),
                completion_tokens=before.completion_tokens + made,
            )
        return stream

    @staticmethod
    def _logprobs(request: Request, token: int) -> Logprobs | None:
        if request.logprobs is None:
            return None
        text = decode([token])
        return Logprobs(text, 0.0, (TopToken(token, text, 0.0),) if request.logprobs else ())

    def stats(self) -> Stats:
        """See `Engine`."""
        with self._lock:
            return self._stats

    @property
    def closed(self) -> bool:
        """See `Engine`."""
        return self._closed

    def close(self) -> None:
        """See `Engine`."""
        with self._lock:
            self._closed = True
