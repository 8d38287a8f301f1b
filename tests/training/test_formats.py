"""Rows as people have them; needs no model."""

from __future__ import annotations

import json
import traceback
from typing import Any

import pytest

from flock_ray.training.formats import BadRowError, Conversation, PlainText, format_of, read_row

SECRET = "zanzibar"
WEATHER = {"name": "weather", "description": "of a city", "parameters": {"type": "object", "properties": {}}}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}


def said(row: dict[str, Any]) -> list[tuple[str, Any]]:
    read = read_row(row)
    assert isinstance(read, Conversation)
    return [(message["role"], message["content"]) for message in read.messages]


TURNS = [("system", "Be brief."), ("user", "2+2?"), ("assistant", "4")]
SAME: dict[str, dict[str, Any]] = {
    "FLock": {
        "system": "Be brief.",
        "conversations": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}],
    },
    "OpenAI messages": {"messages": [{"role": role, "content": text} for role, text in TURNS], "id": 7},
    "ShareGPT": {
        "conversations": [
            {"from": sender, "value": text} for sender, (_, text) in zip(("system", "human", "gpt"), TURNS, strict=True)
        ]
    },
    "Alpaca": {"system": "Be brief.", "instruction": "2+2?", "input": "", "output": "4", "text": "2+2? 4"},
    "content parts": {"messages": [{"role": r, "content": [{"type": "text", "text": text}]} for r, text in TURNS]},
    "nulls for what is not there": {
        "messages": [{"role": r, "content": text, "tool_calls": None, "name": None} for r, text in TURNS],
        "tools": None,
        "text": None,
    },
}


@pytest.mark.parametrize("name", SAME)
def test_every_format_says_the_same(name: str) -> None:
    assert said(SAME[name]) == TURNS
    assert format_of(SAME[name]).name == {"content parts": "OpenAI messages"}.get(name, format_of(SAME[name]).name)
    assert read_row(SAME[name]).learned[-1]  # type: ignore[union-attr]


def test_alpaca_joins_input_and_history() -> None:
    row = {"instruction": "Add.", "input": "2 and 2", "output": "4", "history": [["Hello", "Hi"]]}
    assert said(row) == [("user", "Hello"), ("assistant", "Hi"), ("user", "Add.\n\n2 and 2"), ("assistant", "4")]


def test_prompt_and_completion() -> None:
    assert read_row({"prompt": "2+2=", "completion": "4"}) == PlainText("2+2=", "4")
    prompt = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    row = read_row({"prompt": prompt, "completion": [{"role": "assistant", "content": "d"}]})
    assert isinstance(row, Conversation)
    assert row.learned == (False, False, False, True)


def test_text() -> None:
    assert read_row({"text": " Two.\n"}) == PlainText("", " Two.\n")


@pytest.mark.parametrize("arguments", [{"city": "Oslo"}, '{"city": "Oslo"}'])
def test_tool_calls_of_openai(arguments: Any) -> None:
    calls = [{"id": "x1", "type": "function", "function": {"name": "weather", "arguments": arguments}}]
    row = {
        "tools": [{"type": "function", "function": WEATHER}],
        "messages": [
            {"role": "user", "content": "Rain?"},
            {"role": "assistant", "content": None, "tool_calls": calls},
            {"role": "tool", "content": "true", "tool_call_id": "x1"},
            {"role": "assistant", "content": "Yes.", "weight": 0},
        ],
    }
    read = read_row(row)
    assert isinstance(read, Conversation)
    assert read.messages[1] == {"role": "assistant", "content": "", "tool_calls": [{"id": "x1", **CALL}]}
    assert read.messages[2] == {"role": "tool", "content": "true", "tool_call_id": "x1"}
    assert read.tools == ({"type": "function", "function": WEATHER},)
    assert read.learned == (True, True, True, False)


def test_tool_calls_of_flock() -> None:
    row = {
        "tools": json.dumps([WEATHER]),
        "conversations": [
            {"role": "user", "content": "Rain?"},
            {"role": "function_call", "content": json.dumps(CALL["function"])},
            {"role": "observation", "content": "true"},
            {"role": "assistant", "content": "Yes."},
        ],
    }
    read = read_row(row)
    assert isinstance(read, Conversation)
    assert read.messages[1] == {"role": "assistant", "content": "", "tool_calls": [CALL]}
    assert [message["role"] for message in read.messages] == ["user", "assistant", "tool", "assistant"]
    assert read.tools == ({"type": "function", "function": WEATHER},)


