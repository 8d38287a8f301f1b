"""What litellm gets from a gateway: `python litellm_client.py URL KEY MODEL`; a line `passed NAME` for each check."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import litellm


def main(url: str, key: str, model: str) -> None:
    """Run every check; what fails ends the process."""
    common: dict[str, Any] = {"model": f"openai/{model}", "api_base": f"{url}/v1", "api_key": key}
    said = [{"role": "user", "content": "What does json.loads do?"}]
    answer = litellm.completion(messages=said, max_tokens=12, temperature=0, **common)
    assert answer.choices[0].message.content and answer.usage.completion_tokens > 0
    print("passed completion")
    parts = list(litellm.completion(messages=said, max_tokens=12, temperature=0, stream=True, **common))
    text = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
    assert text == answer.choices[0].message.content, text
    assert parts[-1].choices[0].finish_reason in ("stop", "length")
    print("passed stream")
    usage = {"stream_options": {"include_usage": True}, "stream": True, "max_tokens": 5}
    *_, last = litellm.completion(messages=said, **usage, **common)
    assert last.usage.completion_tokens == 5
    print("passed stream with usage")
    again = asyncio.run(litellm.acompletion(messages=said, max_tokens=12, temperature=0, **common))
    assert again.choices[0].message.content == text
    print("passed acompletion")
    continued = litellm.text_completion(
        prompt="def add(a, b):", max_tokens=8, temperature=0,
        **{**common, "model": f"text-completion-openai/{model}"},
    )  # fmt: skip
    assert continued.choices[0].text
    print("passed text_completion")
    for wrong, error in (
        ({**common, "api_key": "fr-wrong"}, litellm.AuthenticationError),
        ({**common, "model": "openai/another"}, litellm.NotFoundError),
    ):
        try:
            litellm.completion(messages=said, num_retries=0, **wrong)
        except error:
            continue
        raise AssertionError(f"no {error.__name__}")
    print("passed errors")


if __name__ == "__main__":
    main(*sys.argv[1:])
