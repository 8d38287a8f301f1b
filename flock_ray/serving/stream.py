"""What comes back for a request: tokens as they are made, and in the end exactly one event that says why it ended."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Self


class FinishReason(StrEnum):
    """Why an answer ended."""

    STOP = "stop"  # the model ended it, or a stop string did
    LENGTH = "length"  # it has as many tokens as it may
    CANCELLED = "cancelled"  # the client went away, or the engine was closed
    ERROR = "error"


@dataclass(frozen=True)
class TopToken:
    """One of the likeliest tokens at a place: its id, its text, and its log probability in nats."""

    id: int
    text: str
    logprob: float


@dataclass(frozen=True)
class Logprobs:
    """What the model, before temperature and cuts, gave a token.

    Attributes:
        text: of this token alone.
        logprob: in nats; None for the first token of a prompt.
        top: the likeliest tokens at its place, likeliest first.
    """

    text: str
    logprob: float | None
    top: tuple[TopToken, ...] = ()


@dataclass(frozen=True)
class Token:
    """A token of the answer.

    Attributes:
        id: of the token.
        text: what can be shown now; may be empty while a character or a possible stop string is not whole. The answer
            is all of these texts one after the other, and that of `Finished`.
        logprobs: if they were asked for.
        prompt: whether it is a token of the prompt, which `echo` repeats.
    """

    id: int
    text: str
    logprobs: Logprobs | None = None
    prompt: bool = False


@dataclass(frozen=True)
class Finished:
    """The last event of every request.

    Attributes:
        reason: why it ended.
        prompt_tokens: tokens of the prompt.
        cached_tokens: how many of those were not computed anew.
        completion_tokens: tokens that were handed on; the model's own end of an answer is none of them.
        text: the end of the answer that was held back until now, mostly empty.
        error: one line, empty unless `reason` is an error; for who runs the engine, since it can name files of the
            machine. It never holds text of a prompt.
    """

    reason: FinishReason
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    text: str = ""
    error: str = ""


Event = Token | Finished


@dataclass(frozen=True)
class Answer:
    """A whole answer: its text without an echoed prompt, its tokens, and how it ended."""

    text: str
    tokens: tuple[Token, ...]
    finished: Finished


class Stream:
    """The events of one request: iterate over it, from one thread or one asyncio task.

    An engine never waits for a reader: what is not read yet is kept, and that is at most the answer. A stream that is
    cancelled, closed as a context manager, or dropped ends its request within one step of the engine.
    """

    def __init__(self, on_cancel: Callable[[], None] = lambda: None) -> None:
        """Make one; `on_cancel` is called when somebody cancels, from whichever thread that is."""
        self._events: deque[Event] = deque()
        self._changed = threading.Condition()
        self._on_cancel = on_cancel
        self._waiting: tuple[asyncio.AbstractEventLoop, asyncio.Future[None]] | None = None
        self._ended = self._read = False
        self.cancelled = False

    def put(self, event: Event) -> None:
        """Hand on an event; the engine's side."""
        with self._changed:
            assert not self._ended, "an ended answer goes on"
            self._ended = isinstance(event, Finished)
            self._events.append(event)
            self._changed.notify_all()
            waiting, self._waiting = self._waiting, None
        if waiting:
            loop, future = waiting
            with suppress(RuntimeError):  # its loop is closed: nobody reads on
                loop.call_soon_threadsafe(_resolve, future)

    @property
    def ended(self) -> bool:
        """Whether the last event is there, read or not."""
        return self._ended

    def cancel(self) -> None:
        """Have the engine end this answer within one step; harmless when it ended already."""
        if not self.cancelled:
            self.cancelled = True
            self._on_cancel()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        """The next event, waited for; the last one is a `Finished`."""
        with self._changed:
            self._changed.wait_for(lambda: self._events or self._read)
            return self._next(StopIteration)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        """The same in asyncio; a task that is cancelled while it waits cancels the answer."""
        while True:
            with self._changed:
                if self._events or self._read:
                    return self._next(StopAsyncIteration)
                loop = asyncio.get_running_loop()
                future = loop.create_future()
                self._waiting = loop, future
            try:
                await future
            except asyncio.CancelledError:
                self.cancel()
                raise

    async def gather(self, seconds: float) -> list[Event]:
        """The next events in asyncio, one at least: those that there are, and that come within so many seconds.

        Where each handing on costs something; the last event is not waited for any longer. Empty when all were read.
        """
        events = [event] if (event := await anext(self, None)) is not None else []
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while True:
            with self._changed:
                while self._events:
                    events.append(self._next(StopAsyncIteration))
                if self._read or (left := end - loop.time()) <= 0:
                    return events
                future = loop.create_future()
                self._waiting = loop, future
            await asyncio.wait([future], timeout=left)

    def _next(self, end: type[Exception]) -> Event:
        if self._read:
            raise end
        event = self._events.popleft()
        self._read = isinstance(event, Finished)
        return event

    def result(self) -> Answer:
        """Wait for the end, and put all together."""
        *tokens, finished = self
        assert isinstance(finished, Finished)
        made = [token for token in tokens if isinstance(token, Token)]
        text = "".join(token.text for token in made if not token.prompt)
        return Answer(text + finished.text, tuple(made), finished)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
