"""Adapters, engines and oracles of the tests of serving."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path

import torch
from transformers import GenerationConfig, PreTrainedModel

from flock_ray.lora.peft_io import LoraSpec, adapter_shapes, inject, load_adapter
from flock_ray.lora.serialization import Adapter
from flock_ray.serving.adapters import InMemory
from flock_ray.serving.batching_engine import BatchingEngine, Options
from flock_ray.serving.request import Request, Tokens
from flock_ray.serving.stream import Token
from flock_ray.training.model import BaseModel, load_base
from tests.training.samples import tiny_spec

TODAY = date(2025, 1, 1)
SMALL = Options(rows=4, context_length=192, adapter_slots=4, max_rank=8, step_tokens=24, waiting=64)


def loaded(folder: Path) -> BaseModel:
    return load_base(tiny_spec(folder))


def engine_of(folder: Path, options: Options = SMALL) -> BatchingEngine:
    return BatchingEngine(loaded(folder), options, TODAY)


def spec_of(number: int, targets: tuple[str, ...] = ("all-linear",)) -> LoraSpec:
    """Adapters differ in rank and scaling."""
    return LoraSpec(2 + 2 * (number % 4), 4 + 3 * (number % 3), targets)


def adapter_of(base: BaseModel, number: int, targets: tuple[str, ...] = ("all-linear",)) -> Adapter:
    """Strong enough to answer unlike the base model and all others."""
    spec = spec_of(number, targets)
    drawn = torch.Generator().manual_seed(100 + number)
    shapes = adapter_shapes(base.model, spec.target_modules, spec.rank)
    return {key: torch.randn(shape, generator=drawn) / 5 for key, shape in sorted(shapes.items())}


def source_of(base: BaseModel, number: int, targets: tuple[str, ...] = ("all-linear",)) -> InMemory:
    spec = spec_of(number, targets)
    return InMemory(adapter_of(base, number, targets), spec.alpha / spec.rank)


def prompts(number: int, seed: int = 0, shortest: int = 3, longest: int = 60) -> list[Tokens]:
    drawn = torch.Generator().manual_seed(seed)
    sizes = torch.randint(shortest, longest + 1, (number,), generator=drawn).tolist()
    return [tuple(torch.randint(3, 500, (size,), generator=drawn).tolist()) for size in sizes]


class Oracle:
    """transformers' `generate` with PEFT's unmerged layers, one prompt at a time, in float32."""

    def __init__(self, folder: Path, number: int | None, targets: tuple[str, ...] = ("all-linear",)) -> None:
        base = loaded(folder)
        base.model.generation_config.eos_token_id = None  # go on to the last token, as `greedy` does
        self._model: PreTrainedModel = base.model
        if number is not None:
            adapter = adapter_of(base, number, targets)
            peft_model = inject(base.model, spec_of(number, targets))
            load_adapter(peft_model, adapter)
            self._model = peft_model

    def answer(self, prompt: Sequence[int], tokens: int) -> list[int]:
        ids = torch.tensor([prompt])
        config = GenerationConfig(
            max_new_tokens=tokens, do_sample=False, use_cache=True, pad_token_id=0, eos_token_id=None
        )
        with torch.no_grad():
            made = self._model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config)
        return [int(token) for token in made[0, len(prompt) :]]

    def logprobs(self, ids: Sequence[int]) -> torch.Tensor:
        """[len(ids), vocabulary], of what follows each."""
        with torch.no_grad():
            return torch.log_softmax(self._model(torch.tensor([ids])).logits[0].float(), dim=-1)


def greedy(prompt: Tokens, adapter: bytes | None, tokens: int = 12, tenant: str = "a") -> Request:
    return Request(prompt, adapter, max_tokens=tokens, tenant=tenant, ignore_end=True)


def ids_of(events: Iterable[object]) -> list[int]:
    return [event.id for event in events if isinstance(event, Token) and not event.prompt]
