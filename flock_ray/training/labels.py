"""Rows as token ids, and which of them are learned: the assistant's answers and their end marks.

A conversation is rendered whole and tokenised once. Where the answers lie is told by comparing renderings
(`stand_ins.py`); so a text that the template leaves out or changes is noticed, and none is taken for the template's. A
template that marks the answers itself, with `{% generation %}`, is believed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from typing import Any

from transformers import PreTrainedTokenizerBase

from flock_ray.errors import ModelError
from flock_ray.training.chat_template import ChatTemplate, Messages, Spans, TemplateRefusal
from flock_ray.training.formats import BadRowError, Conversation, PlainText, Row
from flock_ray.training.stand_ins import (
    STAND_IN,
    TOOLS,
    Piece,
    StandIns,
    aligned,
    arguments_as_text,
    message_with_stand_ins,
    tool_with_stand_in,
)

_ASKED, _ANSWERED, _ASKED_AGAIN, _LAST = (chr(0xF0000 + index) for index in range(4))  # of a small conversation


@dataclass(frozen=True)
class Encoded:
    """A row for the model.

    Attributes:
        ids: token ids.
        has_loss: for each, whether it is learned.
        rewritten: whether the template left out white space around a text, or the thoughts of an earlier turn.
    """

    ids: list[int]
    has_loss: list[bool]
    rewritten: bool = False


class Encoder:
    """Encodes rows with a model's tokenizer and chat template."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, today: date) -> None:
        """Take a tokenizer and the date that its template is told.

        Raises:
            ModelError: the tokenizer cannot tell where in a text its tokens lie.
        """
        if not tokenizer.is_fast:
            raise ModelError("the model's tokenizer cannot tell where in a text a token lies (it is no fast tokenizer)")
        self._tokenizer, self._template = tokenizer, ChatTemplate(tokenizer, today)

    def encode(self, row: Row) -> Encoded:
        """A row as token ids and labels.

        Raises:
            BadRowError: the chat template does not take the row, or leaves out or changes some of its text.
        """
        return self._plain(row) if isinstance(row, PlainText) else self._chat(row)

    # -- plain texts -----------------------------------------------------------------------------------------------

    def _plain(self, row: PlainText) -> Encoded:
        """The text, begun as the tokenizer begins texts, and ended with its end mark, which is learned as well."""
        text = row.prompt + row.text
        ids, has_loss = self._tokenised(text, ((len(row.prompt), len(text)),))
        begin, end = self._begin, self._tokenizer.eos_token_id
        if begin is not None and ids[:1] != [begin]:
            ids, has_loss = [begin, *ids], [False, *has_loss]
        if end is not None and ids[-1:] != [end]:
            ids, has_loss = [*ids, end], [*has_loss, True]
        return Encoded(ids, has_loss)

    @cached_property
    def _begin(self) -> int | None:
        """The token that the tokenizer puts before a text, if it does."""
        bos = self._tokenizer.bos_token_id
        return bos if bos is not None and self._tokenizer("a")["input_ids"][:1] == [bos] else None

    def _tokenised(self, text: str, spans: Sequence[tuple[int, int]]) -> tuple[list[int], list[bool]]:
        """Token ids of a text, and which lie whole in one of the spans, which rise."""
        encoding = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        has_loss, rest = [], list(reversed(spans))
        for start, stop in encoding["offset_mapping"]:
            while rest and rest[-1][1] <= start:
                rest.pop()
            has_loss.append(bool(rest) and rest[-1][0] <= start < stop <= rest[-1][1])
        return encoding["input_ids"], has_loss

    # -- conversations ---------------------------------------------------------------------------------------------

    def _chat(self, row: Conversation) -> Encoded:
        try:
            return self._rendered(row)
        except TemplateRefusal:
            if not any("tool_calls" in message for message in row.messages):
                raise BadRowError(
                    "the model's chat template does not take this conversation: its roles, their order or its parts"
                ) from None
        try:  # some templates want the arguments of a call as JSON text
            return self._rendered(arguments_as_text(row))
        except TemplateRefusal:
            raise BadRowError("the model's chat template does not take this conversation with tool calls") from None

    def _rendered(self, row: Conversation) -> Encoded:
        if any(isinstance(message["content"], list) for message in row.messages) and not self._takes_parts:
            raise BadRowError("the model's chat template takes one text a message, not several content parts")
        messages = self._in_parts(row.messages) if self._takes_parts_only else row.messages
        text, generated = self._template.render(messages, row.tools)
        everything = json.dumps([messages, row.tools], ensure_ascii=False) + text
        stand_ins = StandIns(everything)
        marked = [message_with_stand_ins(message, index, stand_ins) for index, message in enumerate(messages)]
        tools = [tool_with_stand_in(tool, stand_ins) for tool in row.tools]
        skeleton, _ = self._template.render(marked, tools)
        left_out = self._left_out(skeleton, stand_ins, messages)
        pieces, trimmed = aligned(skeleton, text, stand_ins)
        if generated and all(row.learned[i] for i, m in enumerate(messages) if m["role"] == "assistant"):
            spans: Spans = generated
        else:
            turns = _Turns(self, pieces, stand_ins, marked, tools, len(text))
            spans = tuple(
                turns.span(index)
                for index, message in enumerate(messages)
                if message["role"] == "assistant" and row.learned[index]
            )
        ids, has_loss = self._tokenised(text, spans)
        return Encoded(ids, has_loss, left_out or trimmed)

    @staticmethod
    def _left_out(skeleton: str, stand_ins: StandIns, messages: Messages) -> bool:
        """Whether the template leaves thoughts of an earlier turn out, as some do; all else must be there.

        Raises:
            BadRowError: some text is missing; names the turn.
        """
        missing = [char for char in stand_ins.texts if char not in skeleton]
        for char in missing:
            index, _ = stand_ins.texts[char]
            if index == TOOLS:
                raise BadRowError("the model's chat template leaves the tools out")
            later = any(message["role"] == "user" for message in messages[index + 1 :])
            if char not in stand_ins.thoughts or not later:
                what = "the thoughts" if char in stand_ins.thoughts else "text or a tool call"
                raise BadRowError(
                    f"the model's chat template leaves out {what} of message {index + 1}"
                    f" (role {messages[index]['role']})"
                )
        return bool(missing)

    # -- what the template is like, learned from a small conversation ------------------------------------------------

    @cached_property
    def _takes_parts(self) -> bool:
        """Whether the template reads content as a list of parts; some write such a list as Python does."""
        rendered = self.render(self._in_parts([{"role": "user", "content": _ASKED}]), ())
        return _ASKED in rendered and not re.search("""['"]text['"]: ['"]$""", rendered.partition(_ASKED)[0])

    @cached_property
    def _takes_parts_only(self) -> bool:
        """Whether the template drops a content that is a plain text."""
        return self._takes_parts and _ASKED not in self.render([{"role": "user", "content": _ASKED}], ())

    @staticmethod
    def _in_parts(messages: Messages) -> list[dict[str, Any]]:
        return [
            {**message, "content": [{"type": "text", "text": message["content"]}]}
            if isinstance(message["content"], str)
            else dict(message)
            for message in messages
        ]

    def render(self, messages: Messages, tools: Sequence[Any], prompt: bool = False) -> str:
        """The rendering of part of a conversation; empty if the template does not take it."""
        try:
            return self._template.render(messages, tools, prompt)[0]
        except TemplateRefusal:
            return ""

    @cached_property
    def marks(self) -> tuple[str, str]:
        """How an answer begins and ends: what the template puts before it, or the end of that, and its end mark."""
        texts = (_ASKED, _ANSWERED, _ASKED_AGAIN, _LAST)
        roles = ("user", "assistant", "user", "assistant")
        messages = [{"role": r, "content": c} for r, c in zip(roles, texts, strict=True)]
        messages = self._in_parts(messages) if self._takes_parts_only else messages
        whole, prompt = self.render(messages, ()), self.render(messages[:1], (), prompt=True)
        if not whole or not prompt:
            return "", ""
        header = _common(_after(prompt, _ASKED), _between(whole, _ASKED, _ANSWERED))
        alone = self._without_end(_after(self.render(messages[:1], ()), _ASKED))  # the user's own end mark
        header = header.removeprefix(_common(header, alone)) or header
        prompted = _after(self.render(messages[:2], (), prompt=True), _ANSWERED)
        return header, self.end_mark(_after(whole, _LAST), _between(whole, _ANSWERED, _ASKED_AGAIN), prompted)

    def _without_end(self, text: str) -> str:
        """The text without the tokenizer's end mark, which some templates put after a whole conversation."""
        return text.removesuffix(self._tokenizer.eos_token or "")

    def end_mark(self, at_end: str, following: str, prompted: str) -> str:
        """The end mark with which `following` begins.

        Args:
            at_end: what stands after the turn where it is the last.
            following: what stands after it up to the next text.
            prompted: what stands after it where the assistant is to write again.
        """
        if mark := self.rest_of_turn(at_end, following):
            return mark
        both = _common(following, prompted)
        return max((token for token in self._special_tokens if both.startswith(token)), key=len, default="")

    def rest_of_turn(self, at_end: str, following: str) -> str:
        """What `following` begins with of what stands at the end where the turn is the last; empty if that differs."""
        marks = (mark for mark in (at_end, self._without_end(at_end)) if mark and following.startswith(mark))
        return next(marks, "")

    @cached_property
    def _special_tokens(self) -> tuple[str, ...]:
        return tuple(str(token) for token in self._tokenizer.added_tokens_decoder.values() if token.special)


