from __future__ import annotations

import math
import shutil
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
import ray
import torch
from safetensors.torch import load_file, save_file
from torch import distributed

from flock_ray.errors import ModelError, TrainingError
from flock_ray.lora.algebra import subtract
from flock_ray.lora.peft_io import adapter_shapes
from flock_ray.lora.serialization import LORA_A, Adapter, canonical_bytes
from flock_ray.training.deepspeed_engine import DeepSpeedEngine, ZeroSpec, load_sharded
from flock_ray.training.engine import Engine, Rendezvous, SequenceLoss, TrainOutcome
from flock_ray.training.evaluation import mean_loss
from flock_ray.training.flops import FlopCounter
from flock_ray.training.model import BaseModel, ModelSpec, load_base
from flock_ray.training.torch_engine import TorchEngine
from tests.training.ranks import Ranks
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

pytestmark = [pytest.mark.ray, pytest.mark.model]

HELD = replace(SETTINGS, learning_rate=3e-3, weight_decay=0.0, max_grad_norm=1e-7)

Answers = tuple[list[SequenceLoss] | TrainOutcome, ...]


def turns(start: Adapter, engine: Engine) -> Answers:
    """What a node asks of an engine: losses, training, losses of the result, others, one that diverges, again.

    Batches of 3 rows split unevenly over two ranks, those of 1 leave a rank without rows; label counts differ by row.
    """
    examples = random_examples(11, seed=9)
    before = losses_of(engine, start, examples)
    first = train_one(engine, start, random_batches(size=3), SETTINGS)
    after = losses_of(engine, first.adapter, examples)
    lonely = train_one(engine, start, random_batches(size=1, seed=1), SETTINGS)
    held = train_one(engine, start, random_batches(size=4, seed=2), HELD)
    with pytest.raises(TrainingError, match=r"local step [2-4] is (nan|inf)"):
        train_one(engine, start, random_batches(size=3), replace(SETTINGS, learning_rate=1e30))
    again = train_one(engine, start, random_batches(size=3), SETTINGS)
    return before, first, after, lonely, held, again


def sharded(folder: Path, dtype: str, zero: ZeroSpec, place: Rendezvous, freeze_a: bool = False) -> DeepSpeedEngine:
    spec = tiny_spec(folder, dtype)
    base = load_sharded(spec, place) if zero.stage == 3 else load_base(spec)
    return DeepSpeedEngine(base, replace(LORA, freeze_a=freeze_a), zero, place)


@pytest.fixture(scope="module")
def start(base: BaseModel) -> Adapter:
    return starting_adapter(base)


def check(ours: Answers, theirs: Answers, tolerance: float, loss_tolerance: float) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        if isinstance(mine, TrainOutcome):
            assert isinstance(other, TrainOutcome)
            assert distance(mine.adapter, other.adapter) <= tolerance
            assert mine.losses == pytest.approx(other.losses, abs=loss_tolerance)
            assert mine.num_tokens == other.num_tokens
        else:
            assert isinstance(other, list)
            assert [loss.num_tokens for loss in mine] == [loss.num_tokens for loss in other]
            assert [loss.nll for loss in mine] == pytest.approx([loss.nll for loss in other], rel=loss_tolerance)


def check_ranks_agree(left: Answers, right: Answers) -> None:
    for mine, other in zip(left, right, strict=True):
        if isinstance(mine, TrainOutcome):
            assert isinstance(other, TrainOutcome)
            assert canonical_bytes(mine.adapter) == canonical_bytes(other.adapter)
            assert (mine.losses, mine.num_tokens) == (other.losses, other.num_tokens)
        else:
            assert mine == other


@pytest.fixture(scope="module")
def alone(tiny_model_dir: Path, start: Adapter) -> Answers:
    return turns(start, TorchEngine(load_base(tiny_spec(tiny_model_dir)), LORA))


@pytest.mark.parametrize(("stage", "threshold"), [(0, 0), (1, 0), (2, 0), (3, 0), (3, 100_000)])
def test_two_ranks_equal_a_single_process(
    ranks: Ranks, alone: Answers, start: Adapter, tiny_model_dir: Path, stage: int, threshold: int
) -> None:
    make = partial(sharded, tiny_model_dir, "float32", ZeroSpec(stage, threshold))
    answers = ranks.ask(make, partial(turns, start))
    check(answers[0], alone, tolerance=1e-3 if stage == 3 else 1e-5, loss_tolerance=1e-4)
    check_ranks_agree(*answers)
    _, first, _, _, held, again = answers[0]
    assert isinstance(first, TrainOutcome) and isinstance(again, TrainOutcome) and isinstance(held, TrainOutcome)
    assert canonical_bytes(first.adapter) == canonical_bytes(again.adapter)
    assert distance(first.adapter, held.adapter) > 1e-2


