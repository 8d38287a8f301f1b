from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from flock_ray.errors import TrainingError
from flock_ray.lora.peft_io import LoraSpec, inject, load_adapter
from flock_ray.lora.serialization import LORA_A, Adapter, canonical_bytes
from flock_ray.training.data import Example
from flock_ray.training.engine import Engine, LossJob, MemberJob, TrainOutcome
from flock_ray.training.loss import CausalLoss, collate
from flock_ray.training.model import BaseModel, load_base
from flock_ray.training.stacked_engine import StackedEngine, StackedOptions
from flock_ray.training.torch_engine import TorchEngine
from tests.training.samples import (
    LORA,
    SETTINGS,
    adapters_of,
    distance,
    ragged_jobs,
    random_examples,
    starting_adapter,
    tiny_spec,
)

pytestmark = pytest.mark.model

BACKENDS = ("sequential", "stacked", "grouped")
ONE_BATCH = ("stacked", "grouped")


def make(backend: str, folder: Path, dtype: str = "float32", spec: LoraSpec = LORA) -> Engine:
    base = load_base(tiny_spec(folder, dtype))
    if backend == "sequential":
        return TorchEngine(base, spec)
    return StackedEngine(base, spec, StackedOptions(grouped=backend == "grouped"))


@pytest.fixture(scope="module")
def trainers(tiny_model_dir: Path) -> dict[str, Engine]:
    return {name: make(name, tiny_model_dir) for name in BACKENDS}


def gradients(cohort: StackedEngine, adapters: list[Adapter], batches: list[list[Example]]) -> list[Adapter]:
    """Each member's gradient in PEFT's layout, from one backward pass of the cohort."""
    stack = cohort.adapters
    stack.load(adapters)
    cohort.member_losses(batches).sum().backward()
    stack.collect_gradients()
    stack.weights = torch.nn.Parameter(stack.gradient)
    return stack.read()


