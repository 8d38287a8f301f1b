"""Prompts as training saw them: one template, one beginning-of-sequence token."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import date
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from flock_ray.errors import DataError
from flock_ray.serving.request import Tokens
from flock_ray.serving.row import Text
from flock_ray.training.chat_template import ChatTemplate, Messages, TemplateRefusal
from flock_ray.training.generation import Sampling, generation_config


class Prompter:
    """Conversations and texts to token ids."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, today: date) -> None:
        """`today` is what a template is told that asks for the date: the one that the adapters trained with."""
        self._tokenizer, self._template = tokenizer, ChatTemplate(tokenizer, today)
        self._lock = threading.Lock()  # a tokenizer does not encode for two threads at once

    def render(self, messages: Messages, tools: Sequence[Any] = ()) -> Tokens:
        """See `Engine.render`."""
        try:
            text, _ = self._template.render(messages, tools, prompt=True)
        except TemplateRefusal:
            raise DataError("the model's chat template does not take this conversation") from None
        return self._ids(text, special=False)  # the template writes the special tokens itself

    def encode(self, text: str) -> Tokens:
        """See `Engine.encode`."""
        ids, begin = self._ids(text, special=True), self._tokenizer.bos_token_id
        end = self._tokenizer.eos_token_id
        if len(ids) > 1 and ids[-1] == end and begin != end and self._ids("", special=True)[-1:] == (end,):
            ids = ids[:-1]  # an end that the tokenizer adds: the answer goes on from the text
        return ids[1:] if begin is not None and ids[:2] == (begin, begin) else ids

    def _ids(self, text: str, special: bool) -> Tokens:
        with self._lock:
            return tuple(self._tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"])


def writing(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Text:
    """How a model's tokens are written, and which end its answers: the same as for `flock-ray chat`."""

    def decode(tokens: Sequence[int]) -> str:
        return str(tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    ends = generation_config(model, tokenizer, Sampling(1)).eos_token_id or []
    return Text(decode, frozenset(ends))


def reserved_texts(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """Texts that a tokenizer reads as one token of its own wherever they stand, longest first.

    Runs of white space that some tokenizers have as tokens are none of them: they control nothing.
    """
    texts = {str(token) for token in tokenizer.get_added_vocab()} | set(tokenizer.all_special_tokens)
    return tuple(sorted((text for text in texts if text.strip()), key=lambda text: (-len(text), text)))
