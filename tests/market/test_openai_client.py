"""OpenAI's own client against a real server: sync, async, streamed and raw."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import openai
import pytest

from flock_ray.market.receipts import asked_hash
from flock_ray.protocol.hashing import sha256
from tests.market.gateways import HELLO, SIZE, TEXT, World, check_receipt, events_of, gateway, streamed


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with gateway(tmp_path_factory.mktemp("gateway")) as world:
        yield world


def test_a_conversation_is_answered(world: World) -> None:
    answer = world.openai().chat.completions.create(model="latest", messages=HELLO)  # type: ignore[arg-type]
    assert answer.object == "chat.completion" and answer.id.startswith("chatcmpl-")
    assert answer.model == world.models[0].id
    assert answer.choices[0].message.content == TEXT and answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage and answer.usage.total_tokens == 2 * SIZE
    receipt = check_receipt(answer.model_dump(), world)
    assert (receipt.prompt_tokens, receipt.output_tokens, receipt.cost) == (SIZE, SIZE, 8 * SIZE)
    assert receipt.model == world.models[0].adapter
    assert receipt.output == sha256(TEXT.encode()) and receipt.prompt == asked_hash(HELLO)
    assert answer.id == "chatcmpl-" + receipt.request.hex()


def test_a_conversation_is_streamed(world: World) -> None:
    stream = world.openai().chat.completions.create(
        model="latest", messages=HELLO, stream=True, max_tokens=7,  # type: ignore[arg-type]
    )  # fmt: skip
    chunks = list(stream)
    assert all(len(chunk.choices) == 1 for chunk in chunks)  # loops over choices[0] work without a usage chunk
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == TEXT.encode()[:7].decode() and chunks[-1].choices[0].finish_reason == "length"
    assert all(chunk.choices[0].finish_reason is None for chunk in chunks[:-1])
    receipt = check_receipt(chunks[-1].model_dump(), world)
    assert receipt.output_tokens == 7 and receipt.output == sha256(text.encode())


def test_a_stream_can_end_with_its_usage(world: World) -> None:
    stream = world.openai().chat.completions.create(
        model="latest", messages=HELLO, stream=True, stream_options={"include_usage": True}  # type: ignore[arg-type]
    )  # fmt: skip
    *_, end, last = stream
    assert end.choices[0].finish_reason == "stop" and end.usage is None
    assert last.choices == [] and last.usage and last.usage.completion_tokens == SIZE
    check_receipt(last.model_dump(), world)


def test_the_async_client_and_many_at_once(world: World) -> None:
    async def ask() -> list[str]:
        async with openai.AsyncOpenAI(api_key=world.secret, base_url=f"{world.url}/v1", max_retries=0) as client:

            async def one(number: int) -> str:
                said = [{"role": "user", "content": f"question {number}"}]
                if number % 2:
                    answer = await client.chat.completions.create(model="latest", messages=said)  # type: ignore[arg-type]
                    return answer.choices[0].message.content or ""
                stream = await client.chat.completions.create(model="latest", messages=said, stream=True)  # type: ignore[arg-type]
                return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

            return await asyncio.gather(*map(one, range(24)))

    assert asyncio.run(ask()) == [f"question {number}" for number in range(24)]


def test_raw_responses_have_the_request_id(world: World) -> None:
    raw = world.openai().chat.completions.with_raw_response.create(model="latest", messages=HELLO)  # type: ignore[arg-type]
    assert raw.parse().id == "chatcmpl-" + raw.headers["x-request-id"]
    with world.openai().chat.completions.with_streaming_response.create(
        model="latest", messages=HELLO, stream=True  # type: ignore[arg-type]
    ) as streaming:  # fmt: skip
        assert streaming.headers["content-type"].startswith("text/event-stream")
        *parts, end, done = events_of(streaming.iter_lines())
    assert done == "[DONE]" and end["choices"][0]["finish_reason"] == "stop" and parts


def test_texts_are_continued(world: World) -> None:
    client = world.openai()
    one = client.completions.create(model=world.models[1].id, prompt="abc")
    assert (one.choices[0].text, one.object, one.model) == ("abc", "text_completion", world.models[1].id)
    several = client.completions.create(model="latest", prompt=["abc", "de"], max_tokens=2, logprobs=1, echo=True)
    assert [choice.text for choice in several.choices] == ["abcab", "dede"]
    assert [choice.finish_reason for choice in several.choices] == ["length", "stop"]
    scored = several.choices[0].logprobs
    assert scored and scored.tokens == list("abcab") and scored.text_offset == [0, 1, 2, 3, 4]
    assert several.usage and (several.usage.prompt_tokens, several.usage.completion_tokens) == (5, 4)
    receipt = check_receipt(several.model_dump(), world)
    assert receipt.output == sha256(sha256(b"abcab") + sha256(b"dede"))
    ids = client.completions.create(model="latest", prompt=[104, 105])
    assert ids.choices[0].text == "hi"
    both = client.completions.create(model="latest", prompt=[[104], [105]])
    assert [choice.text for choice in both.choices] == ["h", "i"]


def test_several_texts_are_streamed_beside_each_other(world: World) -> None:
    stream = world.openai().completions.create(model="latest", prompt=["abc", "한국"], stream=True)
    texts, ends = ["", ""], []
    for chunk in stream:
        (choice,) = chunk.choices
        texts[choice.index] += choice.text
        if choice.finish_reason:
            ends.append((choice.index, choice.finish_reason))
    assert texts == ["abc", "한국"] and sorted(ends) == [(0, "stop"), (1, "stop")]
    receipt = check_receipt(chunk.model_dump(), world)
    assert receipt.output == sha256(sha256(b"abc") + sha256("한국".encode()))


def test_log_probabilities_are_told(world: World) -> None:
    answer = world.openai().chat.completions.create(
        model="latest", messages=HELLO, logprobs=True, top_logprobs=1, max_tokens=2  # type: ignore[arg-type]
    )  # fmt: skip
    scored = answer.choices[0].logprobs
    assert scored and scored.content and [one.token for one in scored.content] == ["H", "e"]
    assert scored.content[0].bytes == [72] and scored.content[0].top_logprobs[0].token == "H"
    parts = streamed(world, logprobs=True, max_tokens=2)
    shown = [part["choices"][0]["logprobs"] for part in parts if part != "[DONE]" and part["choices"][0]["logprobs"]]
    assert [part["content"][0]["token"] for part in shown] == ["H", "e"]


def test_stop_strings_end_an_answer(world: World) -> None:
    for stop in ("세", ["nothing", "세"]):
        answer = world.openai().chat.completions.create(model="latest", messages=HELLO, stop=stop)  # type: ignore[arg-type]
        assert answer.choices[0].message.content == "Hello, " and answer.choices[0].finish_reason == "stop"


def test_what_changes_nothing_is_taken(world: World) -> None:
    answer = world.openai().chat.completions.create(
        model="latest", messages=[{"role": "developer", "content": "Be short."}, *HELLO],  # type: ignore[list-item]
        n=1, frequency_penalty=0, presence_penalty=0.0, logit_bias={}, store=False, tool_choice="none",
        response_format={"type": "text"}, user="u", metadata={"a": "b"}, seed=1, top_p=0.5, temperature=0,
        service_tier="auto", max_completion_tokens=50,
    )  # fmt: skip
    assert answer.choices[0].message.content == TEXT
    parts = [{"type": "text", "text": "two "}, {"type": "text", "text": "parts"}]
    said = answer.choices[0].message.model_dump()
    again = [HELLO[0], said, {"role": "user", "content": parts}]
    back = world.openai().chat.completions.create(model="latest", messages=again)  # type: ignore[arg-type]
    assert back.choices[0].message.content == "two parts"


def test_models_are_listed_and_found(world: World) -> None:
    client = world.openai()
    listed = list(client.models.list())
    assert [model.id for model in listed] == ["base", *sorted((m.id for m in world.models), key=lambda i: i[-8:])]
    (first,) = [model for model in listed if model.id == world.models[0].id]
    assert first.model_extra and first.model_extra["aliases"] == ["latest"]
    assert first.model_extra["price"] == {"prompt": 2, "output": 6}
    assert first.model_extra["licences"]["strictest"] == "apache-2.0" and first.model_extra["lineage"]["epoch"] == 2
    for name in (world.models[0].id, "latest", "coder-0", world.models[0].adapter.hex()):
        assert client.models.retrieve(name).id == world.models[0].id
    with pytest.raises(openai.NotFoundError, match="there is no model"):
        client.models.retrieve("gpt-4")


def test_the_base_model_has_a_name(world: World) -> None:
    answer = world.ask(model="base").json()
    assert answer["model"] == "base"
    receipt = check_receipt(answer, world)
    assert world.settings.base and receipt.model == world.settings.base.model and receipt.cost == 2 * SIZE


@pytest.mark.parametrize("header", ["x-api-key", "x-litellm-api-key", "Authorization"])
def test_each_header_takes_a_key(world: World, header: str) -> None:
    import httpx2

    value = f"Bearer {world.secret}" if header == "Authorization" else world.secret
    answer = httpx2.get(f"{world.url}/v1/models", headers={header: value})
    assert answer.status_code == 200


def test_the_raw_stream_is_utf8_of_whole_characters(world: World) -> None:
    hard = "각 👩‍💻 한국어 🇰🇷 é"
    parts = streamed(world, messages=[{"role": "user", "content": hard}])
    pieces = [part["choices"][0]["delta"].get("content", "") for part in parts[:-1]]
    assert "".join(pieces) == hard and not any("�" in piece for piece in pieces)
    with world.http() as client:
        raw = client.post("/v1/completions", json={"model": "latest", "prompt": hard, "max_tokens": 50, "stream": True})
    assert "한".encode() in raw.content  # not escaped
