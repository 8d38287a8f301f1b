"""Renderings compared: which of a rendered conversation is the template's own text, and which the conversation's.

Every text of the conversation is replaced by a character of its own, a stand-in. What lies between stand-ins in the
rendering of that is the template's, and must be in the true rendering letter by letter; what lies there at the
stand-ins' places are the texts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flock_ray.training.formats import BadRowError, Conversation

STAND_IN = re.compile("[\U000f0000-\U000ffffd]")  # for private use: nobody writes, trims or escapes them
TOOLS = -1
"""Index of the message that a stand-in in the tools is counted to."""
_THOUGHT = re.compile(r"(?:(.*?)(<think>))?(.*?)(</think>)(.*)", re.DOTALL)


class StandIns:
    """Stand-ins for the texts of a conversation.

    Attributes:
        texts: {stand-in: (index of the message, text)}.
        thoughts: stand-ins of what the assistant thought before it answered.
    """

    def __init__(self, text: str) -> None:
        """Take those that a text does not hold."""
        held = set(STAND_IN.findall(text))
        self._unused = (char for char in map(chr, range(0xF0000, 0xFFFFE)) if char not in held)
        self.texts: dict[str, tuple[int, str]] = {}
        self.thoughts: set[str] = set()

    def of(self, index: int, text: str, thought: bool = False) -> str:
        """A new stand-in for a text of a message."""
        char = next(self._unused)
        self.texts[char] = index, text
        if thought:
            self.thoughts.add(char)
        return char


@dataclass(frozen=True)
class Piece:
    """A stretch of the rendering with stand-ins, and where it lies in the true one.

    Attributes:
        text: the template's own text, or one stand-in.
        start, stop: in the true rendering.
    """

    text: str
    start: int
    stop: int


def message_with_stand_ins(message: Mapping[str, Any], index: int, stand_ins: StandIns) -> dict[str, Any]:
    """The message with a stand-in for each of its texts."""
    replaced, content = dict(message), message["content"]
    if reasoning := message.get("reasoning_content"):
        replaced["reasoning_content"] = stand_ins.of(index, reasoning, thought=True)
    if isinstance(content, list):
        replaced["content"] = [
            {**part, "text": stand_ins.of(index, part["text"])} if part["text"] or len(content) == 1 else part
            for part in content
        ]
    elif content and message["role"] == "assistant" and (match := _THOUGHT.fullmatch(content)):
        before, opened, thought, closed, answer = match.groups(default="")
        before = _core(stand_ins, index, before, thought=False) if before.strip() else before
        thought = _core(stand_ins, index, thought, thought=True)
        replaced["content"] = before + opened + thought + closed + _core(stand_ins, index, answer, thought=False)
    elif content or (content == "" and message["role"] == "assistant" and "tool_calls" not in message):
        replaced["content"] = stand_ins.of(index, content)
    if calls := message.get("tool_calls"):
        replaced["tool_calls"] = [
            {**call, "function": {**call["function"], "name": stand_ins.of(index, call["function"]["name"])}}
            for call in calls
        ]
    return replaced


def _core(stand_ins: StandIns, index: int, text: str, thought: bool) -> str:
    """The text with a stand-in for what is not white space around it; an answer has one even if it is empty."""
    core = text.strip()
    if not core:
        return text if thought else text + stand_ins.of(index, "")
    before, _, after = text.partition(core)
    return before + stand_ins.of(index, core, thought) + after


def tool_with_stand_in(tool: Mapping[str, Any], stand_ins: StandIns) -> dict[str, Any]:
    """The tool with a stand-in for its name."""
    function = tool["function"]
    return {**tool, "function": {**function, "name": stand_ins.of(TOOLS, function["name"])}}


def arguments_as_text(row: Conversation) -> Conversation:
    """The conversation with the arguments of tool calls as JSON text."""
    messages = []
    for message in row.messages:
        calls = []
        for call in message.get("tool_calls", ()):
            arguments = json.dumps(call["function"]["arguments"], ensure_ascii=False)
            calls.append({**call, "function": {**call["function"], "arguments": arguments}})
        messages.append({**message, "tool_calls": calls} if calls else message)
    return Conversation(tuple(messages), row.tools, row.learned)


def aligned(skeleton: str, text: str, stand_ins: StandIns) -> tuple[list[Piece], bool]:
    """The pieces of the rendering with stand-ins, in turn the template's and a stand-in, by where they lie in the text.

    Returns:
        The pieces, and whether the template left out white space around a text.

    Raises:
        BadRowError: a text is not there as it was; names the message.
    """
    pieces = list(_split(skeleton))
    placed, at, trimmed = [], 0, False
    for place, piece in enumerate(pieces):
        if place % 2 == 0:
            if not text.startswith(piece, at):
                raise BadRowError("the model's chat template writes something else around a text for what it says")
            size = len(piece)
        else:
            index, original = stand_ins.texts[piece]
            size = _size_of(original, text, at, pieces[place + 1])
            if size < 0:
                raise BadRowError(
                    "the model's chat template changes "
                    + (f"message {index + 1}, or what stands around it" if index != TOOLS else "the tools")
                )
            trimmed = trimmed or size < len(original)
        placed.append(Piece(piece, at, at + size))
        at += size
    if at != len(text):
        raise BadRowError("the model's chat template writes something else at the end for what the row says")
    return placed, trimmed


def _split(skeleton: str) -> Iterator[str]:
    """The template's texts and the stand-ins, in turn; there may be nothing between two stand-ins."""
    last = 0
    for match in STAND_IN.finditer(skeleton):
        yield skeleton[last : match.start()]
        yield match.group()
        last = match.end()
    yield skeleton[last:]


def _size_of(original: str, text: str, at: int, following: str) -> int:
    """How long a message's text is in the rendering, where `following` must come next; -1 if it is not there.

    It may stand there as it is, without white space around it, or as it is written inside JSON.
    """
    escaped = json.dumps(original, ensure_ascii=False)[1:-1]
    forms = (original, original.lstrip("\n"), original.rstrip("\n"), original.strip("\n"), original.lstrip(),
             original.rstrip(), original.strip(), escaped)  # fmt: skip
    for form in forms:
        if text.startswith(form + following, at):
            return len(form)
    return -1
