"""The interface of an engine: `BatchingEngine` computes answers, `EchoEngine` has one at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from flock_ray.serving.request import Limits, Request, Tokens
from flock_ray.serving.stream import Stream

if TYPE_CHECKING:
    from flock_ray.serving.adapters import AdapterSource
    from flock_ray.training.chat_template import Messages


@dataclass(frozen=True)
class Stats:
    """What an engine is at and what it did so far.

    Attributes:
        running: answers that are being made.
        waiting: requests that wait.
        steps: passes over the model.
        prompt_tokens: computed.
        cached_tokens: of prompts, that were not computed anew.
        completion_tokens: handed on.
        adapter_loads: copies of an adapter into a slot.
    """

    running: int = 0
    waiting: int = 0
    steps: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    adapter_loads: int = 0


class Engine(ABC):
    """Answers requests of many tenants over one base model and many adapters; all methods are safe from any thread.

    Attributes:
        limits: what it can do at most.
        reserved: texts that its tokenizer reads as control tokens, such as `<|im_start|>`, longest first.
    """

    limits: Limits
    reserved: tuple[str, ...] = ()

    @abstractmethod
    def render(self, messages: Messages, tools: Sequence[Any] = ()) -> Tokens:
        """The prompt of a conversation, up to where the answer begins: the same tokens as in training.

        Raises:
            DataError: the model's chat template does not take it.
        """

    @abstractmethod
    def encode(self, text: str) -> Tokens:
        """The prompt of a plain text: one beginning-of-sequence token if the model has texts begin with it."""

    @abstractmethod
    def add_adapter(self, source: AdapterSource) -> bytes:
        """Make an adapter known; returns its SHA-256, by which requests name it. Adding it again changes nothing.

        Raises:
            AdapterError: it does not fit the base model, or its hash is known with another scaling.
        """

    @abstractmethod
    def discard_adapter(self, adapter: bytes) -> None:
        """Forget an adapter: later requests are refused, those that run go on."""

    @abstractmethod
    def submit(self, request: Request) -> Stream:
        """Have a request answered; returns at once.

        Raises:
            RequestError: it cannot be answered as it is asked.
            UnknownAdapterError: no adapter of that hash is known.
            BusyError: as many requests as may wait do, or the engine is closed.
        """

    @abstractmethod
    def stats(self) -> Stats:
        """What it is at."""

    @property
    @abstractmethod
    def closed(self) -> bool:
        """Whether it answers nobody any more: it was closed, or failed as a whole."""

    @abstractmethod
    def close(self) -> None:
        """End every answer as cancelled, and release everything; returns when nothing runs any more."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
