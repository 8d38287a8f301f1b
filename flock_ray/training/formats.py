"""Rows as people have them, as a conversation or a text: one small function a format, tried in the table's order.

Names of keys and roles may show up in errors, texts of a row never do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flock_ray.protocol.encoding import parse_json

MAX_DEPTH = 100  # of nested brackets in a row


class BadRowError(ValueError):
    """A row that cannot be read; its text says why, and holds nothing of what the row says."""


@dataclass(frozen=True)
class Conversation:
    """Messages as a chat template takes them.

    Attributes:
        messages: each with `role` and `content` (a text, empty where there are only tool calls, or a list of text
            parts), and where it has them `tool_calls`, `reasoning_content`, `tool_call_id` and `name`.
        tools: what the assistant may call, `{"type": "function", "function": {…}}` each.
        learned: for each message, whether it carries loss if it is the assistant's.
    """

    messages: tuple[dict[str, Any], ...]
    tools: tuple[dict[str, Any], ...]
    learned: tuple[bool, ...]


@dataclass(frozen=True)
class PlainText:
    """A text that no chat template touches; `prompt` comes before it and carries no loss."""

    prompt: str
    text: str


Row = Conversation | PlainText

ROLES = {
    "system": "system",
    "developer": "developer",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "observation": "tool",
}
"""Roles of turns, and what a chat template calls them; the content of a `function_call` is a call as JSON."""

_TURN_KEYS = {
    "role", "content", "from", "value", "name", "tool_calls", "tool_call_id", "function_call", "reasoning_content",
    "reasoning", "thinking", "weight",
}  # fmt: skip
_NOT_TEXT = ("images", "image", "videos", "audios", "audio", "documents", "chat_template_kwargs")
"""Keys of a row that would change what the model reads, and are refused rather than left out."""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise BadRowError(message)


def _name(value: object) -> str:
    """A name for an error: of a key, a role, a type; anything longer might be text of the data."""
    return value if isinstance(value, str) and re.fullmatch(r"[\w.:-]{1,40}", value) else "of another kind"


def _text(value: object, what: str) -> str:
    """A text that UTF-8 can encode: JSON can contain half a surrogate pair."""
    if not isinstance(value, str):
        raise BadRowError(f"{what} is no text")
    _require(value.encode(errors="ignore").decode() == value, f"{what} holds half a character (a lone surrogate)")
    return value


def _texts_within(value: Any, what: str) -> None:
    """Refuse half characters anywhere in a JSON value."""
    if isinstance(value, str):
        _text(value, what)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _text(key, what)
            _texts_within(item, what)
    elif isinstance(value, list):
        for item in value:
            _texts_within(item, what)


def _content(value: object, where: str) -> str | list[dict[str, str]] | None:
    """The content of a turn: a text, several text parts, or None."""
    if value is None or isinstance(value, str):
        return None if value is None else _text(value, f"the content of {where}")
    if not isinstance(value, list):
        raise BadRowError(f"the content of {where} is neither a text nor a list of parts")
    parts = []
    for part in value:
        if isinstance(part, str):
            part = {"type": "text", "text": part}
        _require(isinstance(part, dict), f"a content part of {where} is neither a text nor an object")
        kind = part.get("type", "text")
        _require(kind == "text", f"{where} has a content part of type {_name(kind)}; only text is read")
        parts.append({"type": "text", "text": _text(part.get("text"), f"a content part of {where}")})
    return parts if len(parts) > 1 else "".join(part["text"] for part in parts)


def _json(value: Any, what: str) -> Any:
    """A JSON value, or the one that a text holds."""
    if not isinstance(value, str):
        return value
    try:
        return parse_json(value, MAX_DEPTH)
    except ValueError:
        raise BadRowError(f"{what} is a text that is no JSON") from None


def _call(value: Any, where: str) -> dict[str, Any]:
    """A tool call as chat templates take it: its arguments an object."""
    what = f"a tool call of {where}"
    _require(isinstance(value, dict), f"{what} is no object")
    function = value.get("function", value)
    _require(isinstance(function, dict), f"{what} has no function")
    arguments = _json(function.get("arguments") or {}, f"the arguments of {what}")
    _require(isinstance(arguments, dict), f"the arguments of {what} are no object")
    _texts_within(arguments, what)
    name = _text(function.get("name"), f"the name of {what}")
    _require(bool(name), f"{what} has no name")
    call: dict[str, Any] = {"type": "function", "function": {"name": name, "arguments": arguments}}
    return {"id": _text(value["id"], f"the id of {what}"), **call} if value.get("id") else call


def _calls(value: Any, where: str) -> list[dict[str, Any]]:
    value = _json(value, f"the tool calls of {where}")
    calls = [value] if isinstance(value, dict) else value
    _require(isinstance(calls, list), f"the tool calls of {where} are no list")
    return [_call(call, where) for call in calls]


def _turn(turn: Any, number: int) -> tuple[dict[str, Any], bool]:
    """A message, and whether it may carry loss."""
    where = f"turn {number}"
    _require(isinstance(turn, dict), f"{where} is no object")
    unknown = sorted(_name(key) for key, value in turn.items() if key not in _TURN_KEYS and value not in (None, "", []))
    _require(not unknown, f"{where} has a field that is not read: {', '.join(unknown)}")
    role = turn.get("role", turn.get("from"))
    known = isinstance(role, str) and role in ROLES
    _require(known, f'{where} has the role {_name(role)}; "role" or "from" must be one of {", ".join(ROLES)}')
    content = _content(turn.get("content", turn.get("value")), where)
    message: dict[str, Any] = {"role": ROLES[str(role)], "content": content}
    calls = _calls(turn.get("tool_calls") or turn.get("function_call") or [], where)
    if role == "function_call":
        _require(isinstance(content, str), f"{where} is a function_call without a text")
        calls, message["content"] = _calls(content, where), ""
    if calls:
        _require(message["role"] == "assistant", f"{where} has tool calls and is not the assistant's")
        message["tool_calls"] = calls
    reasoning = turn.get("reasoning_content") or turn.get("reasoning") or turn.get("thinking")
    if reasoning:
        message["reasoning_content"] = _text(reasoning, f"the reasoning of {where}")
    if message["content"] is None and message["role"] == "assistant":
        message["content"] = ""  # an answer of no words; some templates write None
    _require(message["content"] is not None, f"{where} has no text")
    for key in ("tool_call_id", "name"):
        if turn.get(key):
            message[key] = _text(turn[key], f"{key} of {where}")
    weight = turn.get("weight")
    _require(weight in (None, 0, 1), f"{where} has a weight that is neither 0 nor 1")
    return message, weight != 0


def _tools(value: Any) -> tuple[dict[str, Any], ...]:
    """The tools of a row: a list, or one as JSON text; bare functions are wrapped."""
    tools = _json(value or [], '"tools"')
    _require(isinstance(tools, list), '"tools" is no list')
    wrapped = []
    for tool in tools:
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        named = isinstance(function, dict) and isinstance(function.get("name"), str) and function["name"]
        _require(bool(named), 'one of "tools" is no function with a name')
        _texts_within(tool, 'one of "tools"')
        wrapped.append({"type": "function", "function": function})
    return tuple(wrapped)


def _conversation(row: Mapping[str, Any], turns: Sequence[Any], first_learned: int = 0) -> Conversation:
    """A conversation of turns and of what stands beside them in the row; turns before `first_learned` carry no loss."""
    _require(bool(turns), "the list of turns is empty")
    read = [_turn(turn, number) for number, turn in enumerate(turns, start=1)]
    messages = [message for message, _ in read]
    learned = [weighted and index >= first_learned for index, (_, weighted) in enumerate(read)]
    if row.get("system"):
        messages.insert(0, {"role": "system", "content": _text(row["system"], '"system"')})
        learned.insert(0, False)
    return Conversation(tuple(messages), _tools(row.get("tools") or row.get("functions")), tuple(learned))


def _list(row: Mapping[str, Any], key: str) -> list[Any]:
    value = row[key]
    if not isinstance(value, list):
        raise BadRowError(f'"{key}" is no list of turns')
    return value


def _messages(row: Mapping[str, Any]) -> Row:
    return _conversation(row, _list(row, "messages"))


def _conversations(row: Mapping[str, Any]) -> Row:
    return _conversation(row, _list(row, "conversations"))


def _prompt_completion(row: Mapping[str, Any]) -> Row:
    prompt, completion = row["prompt"], row["completion"]
    if isinstance(prompt, list) and isinstance(completion, list):
        return _conversation(row, [*prompt, *completion], first_learned=len(prompt))
    return PlainText(_text(prompt, '"prompt"'), _text(completion, '"completion"'))


def _alpaca(row: Mapping[str, Any]) -> Row:
    history = row.get("history") or []
    paired = isinstance(history, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in history)
    _require(paired, '"history" is no list of pairs')
    asked = _text(row["instruction"], '"instruction"')
    if row.get("input"):
        asked += "\n\n" + _text(row["input"], '"input"')
    turns = [*history, [asked, _text(row["output"], '"output"')]]
    spoken = [(role, text) for pair in turns for role, text in zip(("user", "assistant"), pair, strict=True)]
    return _conversation(row, [{"role": role, "content": text} for role, text in spoken])


def _plain_text(row: Mapping[str, Any]) -> Row:
    return PlainText("", _text(row["text"], '"text"'))


@dataclass(frozen=True)
class Format:
    """A shape of rows.

    Attributes:
        name: as people know it.
        keys: that a row must have.
        first: key of its first turn, which tells apart formats with the same keys; empty for any.
        read: a row as a conversation or a text; raises BadRowError.
    """

    name: str
    keys: tuple[str, ...]
    first: str
    read: Callable[[Mapping[str, Any]], Row]

    def applies(self, row: Mapping[str, Any]) -> bool:
        """Whether the row has this shape."""
        if any(row.get(key) is None for key in self.keys):
            return False
        turns = row[self.keys[0]]
        return not self.first or (isinstance(turns, list) and turns[:1] != [] and self.first in _keys(turns[0]))


def _keys(value: object) -> set[object]:
    return set(value) if isinstance(value, dict) else set()


FORMATS = (
    Format("OpenAI messages", ("messages",), "", _messages),
    Format("ShareGPT", ("conversations",), "from", _conversations),
    Format("FLock", ("conversations",), "", _conversations),
    Format("prompt and completion", ("prompt", "completion"), "", _prompt_completion),
    Format("Alpaca", ("instruction", "output"), "", _alpaca),
    Format("text", ("text",), "", _plain_text),
)
"""The shapes that are read; a row is of the first one that applies."""


def format_of(row: object) -> Format:
    """The shape of a row.

    Raises:
        BadRowError: of none; the text has the keys that were there, and those that are read.
    """
    if not isinstance(row, dict):
        raise BadRowError("a row must be a JSON object")
    for one in FORMATS:
        if one.applies(row):
            return one
    found = ", ".join(sorted(_name(key) for key, value in row.items() if value is not None)[:20]) or "none"
    read = "; ".join(dict.fromkeys(" + ".join(one.keys) for one in FORMATS))
    raise BadRowError(f"keys found: {found}; rows with one of these are read: {read}")


def read_row(row: object) -> Row:
    """A row of any known shape as a conversation or a text; needs no model.

    Raises:
        BadRowError: why it cannot be read, without any of its text.
    """
    shape = format_of(row)
    assert isinstance(row, dict)
    present = [key for key in _NOT_TEXT if row.get(key)]
    _require(not present, f"a row with {', '.join(present)} is not read: only text is")
    return shape.read(row)
