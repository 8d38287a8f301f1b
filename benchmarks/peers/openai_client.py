"""What OpenAI's client gets: `python openai_client.py URL KEY MODEL`; a line `passed NAME` for each check."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import openai


def main(url: str, key: str, model: str) -> None:
    """Run every check; what fails ends the process."""
    client = openai.OpenAI(api_key=key, base_url=f"{url}/v1", max_retries=0)
    asked: dict[str, Any] = {
        "model": model, "messages": [{"role": "user", "content": "What does json.loads do?"}], "max_tokens": 12,
        "temperature": 0,
    }  # fmt: skip
    answer = client.chat.completions.create(**asked)
    text = answer.choices[0].message.content
    assert text and answer.usage and answer.usage.completion_tokens > 0
    print("passed sync")
    parts = list(client.chat.completions.create(stream=True, **asked))
    assert "".join(part.choices[0].delta.content or "" for part in parts) == text
    assert parts[-1].choices[0].finish_reason in ("stop", "length")
    print("passed stream")
    with client.chat.completions.with_streaming_response.create(stream=True, **asked) as raw:
        assert raw.headers["x-request-id"] and list(raw.iter_lines())[-2:] == ["data: [DONE]", ""]
    assert client.chat.completions.with_raw_response.create(**asked).parse().choices[0].message.content == text
    print("passed raw")

    async def ask() -> str | None:
        async with openai.AsyncOpenAI(api_key=key, base_url=f"{url}/v1", max_retries=0) as other:
            stream = await other.chat.completions.create(stream=True, **asked)
            streamed = "".join([part.choices[0].delta.content or "" async for part in stream])
            whole = await other.chat.completions.create(**asked)
            assert whole.choices[0].message.content == streamed
            return streamed

    assert asyncio.run(ask()) == text
    print("passed async")
    assert client.completions.create(model=model, prompt="def add(a, b):", max_tokens=4).choices[0].text
    assert model in [one.id for one in client.models.list()]
    print("passed completions and models")


if __name__ == "__main__":
    main(*sys.argv[1:])
