"""Questions of grade school, made up, in the formats that people keep such data in."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from typing import Any

NAMES = ("Ada", "Ben", "Chloe", "Dev", "Emil", "Fay", "Gus", "Hana")
THINGS = ("apples", "marbles", "stickers", "pencils", "shells", "coins")

FORMATS: Mapping[str, Callable[[str, str], dict[str, Any]]] = {
    "FLock": lambda question, answer: {
        "conversations": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    },
    "OpenAI messages": lambda question, answer: {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": question}]},
            {"role": "assistant", "content": answer, "tool_calls": None},
        ]
    },
    "ShareGPT": lambda question, answer: {
        "conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    },
    "Alpaca": lambda question, answer: {"instruction": question, "input": "", "output": answer},
}


def questions(seed: int, number: int) -> list[tuple[str, str]]:
    """Questions, and answers that are worked out step by step."""
    stream = random.Random(seed)
    pairs = []
    for _ in range(number):
        one, other = stream.sample(NAMES, 2)
        thing, first, times, given = (
            stream.choice(THINGS), stream.randint(3, 40), stream.randint(2, 6), stream.randint(1, 5),
        )  # fmt: skip
        total = first + first * times
        pairs.append(
            (
                f"{one} has {first} {thing}. {other} has {times} times as many. Together they give away {given}."
                f" How many {thing} are left?",
                f"{other} has {times} * {first} = {first * times} {thing}.\nTogether they have {first} +"
                f" {first * times} = {total}.\n{total} - {given} = {total - given} are left.\n#### {total - given}",
            )
        )
    return pairs


def lines(form: str, pairs: list[tuple[str, str]]) -> str:
    """The questions as JSON lines."""
    return "".join(json.dumps(FORMATS[form](question, answer)) + "\n" for question, answer in pairs)
