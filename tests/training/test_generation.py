from __future__ import annotations

from pathlib import Path

import pytest
import torch

from flock_ray.errors import DataError
from flock_ray.training.deepspeed_engine import DeepSpeedEngine
from flock_ray.training.engine import AnsweringEngine, LossJob
from flock_ray.training.generation import Generator, Sampling, batched_answers, prompt_ids
from flock_ray.training.model import BaseModel, load_base
from flock_ray.training.stacked_engine import StackedEngine, StackedOptions
from flock_ray.training.torch_engine import TorchEngine
from tests.training.samples import LORA, adapters_of, random_examples, tiny_spec

pytestmark = pytest.mark.model

PROMPTS = ["import json", "def f(x):\n    return x + 1\n", "z"]


@pytest.fixture
def base(tiny_model_dir: Path) -> BaseModel:
    return load_base(tiny_spec(tiny_model_dir))


def test_every_engine_gives_the_answers_of_one_conversation_alone(base: BaseModel, tiny_model_dir: Path) -> None:
    adapters = adapters_of(base, 2)
    alone = []
    for adapter in adapters:
        speaker = Generator(load_base(tiny_spec(tiny_model_dir)), LORA, adapter)
        alone.append([speaker.answer([{"role": "user", "content": prompt}], Sampling(12)) for prompt in PROMPTS])
    assert alone[0] != alone[1] and len(set(alone[0])) == 3
    for grouped in (False, True):
        engine = StackedEngine(load_base(tiny_spec(tiny_model_dir)), LORA, StackedOptions(grouped))
        jobs = [LossJob(adapter, random_examples(3)) for adapter in adapters]
        before = engine.losses(jobs)
        assert engine.answers(adapters, base.tokenizer, PROMPTS, 12) == alone
        assert engine.losses(jobs) == before, "it attends within packed sequences again"
    assert TorchEngine(base, LORA).answers(adapters, base.tokenizer, PROMPTS, 12) == alone


def test_engines_that_shard_the_base_model_are_not_asked() -> None:
    assert not issubclass(DeepSpeedEngine, AnsweringEngine)
    assert issubclass(StackedEngine, AnsweringEngine) and issubclass(TorchEngine, AnsweringEngine)


def test_a_model_without_a_chat_template_takes_chatml(base: BaseModel) -> None:
    turns = [{"role": "user", "content": "import json"}]
    templated = prompt_ids(base.tokenizer, turns)
    base.tokenizer.chat_template = None
    assert torch.equal(prompt_ids(base.tokenizer, turns), templated), "the tiny model's template is ChatML"
    assert len(batched_answers(base.model, base.tokenizer, PROMPTS, 1, Sampling(4))[0]) == 3
    base.tokenizer.chat_template = "{{ raise_exception('no such turn') }}"
    with pytest.raises(DataError, match="does not take this conversation: no such turn"):
        prompt_ids(base.tokenizer, turns)


def test_a_conversation_longer_than_the_model_takes_is_refused(base: BaseModel) -> None:
    speaker = Generator(base, LORA, adapters_of(base, 1)[0])
    with pytest.raises(DataError, match=r"with max_new_tokens = 510 more than the 512 that the model takes"):
        speaker.answer([{"role": "user", "content": "import json"}], Sampling(510))