class _Turns:
    """Where the assistant's turns lie in the true rendering, the end mark included."""

    def __init__(
        self, encoder: Encoder, pieces: Sequence[Piece], stand_ins: StandIns, marked: Messages,
        tools: Sequence[Any], end: int,
    ) -> None:  # fmt: skip
        self._encoder, self._pieces, self._stand_ins, self._end = encoder, pieces, stand_ins, end
        self._marked, self._tools = marked, tools
        self._places: dict[str, list[int]] = {}  # of each stand-in
        for place, piece in enumerate(pieces):
            self._places.setdefault(piece.text, []).append(place)

    def span(self, index: int) -> tuple[int, int]:
        """Start and end of a message.

        Raises:
            BadRowError: they cannot be told.
        """
        own = [char for char, (message, _) in self._stand_ins.texts.items() if message == index]
        own = [char for char in own if char in self._places]
        assert own, "every assistant's message has a stand-in"
        return self._start(index, min(self._places[char][0] for char in own)), self._stop(index, own)

    def _start(self, index: int, place: int) -> int:
        before = self._pieces[place - 1]
        header, _ = self._encoder.marks
        if header and header in before.text:
            return before.start + before.text.rindex(header) + len(header)
        prompt = self._encoder.render(self._marked[:index], self._tools, prompt=True) if index else ""
        common = _common(STAND_IN.split(prompt)[-1], before.text)
        if not common:
            raise BadRowError(f"it cannot be told where the model's chat template begins message {index + 1}")
        return before.start + len(common)

    def _stop(self, index: int, own: Sequence[str]) -> int:
        if index == len(self._marked) - 1:
            return self._end
        return (
            self._stop_of_calls(index, own) if "tool_calls" in self._marked[index] else self._stop_of_text(index, own)
        )

    def _stop_of_text(self, index: int, own: Sequence[str]) -> int:
        last = max(self._places[char][0] for char in own)
        text, after = self._pieces[last].text, self._pieces[last + 1]
        _, mark = self._encoder.marks
        if not (mark and after.text.startswith(mark)):
            at_end, prompted = (
                _after(self._encoder.render(self._marked[: index + 1], self._tools, prompt), text)
                for prompt in (False, True)
            )
            mark = self._encoder.end_mark(at_end, after.text, prompted)
        return after.start + len(mark)

    def _stop_of_calls(self, index: int, own: Sequence[str]) -> int:
        """Where the turn ends whose last text is the name of a tool, with its arguments and the end mark after it.

        A template may write that name more than once in the turn, and again with what the tool answers.
        """
        alone = self._encoder.render(self._marked[: index + 1], self._tools)
        last = max(place for char in own for place in self._places[char][: max(1, alone.count(char))])
        text, after = self._pieces[last].text, self._pieces[last + 1]
        rest = self._encoder.rest_of_turn(alone.rpartition(text)[2], after.text)
        if not rest:
            raise BadRowError(f"it cannot be told where the model's chat template ends message {index + 1}")
        return after.start + len(rest)


def _common(first: str, second: str) -> str:
    """The longest text with which both begin."""
    for size, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return first[:size]
    return min(first, second, key=len)


def _after(text: str, char: str) -> str:
    return text.partition(char)[2]


def _between(text: str, first: str, second: str) -> str:
    return _after(text, first).partition(second)[0]
