from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from flock_ray.lora.algebra import initial_adapter
from flock_ray.lora.peft_io import LoraSpec, adapter_shapes
from flock_ray.lora.serialization import Adapter
from flock_ray.training.data import Example
from flock_ray.training.engine import Engine, LossJob, MemberJob, SequenceLoss, TrainOutcome, TrainSettings
from flock_ray.training.model import BaseModel, ModelSpec

LORA = LoraSpec(4, 8, ("all-linear",))
SETTINGS = TrainSettings(steps=4, batch_size=3, learning_rate=1e-2, weight_decay=0.1, max_grad_norm=5.0)


def tiny_spec(folder: Path, dtype: str = "float32") -> ModelSpec:
    return ModelSpec("folder", str(folder), "main", dtype, "cpu")


def starting_adapter(base: BaseModel) -> Adapter:
    """A zero `lora_B` leaves all `lora_A` without gradient in the first step, so these are random as well."""
    adapter = initial_adapter(adapter_shapes(base.model, LORA.target_modules, LORA.rank), seed=3)
    noise = torch.Generator().manual_seed(4)
    return {key: factor + 0.02 * torch.randn(factor.shape, generator=noise) for key, factor in adapter.items()}


def random_examples(number: int, seed: int = 0, length: int = 24) -> list[Example]:
    """Sequences of unequal lengths with unequal numbers of labels."""
    stream = torch.Generator().manual_seed(seed)
    examples = []
    for index in range(number):
        size = length - 3 * (index % 4)
        ids = torch.randint(3, 512, (size,), generator=stream).tolist()
        examples.append(Example.of(ids, [position >= 5 * (index % 3) for position in range(size)]))
    return examples


def random_batches(steps: int = 4, size: int = 3, seed: int = 0) -> list[list[Example]]:
    return [random_examples(size, seed=100 * seed + step) for step in range(steps)]


def adapters_of(base: BaseModel, number: int) -> list[Adapter]:
    """Adapters that differ from each other and have no zero factor."""
    start = starting_adapter(base)
    noise = torch.Generator().manual_seed(5)
    return [{key: f + 0.02 * torch.randn(f.shape, generator=noise) for key, f in start.items()} for _ in range(number)]


def ragged_jobs(base: BaseModel) -> list[MemberJob]:
    """Members with unequal rows, lengths, steps, rates, decays and clipping."""
    jobs = []
    for member, adapter in enumerate(adapters_of(base, 3)):
        settings = replace(
            SETTINGS,
            steps=2 + member,
            learning_rate=SETTINGS.learning_rate / (1 + member),
            weight_decay=0.1 * member,
            max_grad_norm=(5.0, 0.05, 100.0)[member],
        )
        batches = [random_examples(1 + (member + step) % 3, seed=10 * member + step) for step in range(2 + member)]
        jobs.append(MemberJob(adapter, batches, settings))
    return jobs


def distance(left: Adapter, right: Adapter) -> float:
    """Largest difference of an entry."""
    assert left.keys() == right.keys()
    return max(float((left[key] - right[key]).abs().max()) for key in left)


def train_one(engine: Engine, adapter: Adapter, batches: list[list[Example]], settings: TrainSettings) -> TrainOutcome:
    """One member; what it diverged with is raised."""
    [result] = engine.train([MemberJob(adapter, batches, settings)])
    if not isinstance(result, TrainOutcome):
        raise result
    return result


def losses_of(engine: Engine, adapter: Adapter, examples: list[Example]) -> list[SequenceLoss]:
    [losses] = engine.losses([LossJob(adapter, examples)])
    return losses
