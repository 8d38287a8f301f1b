from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import peft
import pytest
import torch

from flock_ray.errors import TrainingError
from flock_ray.lora.peft_io import load_adapter, read_adapter
from flock_ray.lora.serialization import Adapter, canonical_bytes
from flock_ray.training.data import Example
from flock_ray.training.engine import TrainSettings
from flock_ray.training.evaluation import mean_loss
from flock_ray.training.loss import collate
from flock_ray.training.model import BaseModel, load_base
from flock_ray.training.torch_engine import TorchEngine
from tests.training.samples import (
    LORA,
    SETTINGS,
    distance,
    losses_of,
    random_batches,
    random_examples,
    starting_adapter,
    tiny_spec,
    train_one,
)

pytestmark = pytest.mark.model


def test_equal_trainings_give_equal_bytes(base: BaseModel, engine: TorchEngine, tiny_model_dir: Path) -> None:
    adapter = starting_adapter(base)
    before = canonical_bytes(adapter)
    first = train_one(engine, adapter, random_batches(), SETTINGS)
    train_one(engine, first.adapter, random_batches(seed=1), SETTINGS)  # leaves nothing behind
    second = train_one(engine, adapter, random_batches(), SETTINGS)
    fresh = train_one(TorchEngine(load_base(tiny_spec(tiny_model_dir)), LORA), adapter, random_batches(), SETTINGS)
    assert canonical_bytes(first.adapter) == canonical_bytes(second.adapter) == canonical_bytes(fresh.adapter)
    assert first.losses == second.losses == fresh.losses
    assert canonical_bytes(adapter) == before


def test_dropout_of_the_base_model_is_off(base: BaseModel, tiny_model_dir: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model_dir, tmp_path / "dropping")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"attention_dropout": 0.5}))
    engine = TorchEngine(load_base(tiny_spec(folder)), LORA)
    adapter = starting_adapter(base)
    first, second = (train_one(engine, adapter, random_batches(), SETTINGS) for _ in range(2))
    assert canonical_bytes(first.adapter) == canonical_bytes(second.adapter)


def plain_loop(folder: Path, adapter: Adapter, batches: list[list[Example]], settings: TrainSettings) -> Adapter:
    """The same training with the losses of transformers, clipping written out, and PEFT's own injection."""
    config = peft.LoraConfig(r=LORA.rank, lora_alpha=LORA.alpha, target_modules="all-linear", task_type="CAUSAL_LM")
    model = peft.get_peft_model(load_base(tiny_spec(folder)).model, config)
    load_adapter(model, adapter)
    factors = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(factors, settings.learning_rate, weight_decay=settings.weight_decay)
    falling = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=settings.steps)
    for batch in batches:
        ids, labels = collate(batch, torch.device("cpu"))
        model(input_ids=ids, labels=labels).loss.backward()
        norm = torch.sqrt(sum((factor.grad**2).sum() for factor in factors))
        for factor in factors:
            factor.grad *= min(1.0, settings.max_grad_norm / float(norm))
        optimizer.step()
        optimizer.zero_grad()
        falling.step()
    return read_adapter(model)


@pytest.mark.parametrize("max_grad_norm", [100.0, 0.05, 1e-8])
def test_equals_a_plain_loop(base: BaseModel, engine: TorchEngine, tiny_model_dir: Path, max_grad_norm: float) -> None:
    adapter, settings = starting_adapter(base), replace(SETTINGS, max_grad_norm=max_grad_norm)
    ours = train_one(engine, adapter, random_batches(), settings)
    theirs = plain_loop(tiny_model_dir, adapter, random_batches(), settings)
    assert distance(ours.adapter, theirs) < 1e-5 < 1e-3 < distance(ours.adapter, adapter)


def test_gradients_are_clipped(base: BaseModel, engine: TorchEngine) -> None:
    """Adam hides a constant factor until gradients fall below its epsilon, 1e-8."""
    adapter, settings = starting_adapter(base), replace(SETTINGS, weight_decay=0.0)
    free = train_one(engine, adapter, random_batches(), settings)
    held = train_one(engine, adapter, random_batches(), replace(settings, max_grad_norm=1e-12))
    assert distance(held.adapter, adapter) < 1e-4 < 1e-2 < distance(free.adapter, adapter)


def test_training_lowers_the_loss(base: BaseModel, engine: TorchEngine) -> None:
    batch = random_examples(4)
    outcome = train_one(engine, starting_adapter(base), [batch] * 20, replace(SETTINGS, steps=20))
    assert outcome.losses[-1] < outcome.losses[0] - 0.5
    assert mean_loss(losses_of(engine, outcome.adapter, batch)) < outcome.losses[-1] + 0.1
    assert outcome.num_tokens == 20 * sum(example.num_labels for example in batch)
    assert outcome.seconds > 0


def test_losses_are_those_of_training(base: BaseModel, engine: TorchEngine) -> None:
    adapter, batch = starting_adapter(base), random_examples(5)
    losses = losses_of(engine, adapter, batch)
    assert [loss.num_tokens for loss in losses] == [example.num_labels for example in batch]
    assert mean_loss(losses) == pytest.approx(train_one(engine, adapter, [batch], SETTINGS).losses[0], abs=1e-5)


def test_mixed_precision_keeps_float32_factors(base: BaseModel, engine: TorchEngine, tiny_model_dir: Path) -> None:
    adapter = starting_adapter(base)
    half = TorchEngine(load_base(tiny_spec(tiny_model_dir, "bfloat16")), LORA)
    outcome = train_one(half, adapter, random_batches(), SETTINGS)
    assert {factor.dtype for factor in outcome.adapter.values()} == {torch.float32}
    assert outcome.losses == pytest.approx(train_one(engine, adapter, random_batches(), SETTINGS).losses, rel=0.02)
    again = train_one(half, adapter, random_batches(), SETTINGS)
    assert canonical_bytes(again.adapter) == canonical_bytes(outcome.adapter)


def test_adapter_of_another_model_is_refused(base: BaseModel, engine: TorchEngine) -> None:
    adapter = starting_adapter(base)
    del adapter[min(adapter)]
    with pytest.raises(ValueError, match="does not fit the model"):
        train_one(engine, adapter, random_batches(), SETTINGS)


def test_diverging_training_is_an_error(base: BaseModel, engine: TorchEngine) -> None:
    adapter, settings = starting_adapter(base), replace(SETTINGS, learning_rate=1e30)
    with pytest.raises(TrainingError, match=r"local step [2-4] is (nan|inf): lower training\.learning_rate"):
        train_one(engine, adapter, random_batches(), settings)
    assert train_one(engine, adapter, random_batches(), SETTINGS).losses  # and nothing of it stays behind


def test_learning_rate_rises_over_a_fifth_and_falls_to_zero() -> None:
    rates = [replace(SETTINGS, steps=15, learning_rate=1.0).rate(step) for step in range(15)]
    assert rates[:3] == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert rates[2:] == pytest.approx([(13 - step) / 13 for step in range(13)])
    assert replace(SETTINGS, steps=1, learning_rate=1.0).rate(0) == 1.0


def test_learning_rate_falls_by_half_a_cosine_over_the_epochs() -> None:
    peaks = [replace(SETTINGS, learning_rate=8.0).of_epoch(epoch, 3).learning_rate for epoch in (1, 2, 3)]
    assert peaks == pytest.approx([8.0, 6.0, 2.0])