def one_turn(start: Adapter, engine: Engine) -> Answers:
    trained = train_one(engine, start, random_batches(size=3), SETTINGS)
    return trained, losses_of(engine, trained.adapter, random_examples(3))


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_a_frozen_a_stays_on_two_ranks(ranks: Ranks, start: Adapter, tiny_model_dir: Path, stage: int) -> None:
    make = partial(sharded, tiny_model_dir, "float32", ZeroSpec(stage, 0), freeze_a=True)
    answers = ranks.ask(make, partial(one_turn, start))
    check_ranks_agree(*answers)
    alone = one_turn(start, TorchEngine(load_base(tiny_spec(tiny_model_dir)), replace(LORA, freeze_a=True)))
    check(answers[0], alone, tolerance=1e-3 if stage == 3 else 1e-5, loss_tolerance=1e-4)
    trained, _ = answers[0]
    assert isinstance(trained, TrainOutcome)
    for key, factor in trained.adapter.items():
        assert torch.equal(factor, start[key]) == key.endswith(LORA_A)


@pytest.mark.parametrize("stage", [0, 3])
def test_mixed_precision(ranks: Ranks, tiny_model_dir: Path, start: Adapter, stage: int) -> None:
    """Over a bfloat16 base halves of a batch round differently, and Adam turns that into steps of small entries."""
    answers = ranks.ask(partial(sharded, tiny_model_dir, "bfloat16", ZeroSpec(stage, 0)), partial(turns, start))
    check_ranks_agree(*answers)
    _, first, after, *_ = answers[0]
    _, expected, expected_after, *_ = turns(start, TorchEngine(load_base(tiny_spec(tiny_model_dir, "bfloat16")), LORA))
    assert isinstance(first, TrainOutcome) and isinstance(expected, TrainOutcome)
    assert length(subtract(first.adapter, expected.adapter)) < 0.1 * length(subtract(expected.adapter, start))
    assert first.losses == pytest.approx(expected.losses, rel=5e-3)
    assert isinstance(after, list) and isinstance(expected_after, list)
    assert mean_loss(after) == pytest.approx(mean_loss(expected_after), rel=5e-3)


def length(delta: Adapter) -> float:
    return math.sqrt(sum(float(factor.square().sum()) for factor in delta.values()))


def test_refusal_gives_the_reason(ranks: Ranks, start: Adapter, tiny_model_dir: Path) -> None:
    with pytest.raises(TrainingError, match=r"training\.zero_stage=7 on 2 ranks .* should be 0, 1, 2, 3") as refusal:
        try:
            ranks.ask(partial(sharded, tiny_model_dir, "float32", ZeroSpec(7, 0)), partial(turns, start))
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
    assert "\n" not in str(refusal.value)


class Loaded:
    """A base model as one rank holds it."""

    def __init__(self, spec: ModelSpec, place: Rendezvous) -> None:
        self.base = load_sharded(spec, place)

    def close(self) -> None:
        """Leave the process group."""
        distributed.destroy_process_group()


@dataclass(frozen=True)
class Facts:
    """What a rank knows of a base model: `held` elements of it, and what others are told."""

    held: int
    whole: tuple[int, torch.dtype, bytes]
    shapes: dict[str, tuple[int, ...]]
    flops: FlopCounter


def facts(loaded: Loaded) -> Facts:
    base = loaded.base
    held = 0
    for parameter in base.model.parameters():
        assert parameter.dtype == base.dtype and not parameter.requires_grad
        held += parameter.numel() + (parameter.ds_tensor.numel() if hasattr(parameter, "ds_tensor") else 0)
    whole = (base.num_parameters, base.dtype, base.hashes)
    shapes = adapter_shapes(base.model, LORA.target_modules, LORA.rank)
    return Facts(held, whole, shapes, FlopCounter.of(base.model, LORA))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_rank_holds_its_share_of_the_base_model_from_the_start(
    ranks: Ranks, tiny_model_dir: Path, dtype: str
) -> None:
    spec = tiny_spec(tiny_model_dir, dtype)
    whole = load_base(spec)
    for loaded in ranks.ask(partial(Loaded, spec), facts):
        assert loaded.whole == (whole.num_parameters, whole.dtype, whole.hashes)
        assert loaded.held == pytest.approx(whole.num_parameters / 2, rel=0.01)
        assert loaded.shapes == adapter_shapes(whole.model, LORA.target_modules, LORA.rank)
        assert loaded.flops == FlopCounter.of(whole.model, LORA)


def test_a_sharded_base_model_that_lacks_weights_is_refused(ranks: Ranks, tiny_model_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_dir, folder)
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks weights, model\.layers\.1\.mlp\.up_proj\.weight for one"):
        try:
            ranks.ask(partial(Loaded, tiny_spec(folder)), facts)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
