"""A model's chat template, rendered as transformers renders it but for the clock: the date is a given one."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from functools import lru_cache
from typing import Any, NoReturn

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from transformers import PreTrainedTokenizerBase

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""What a model without a template gets; it takes no tools."""

OPEN, CLOSE = "\U0010fffc", "\U0010fffd"
"""Stand around what a template marks with `{% generation %}`: the last code points for private use."""

Messages = Sequence[Mapping[str, Any]]
Spans = tuple[tuple[int, int], ...]


class TemplateRefusal(ValueError):
    """The template raised an error of its own; what it said may hold text of the data, and is not kept."""


class _Generation(Extension):
    """`{% generation %}…{% endgeneration %}`, around what the assistant writes."""

    tags = {"generation"}  # noqa: RUF012  (the name that Jinja looks at)

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

    def _mark(self, caller: Callable[[], str]) -> str:
        return OPEN + caller() + CLOSE


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None,
             separators: tuple[str, str] | None = None, sort_keys: bool = False) -> str:  # fmt: skip
    """As in transformers: Jinja's own would escape what HTML reserves."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


@lru_cache(maxsize=8)
def _compiled(source: str) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    return environment.from_string(source)


class ChatTemplate:
    """The template of a tokenizer on a given day."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, today: date) -> None:
        self._tokenizer = tokenizer
        midnight = datetime(today.year, today.month, today.day)
        self._variables = {
            **tokenizer.special_tokens_map,
            "strftime_now": midnight.strftime,
            "date_string": midnight.strftime("%d %b %Y"),
        }

    def source(self, tools: bool) -> str:
        """The template's text; a model may have one of its own for conversations with tools."""
        if not self._tokenizer.chat_template:
            return CHATML
        return str(self._tokenizer.get_chat_template(tools=[{}] if tools else None))

    def render(self, messages: Messages, tools: Sequence[Any] = (), prompt: bool = False) -> tuple[str, Spans]:
        """The text of a conversation, and where in it the template marks what the assistant writes, if it does.

        Args:
            messages: as `Conversation` has them.
            tools: that the assistant may call.
            prompt: whether the assistant is to answer next.

        Raises:
            TemplateRefusal: the template does not take this conversation.
        """
        try:
            marked = _compiled(self.source(bool(tools))).render(
                messages=[_with_thinking(message) for message in messages],
                tools=list(tools) or None,
                documents=None,
                add_generation_prompt=prompt,
                **self._variables,
            )
        except Exception:  # a template is a program: it raises anything
            raise TemplateRefusal from None
        text, spans, start = "", [], 0
        for part in re.split(f"([{OPEN}{CLOSE}])", marked):
            if part == OPEN:
                start = len(text)
            elif part == CLOSE:
                spans.append((start, len(text)))
            else:
                text += part
        return text, tuple(spans)


def _with_thinking(message: Mapping[str, Any]) -> dict[str, Any]:
    """The message with its reasoning under the other name as well that templates look for."""
    reasoning = message.get("reasoning_content")
    return {**message, "thinking": reasoning} if reasoning is not None else dict(message)