def solo_gradient(folder: Path, adapter: Adapter, batch: list[Example]) -> Adapter:
    """By PEFT, with nobody else in the batch."""
    model = inject(load_base(tiny_spec(folder)).model, LORA)
    load_adapter(model, adapter)
    loss = CausalLoss(model, torch.float32)(*collate(batch, torch.device("cpu"))).sum()
    (loss / sum(example.num_labels for example in batch)).backward()
    return {
        name.replace(".default.", "."): parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


def vmapped_gradients(base: BaseModel, adapters: list[Adapter], batches: list[list[Example]]) -> list[Adapter]:
    """By `torch.func.vmap` over an unmodified model with the products merged in; all batches of one shape."""
    weights = {name: parameter.detach() for name, parameter in base.model.named_parameters()}

    def loss(adapter: Adapter, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        merged = dict(weights)
        for key, factor in adapter.items():
            if ".lora_A." in key:
                name = key.removeprefix("base_model.model.").replace("lora_A.", "")
                merged[name] = weights[name] + LORA.alpha / LORA.rank * adapter[key.replace("_A.", "_B.")] @ factor
        logits = torch.func.functional_call(base.model, merged, (ids,), {"use_cache": False}).logits
        nll = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")
        return nll / (labels[:, 1:] != -100).sum()

    stacked = {key: torch.stack([adapter[key] for adapter in adapters]) for key in adapters[0]}
    ids, labels = (torch.stack(part) for part in zip(*(collate(b, torch.device("cpu")) for b in batches), strict=True))
    gradients = torch.func.vmap(torch.func.grad(loss))(stacked, ids, labels)
    return [{key: value[member] for key, value in gradients.items()} for member in range(len(adapters))]


def relative(left: Adapter, right: Adapter) -> float:
    """Largest difference of an entry, over the largest entry of its factor."""
    assert left.keys() == right.keys()
    return max(float((left[k] - right[k]).abs().max() / right[k].abs().max()) for k in left)


@pytest.mark.parametrize("backend", ONE_BATCH)
def test_gradients_are_those_of_solo_training(
    trainers: dict[str, StackedEngine], base: BaseModel, tiny_model_dir: Path, backend: str
) -> None:
    adapters = adapters_of(base, 4)
    batches = [random_examples(rows, seed=rows) for rows in (3, 1, 2, 3)]
    ours = gradients(trainers[backend], adapters, batches)
    for member, (adapter, batch) in enumerate(zip(adapters, batches, strict=True)):
        assert relative(ours[member], solo_gradient(tiny_model_dir, adapter, batch)) < 1e-5


@pytest.mark.parametrize("backend", ONE_BATCH)
def test_gradients_are_those_of_vmap(trainers: dict[str, StackedEngine], base: BaseModel, backend: str) -> None:
    adapters = adapters_of(base, 3)
    batches = [random_examples(2, seed=member) for member in range(3)]
    theirs = vmapped_gradients(base, adapters, batches)
    for mine, other in zip(gradients(trainers[backend], adapters, batches), theirs, strict=True):
        assert relative(mine, other) < 1e-5


def test_members_meet_only_themselves(trainers: dict[str, StackedEngine], base: BaseModel) -> None:
    """Whoever else is in the cohort, a member's gradient is the same to rounding, NaN neighbours included."""
    adapters, batches = adapters_of(base, 2), [random_examples(2, seed=member) for member in range(2)]
    broken = {key: torch.full_like(factor, math.nan) for key, factor in adapters[1].items()}
    for backend in ONE_BATCH:
        [beside, _] = gradients(trainers[backend], adapters, batches)
        [by_itself] = gradients(trainers[backend], adapters[:1], batches[:1])
        [beside_nan, _] = gradients(trainers[backend], [adapters[0], broken], batches)
        assert relative(beside, by_itself) < 1e-5
        assert canonical_bytes(beside) == canonical_bytes(beside_nan)


@pytest.mark.parametrize("backend", ONE_BATCH)
def test_ragged_cohort_trains_as_one_after_the_other(
    trainers: dict[str, Engine], base: BaseModel, backend: str
) -> None:
    jobs = ragged_jobs(base)
    ours, theirs = (trainers[name].train(jobs) for name in (backend, "sequential"))
    for job, mine, other in zip(jobs, ours, theirs, strict=True):
        assert isinstance(mine, TrainOutcome)
        assert isinstance(other, TrainOutcome)
        assert mine.losses == pytest.approx(other.losses, rel=1e-4)
        assert mine.num_tokens == other.num_tokens
        assert distance(mine.adapter, other.adapter) < 1e-4 < 1e-3 < distance(mine.adapter, job.adapter)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_frozen_a_stays_to_the_last_bit_and_b_trains_as_one_after_the_other(
    base: BaseModel, tiny_model_dir: Path, dtype: str
) -> None:
    """Neither weight decay nor momentum moves it, and clipping does not count its gradient."""
    spec, jobs = replace(LORA, freeze_a=True), ragged_jobs(base)
    assert any(job.settings.weight_decay for job in jobs)
    trained = {name: make(name, tiny_model_dir, dtype, spec).train(jobs) for name in BACKENDS}
    for name, outcomes in trained.items():
        for job, mine, other in zip(jobs, outcomes, trained["sequential"], strict=True):
            assert isinstance(mine, TrainOutcome) and isinstance(other, TrainOutcome)
            assert list(mine.adapter) == sorted(job.adapter)
            for key, factor in mine.adapter.items():
                assert torch.equal(factor, job.adapter[key]) == key.endswith(LORA_A), (name, key)
            if dtype == "float32":
                assert mine.losses == pytest.approx(other.losses, rel=1e-4)
                assert distance(mine.adapter, other.adapter) < 1e-4


@pytest.mark.parametrize("backend", ONE_BATCH)
def test_equal_cohorts_give_equal_bytes(trainers: dict[str, Engine], base: BaseModel, backend: str) -> None:
    first, second = (trainers[backend].train(ragged_jobs(base)) for _ in range(2))
    for outcome, other in zip(first, second, strict=True):
        assert isinstance(outcome, TrainOutcome)
        assert isinstance(other, TrainOutcome)
        assert canonical_bytes(outcome.adapter) == canonical_bytes(other.adapter)


@pytest.mark.parametrize("backend", BACKENDS)
def test_diverging_member_stops_alone(trainers: dict[str, Engine], base: BaseModel, backend: str) -> None:
    jobs = ragged_jobs(base)
    wild = replace(jobs[1], settings=replace(jobs[1].settings, learning_rate=1e30))
    calm, error, calm_too = trainers[backend].train([jobs[0], wild, jobs[2]])
    assert isinstance(error, TrainingError)
    assert re.fullmatch(
        r"the (loss|gradient norm) of local step 2 is (nan|inf): lower training\.learning_rate", str(error)
    )
    for mine, other in zip((calm, calm_too), trainers[backend].train([jobs[0], jobs[2]]), strict=True):
        assert isinstance(mine, TrainOutcome)
        assert isinstance(other, TrainOutcome)
        assert distance(mine.adapter, other.adapter) < 1e-4


def test_mixed_precision_keeps_float32_factors(
    trainers: dict[str, Engine], base: BaseModel, tiny_model_dir: Path
) -> None:
    jobs = ragged_jobs(base)
    exact = trainers["sequential"].train(jobs)
    for backend in ONE_BATCH:
        half = make(backend, tiny_model_dir, "bfloat16")
        for mine, other in zip(half.train(jobs), exact, strict=True):
            assert isinstance(mine, TrainOutcome)
            assert isinstance(other, TrainOutcome)
            assert {factor.dtype for factor in mine.adapter.values()} == {torch.float32}
            assert mine.losses == pytest.approx(other.losses, rel=0.02)


def test_nothing_below_the_first_adapted_layer_has_a_gradient(tiny_model_dir: Path, base: BaseModel) -> None:
    spec = LoraSpec(4, 8, ("layers.1.mlp.up_proj",))
    fresh = load_base(tiny_spec(tiny_model_dir))
    cohort = StackedEngine(fresh, spec, StackedOptions())
    shapes = {key: f for key, f in starting_adapter(base).items() if "layers.1.mlp.up_proj" in key}
    model = fresh.model
    assert isinstance(model, LlamaForCausalLM)
    seen: dict[str, bool] = {}

    def note(name: str) -> Callable[..., None]:
        return lambda module, args, output: seen.update({name: output.requires_grad})

    for name, module in model.named_modules():
        if name.endswith(("layers.0.mlp", "layers.1.mlp.gate_proj", "layers.1.mlp")):
            module.register_forward_hook(note(name))
    cohort.adapters.load([shapes])
    cohort.member_losses([random_examples(2)]).sum().backward()
    assert seen == {"model.layers.0.mlp": False, "model.layers.1.mlp.gate_proj": False, "model.layers.1.mlp": True}


@pytest.mark.deep
def test_compiled_layers_change_rounding_only(
    trainers: dict[str, Engine], base: BaseModel, tiny_model_dir: Path
) -> None:
    batches = [random_examples(2)] * SETTINGS.steps  # one shape is compiled once
    jobs = [MemberJob(adapter, batches, SETTINGS) for adapter in adapters_of(base, 2)]
    compiled = StackedEngine(load_base(tiny_spec(tiny_model_dir)), LORA, StackedOptions(compiled=True)).train(jobs)
    for mine, other in zip(compiled, trainers["stacked"].train(jobs), strict=True):
        assert isinstance(mine, TrainOutcome)
        assert isinstance(other, TrainOutcome)
        assert distance(mine.adapter, other.adapter) < 1e-4


@pytest.mark.parametrize("backend", ONE_BATCH)
def test_checkpointing_changes_no_gradient(
    trainers: dict[str, StackedEngine], base: BaseModel, tiny_model_dir: Path, backend: str
) -> None:
    adapters, batches = adapters_of(base, 2), [random_examples(rows, seed=rows) for rows in (3, 2)]
    options = StackedOptions(grouped=backend == "grouped", checkpointing=True)
    again = StackedEngine(load_base(tiny_spec(tiny_model_dir)), LORA, options)
    calls = count_calls(again)
    for mine, other in zip(
        gradients(again, adapters, batches), gradients(trainers[backend], adapters, batches), strict=True
    ):
        assert relative(mine, other) < 1e-6
    assert calls == [2]  # of a layer: forward, and once more in backward


def count_calls(engine: StackedEngine) -> list[int]:
    calls = [0]

    def note(*_: object) -> None:
        calls[0] += 1

    engine.loss.model.get_decoder().layers[0].self_attn.register_forward_hook(note)
    return calls


@pytest.mark.parametrize("backend", ONE_BATCH)
@pytest.mark.parametrize("max_tokens", [1, 100, 10_000])
def test_losses_of_many_adapters_are_those_of_each(
    trainers: dict[str, Engine], base: BaseModel, tiny_model_dir: Path, backend: str, max_tokens: int
) -> None:
    """Jobs of unequal rows, in passes of few tokens or all at once."""
    jobs = [LossJob(adapter, random_examples(2 + 3 * k, seed=k)) for k, adapter in enumerate(adapters_of(base, 3))]
    options = StackedOptions(grouped=backend == "grouped", max_tokens=max_tokens)
    ours = StackedEngine(load_base(tiny_spec(tiny_model_dir)), LORA, options).losses(jobs)
    for mine, other, job in zip(ours, trainers["sequential"].losses(jobs), jobs, strict=True):
        assert [loss.nll for loss in mine] == pytest.approx([loss.nll for loss in other], rel=1e-5)
        assert [loss.num_tokens for loss in mine] == [example.num_labels for example in job.examples]


@pytest.mark.parametrize("backend", BACKENDS)
def test_progress_is_told_step_by_step(trainers: dict[str, Engine], base: BaseModel, backend: str) -> None:
    ticks: list[int] = []
    jobs = ragged_jobs(base)
    trainers[backend].train(jobs, lambda: ticks.append(1))
    assert len(ticks) == sum(len(job.batches) for job in jobs)
    ticks.clear()
    trainers[backend].losses([LossJob(job.adapter, job.batches[0]) for job in jobs], lambda: ticks.append(1))
    assert len(ticks) == len(jobs)
