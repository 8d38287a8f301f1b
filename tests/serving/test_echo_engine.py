"""The engine without a model keeps the promises of one that computes; it needs neither torch models nor time."""

from __future__ import annotations

import asyncio

import pytest
import torch

from flock_ray.errors import AdapterError, BusyError, DataError, RequestError, UnknownAdapterError
from flock_ray.serving.adapters import InMemory
from flock_ray.serving.echo_engine import VOCABULARY, EchoEngine
from flock_ray.serving.engine import Engine
from flock_ray.serving.request import Limits, Request
from flock_ray.serving.stream import Event, Finished, FinishReason, Stream, Token

TEXT = "한국 👩‍💻 ok"


def test_the_answer_is_the_last_message() -> None:
    with EchoEngine() as engine:
        prompt = engine.render([{"role": "system", "content": "no"}, {"role": "user", "content": TEXT}])
        answer = engine.submit(Request(prompt)).result()
        size = len(TEXT.encode())
        assert answer.text == TEXT and answer.finished == Finished(FinishReason.STOP, size, 0, size)
        assert engine.stats().completion_tokens == engine.stats().prompt_tokens == size
        cut = engine.submit(Request(prompt, max_tokens=4)).result()
        assert cut.text == "한\N{REPLACEMENT CHARACTER}" and cut.finished.reason is FinishReason.LENGTH
        assert engine.submit(Request(prompt, stop=("💻",))).result().text == "한국 👩‍"
        echo = engine.submit(Request(prompt, echo=True, logprobs=1, max_tokens=0)).result()
        assert "".join(token.text for token in echo.tokens) == TEXT and echo.text == ""
        assert all(token.logprobs and token.logprobs.top[0].id == token.id for token in echo.tokens)


def test_it_refuses_what_an_engine_refuses() -> None:
    engine: Engine = EchoEngine(Limits(8, VOCABULARY, 1, 1))
    with pytest.raises(RequestError, match="more than the 8 that this engine takes"):
        engine.submit(Request(engine.encode("123456789"), max_tokens=1))
    with pytest.raises(DataError):
        engine.render([{"role": "user", "content": None}])
    adapter = InMemory({"a.lora_A.weight": torch.ones(1, 2)}, 1.0)
    digest = engine.add_adapter(adapter)
    assert engine.submit(Request(engine.encode("hi"), digest)).result().text == "hi"
    with pytest.raises(AdapterError):
        engine.add_adapter(InMemory(adapter.adapter, 2.0))
    engine.discard_adapter(digest)
    with pytest.raises(UnknownAdapterError):
        engine.submit(Request(engine.encode("hi"), digest))
    engine.close()
    with pytest.raises(BusyError):
        engine.submit(Request(engine.encode("hi")))


def test_it_is_read_in_asyncio() -> None:
    async def read() -> list[Event]:
        with EchoEngine() as engine:
            return [event async for event in engine.submit(Request(engine.encode("abc")))]

    assert len(asyncio.run(read())) == 4


def test_events_are_gathered_and_the_last_one_is_not_waited_for() -> None:
    async def gathered(text: str) -> list[list[Event]]:
        with EchoEngine() as engine:
            stream = engine.submit(Request(engine.encode(text)))
            return [await stream.gather(0), await stream.gather(3_600), await stream.gather(3_600)]

    events, *empty = asyncio.run(gathered("abc"))
    assert [type(event) for event in events] == [Token, Token, Token, Finished] and empty == [[], []]


def test_what_comes_within_the_time_is_handed_on_together() -> None:
    async def read() -> list[Event]:
        stream = Stream()
        loop = asyncio.get_running_loop()
        stream.put(Token(1, "a"))
        loop.call_later(0.01, stream.put, Token(2, "b"))
        loop.call_later(0.02, stream.put, Finished(FinishReason.STOP, 1, 0, 2))
        return await stream.gather(3_600)

    assert [event.text for event in asyncio.run(read())] == ["a", "b", ""]


def test_a_closed_engine_says_so() -> None:
    engine = EchoEngine()
    assert not engine.closed
    engine.close()
    assert engine.closed