def test_an_answer_of_no_words() -> None:
    row = {"conversations": [{"role": "user", "content": "q"}, {"role": "assistant", "content": None}]}
    assert said(row) == [("user", "q"), ("assistant", "")]


def test_thoughts_have_one_name() -> None:
    for key in ("reasoning_content", "reasoning", "thinking"):
        read = read_row({"messages": [{"role": "assistant", "content": "4", key: "2 and 2"}]})
        assert isinstance(read, Conversation)
        assert read.messages == ({"role": "assistant", "content": "4", "reasoning_content": "2 and 2"},)


def user(content: Any, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content, **fields}]}


def called(call: Any) -> dict[str, Any]:
    return {"messages": [{"role": "assistant", "content": "", "tool_calls": call}]}


BAD: dict[str, tuple[Any, str]] = {
    "a list": ([SECRET], "a row must be a JSON object"),
    "unknown keys": (
        {"question": SECRET, "answer": SECRET},
        "keys found: answer, question; rows with one of these are read: messages; conversations; prompt + completion;",
    ),
    "a key that is a text": ({f"{SECRET} or not": 1, "b": 2}, "keys found: b, of another kind;"),
    "no keys": ({}, "keys found: none"),
    "no list": ({"messages": SECRET}, '"messages" is no list of turns'),
    "no turns": ({"conversations": []}, "the list of turns is empty"),
    "turn is text": ({"conversations": [SECRET]}, "turn 1 is no object"),
    "unknown role": ({"messages": [{"role": "narrator", "content": SECRET}]}, "turn 1 has the role narrator;"),
    "role is a list": ({"messages": [{"role": [SECRET], "content": ""}]}, "turn 1 has the role of another kind;"),
    "no content": (user(None), "turn 1 has no text"),
    "content is a number": (user(5), "the content of turn 1 is neither a text nor a list of parts"),
    "an image": (user([{"type": "image_url", "image_url": SECRET}]), "turn 1 has a content part of type image_url;"),
    "part is a number": (user([5]), "a content part of turn 1 is neither a text nor an object"),
    "part without text": (user([{"type": "text"}]), "a content part of turn 1 is no text"),
    "a field that is not read": (user("x", audio={"id": SECRET}), "turn 1 has a field that is not read: audio"),
    "images": ({**user("x"), "images": [SECRET]}, "a row with images is not read: only text is"),
    "half a character": (user(SECRET + "\ud800"), "the content of turn 1 holds half a character"),
    "system is a number": ({**user("x"), "system": 5}, '"system" is no text'),
    "tools are no JSON": ({**user("x"), "tools": SECRET}, '"tools" is a text that is no JSON'),
    "a tool without a name": ({**user("x"), "tools": [{"n": SECRET}]}, 'one of "tools" is no function with a name'),
    "arguments are no JSON": (
        called([{"function": {"name": "f", "arguments": SECRET}}]),
        "the arguments of a tool call of turn 1 is a text that is no JSON",
    ),
    "arguments are a list": (called([{"name": "f", "arguments": [SECRET]}]), "of turn 1 are no object"),
    "half a character in arguments": (called([{"name": "f", "arguments": {"a": "\ud800"}}]), "holds half a character"),
    "a call without a name": (called([{"arguments": {}}]), "the name of a tool call of turn 1 is no text"),
    "a user that calls": (user("x", tool_calls=[{"name": "f"}]), "turn 1 has tool calls and is not the assistant's"),
    "function_call is no JSON": (
        {"conversations": [{"role": "function_call", "content": SECRET}]},
        "the tool calls of turn 1 is a text that is no JSON",
    ),
    "weight": (user("x", weight=0.5), "turn 1 has a weight that is neither 0 nor 1"),
    "history": ({"instruction": "x", "output": "y", "history": [SECRET]}, '"history" is no list of pairs'),
    "text is a number": ({"text": 5}, '"text" is no text'),
    "prompt is a number": ({"prompt": 5, "completion": SECRET}, '"prompt" is no text'),
}


@pytest.mark.parametrize("name", BAD)
def test_refused_by_name_and_never_by_text(name: str) -> None:
    row, message = BAD[name]
    with pytest.raises(BadRowError) as refusal:
        read_row(row)
    assert message in str(refusal.value)
    assert SECRET not in "".join(traceback.format_exception(refusal.value))
    assert "\n" not in str(refusal.value)
