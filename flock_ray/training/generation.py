"""Text from a model: with its adapter, or without."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase, TextStreamer

from flock_ray.errors import DataError
from flock_ray.lora.peft_io import LoraSpec, inject, load_adapter
from flock_ray.lora.serialization import Adapter
from flock_ray.training.model import BaseModel

Turns = Sequence[dict[str, str]]
"""A conversation: roles and contents."""

Prompt = str | Turns
"""What is to be answered: a message of the user, or a conversation."""

_CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""For models without a chat template: what conversations of such models train with, too."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen.

    Attributes:
        max_new_tokens: longest answer.
        temperature: 0 for the likeliest token each time.
        top_p: share of the odds among which a token is drawn.
        seed: of what is drawn.
    """

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


def prompt_ids(tokenizer: PreTrainedTokenizerBase, turns: Turns) -> torch.Tensor:
    """Token ids of a conversation up to where the answer begins, [1, tokens].

    Raises:
        DataError: the model's chat template does not take it.
    """
    template = None if tokenizer.chat_template else _CHATML
    try:
        text = tokenizer.apply_chat_template(
            list(turns), tokenize=False, add_generation_prompt=True, chat_template=template
        )
    except Exception as error:  # templates raise anything
        raise DataError(f"the model's chat template does not take this conversation: {error}") from None
    ids: torch.Tensor = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    return ids


def generation_config(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, how: Sampling) -> GenerationConfig:
    """What `generate` is asked for; of the model's own settings only the ends of an answer count."""
    own = getattr(model.generation_config, "eos_token_id", None)
    ends = {*(own if isinstance(own, list) else [own]), tokenizer.eos_token_id} - {None}
    drawn = {"do_sample": True, "temperature": how.temperature, "top_p": how.top_p, "top_k": 0}
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(ends, default=0)
    return GenerationConfig(
        max_new_tokens=how.max_new_tokens, eos_token_id=sorted(ends) or None, pad_token_id=pad, use_cache=True,
        repetition_penalty=1.0, **(drawn if how.temperature else {"do_sample": False}),
    )  # fmt: skip


def batched_answers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], members: int, how: Sampling
) -> list[list[str]]:
    """Answers to prompts, in one batch: for each member, one to each.

    Args:
        model: the rows of a batch are its members', member after member; one that has no members has 1.
        tokenizer: of the model.
        prompts: each the only message of a conversation, or the conversation that an answer is to follow.
        members: how many answer.
        how: tokens are chosen.

    Raises:
        DataError: the model's chat template does not take a message.
    """
    config = generation_config(model, tokenizer, how)
    turns = [[{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt for prompt in prompts]
    ids = [prompt_ids(tokenizer, each)[0] for each in turns]
    longest = max(len(row) for row in ids)
    rows = torch.full((len(ids), longest), config.pad_token_id or 0)
    mask = torch.zeros_like(rows)
    for row, seen, prompt in zip(rows, mask, ids, strict=True):  # on the left, so that all end where the answers begin
        row[longest - len(prompt) :], seen[longest - len(prompt) :] = prompt, 1
    torch.manual_seed(how.seed)
    with torch.no_grad():
        made = model.generate(
            input_ids=rows.repeat(members, 1).to(model.device),
            attention_mask=mask.repeat(members, 1).to(model.device),
            generation_config=config,
        )
    texts = [str(text) for text in tokenizer.batch_decode(made[:, longest:], skip_special_tokens=True)]
    return [texts[first : first + len(ids)] for first in range(0, len(texts), len(ids))]


class Generator:
    """A base model with an adapter, which can be left out."""

    def __init__(self, base: BaseModel, spec: LoraSpec, adapter: Adapter) -> None:
        """Put the adapter into the base model, in place, and move it to its device."""
        self._tokenizer, self._device = base.tokenizer, base.device
        self._model = inject(base.model, spec).to(base.device).eval()
        load_adapter(self._model, adapter)
        self._limit = getattr(base.model.config, "max_position_embeddings", None)

    def answer(
        self, turns: Turns, how: Sampling, adapted: bool = True, emit: Callable[[str], None] = lambda text: None
    ) -> str:
        """The model's answer to a conversation.

        Args:
            turns: the last one is the user's.
            how: tokens are chosen.
            adapted: with the adapter; without it this is the base model.
            emit: gets the text as it comes, piece by piece.

        Raises:
            DataError: the conversation is longer than the model takes, or its template refuses it.
        """
        ids = prompt_ids(self._tokenizer, turns).to(self._device)
        if self._limit and ids.shape[1] + how.max_new_tokens > self._limit:
            raise DataError(
                f"the conversation has {ids.shape[1]} tokens, and with max_new_tokens = {how.max_new_tokens} more than"
                f" the {self._limit} that the model takes"
            )
        torch.manual_seed(how.seed)
        base: Any = nullcontext() if adapted else self._model.disable_adapter()
        with torch.no_grad(), base:
            made = self._model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                generation_config=generation_config(self._model.get_base_model(), self._tokenizer, how),
                streamer=_Stream(self._tokenizer, emit),
            )
        return str(self._tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True))


class _Stream(TextStreamer):  # type: ignore[misc]  # transformers is not analysed
    """Hands on text as soon as it is sure, a word at a time."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, emit: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._emit = emit

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Some more text."""
        if text:
            self._emit(text)
