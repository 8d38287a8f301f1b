"""What only a GPU can show. Without one these tests are skipped; they need no fixture of the other tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from flock_ray.lora.serialization import Adapter, canonical_bytes
from flock_ray.training.attention import packed_attention
from flock_ray.training.data import Example
from flock_ray.training.device import GPU_ENVIRONMENT, set_deterministic
from flock_ray.training.engine import Engine, LossJob, MemberJob, TrainOutcome
from flock_ray.training.model import BaseModel
from flock_ray.training.packing import pack
from flock_ray.training.stacked_engine import StackedEngine, StackedOptions
from flock_ray.training.torch_engine import TorchEngine
from tests.training.samples import LORA, SETTINGS, adapters_of, distance, ragged_jobs, random_examples

os.environ |= GPU_ENVIRONMENT
pytestmark = [pytest.mark.model, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]

SWITCHES = [StackedOptions(*switches) for switches in product((False, True), repeat=3)]
"""All of grouped, compiled, checkpointing."""


def random_base(device: str, dtype: torch.dtype = torch.float32) -> BaseModel:
    """Two layers with shared key heads; the same weights for all."""
    config = LlamaConfig(
        hidden_size=256, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=64, vocab_size=512, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).to(dtype).requires_grad_(False)
    size = sum(parameter.numel() for parameter in model.parameters())
    return BaseModel(model, None, "random", b"", dtype, size, torch.device(device), Path())


@pytest.fixture
def deterministic() -> Iterator[None]:
    """As nodes compute."""
    usual = torch.utils.deterministic.fill_uninitialized_memory
    set_deterministic(True)
    yield
    set_deterministic(False)
    torch.utils.deterministic.fill_uninitialized_memory = usual


def trained(engine: Engine, jobs: list[MemberJob]) -> list[TrainOutcome]:
    results = engine.train(jobs)
    assert all(isinstance(result, TrainOutcome) for result in results)
    return [result for result in results if isinstance(result, TrainOutcome)]


def apart(left: Adapter, right: Adapter) -> float:
    """Euclidean distance."""
    return sum(float((left[key] - right[key]).square().sum()) for key in left) ** 0.5


def even_jobs(members: int) -> list[MemberJob]:
    """Of one shape in every step, so that layers are compiled once."""
    batches = [random_examples(2, seed=step) for step in range(SETTINGS.steps)]
    return [MemberJob(adapter, batches, SETTINGS) for adapter in adapters_of(random_base("cpu"), members)]


@pytest.fixture(scope="module")
def exact() -> TorchEngine:
    """The reference, in float32 on the CPU."""
    return TorchEngine(random_base("cpu"), LORA)


@pytest.mark.parametrize("lengths", [[70, 3, 128], [64, 64]])
@pytest.mark.parametrize("key_heads", [2, 6])
def test_variable_length_kernel_equals_the_exact_products(lengths: list[int], key_heads: int) -> None:
    examples = [Example.of([1] * length, [True] * length) for length in lengths]
    layer = torch.nn.Identity()
    generator = torch.Generator().manual_seed(1)
    parts = [torch.randn(1, heads, sum(lengths), 64, generator=generator) for heads in (6, key_heads, key_heads)]
    weights = torch.randn(1, sum(lengths), 6, 64, generator=generator)
    results: list[list[torch.Tensor]] = []
    for device, dtype in (("cpu", torch.float32), ("cuda", torch.bfloat16)):
        query, key, value = (x.to(device, dtype).requires_grad_() for x in parts)
        out, _ = packed_attention(layer, query, key, value, None, packed=pack(examples, torch.device(device)))
        slopes = torch.autograd.grad(out, (query, key, value), weights.to(device, dtype))
        results.append([x.detach().float().cpu() for x in (out, *slopes)])
    for reference, half in zip(*results, strict=True):
        assert float((half - reference).norm() / reference.norm()) < 1e-2


@pytest.mark.parametrize("backend", ["sequential", "stacked", "grouped"])
def test_float32_on_the_gpu_is_float32_on_the_cpu(exact: TorchEngine, backend: str) -> None:
    """Members with unequal rows, lengths, steps, rates, decays and clipping."""
    base, jobs = random_base("cuda"), ragged_jobs(random_base("cpu"))
    options = StackedOptions(grouped=backend == "grouped")
    engine = TorchEngine(base, LORA) if backend == "sequential" else StackedEngine(base, LORA, options)
    for mine, other, job in zip(trained(engine, jobs), trained(exact, jobs), jobs, strict=True):
        assert mine.losses == pytest.approx(other.losses, rel=1e-4)
        assert distance(mine.adapter, other.adapter) < 1e-3 < 5e-3 < distance(mine.adapter, job.adapter)


@pytest.mark.parametrize("options", SWITCHES, ids=str)
def test_bfloat16_with_every_switch_follows_the_exact_losses(exact: TorchEngine, options: StackedOptions) -> None:
    jobs = even_jobs(3)
    engine = StackedEngine(random_base("cuda", torch.bfloat16), LORA, options)
    for mine, other, job in zip(trained(engine, jobs), trained(exact, jobs), jobs, strict=True):
        assert mine.losses == pytest.approx(other.losses, rel=0.02)
        assert apart(mine.adapter, other.adapter) < 0.5 * apart(other.adapter, job.adapter)
    scores = [LossJob(outcome.adapter, job.batches[0]) for outcome, job in zip(trained(exact, jobs), jobs, strict=True)]
    for ours, theirs in zip(engine.losses(scores), exact.losses(scores), strict=True):
        assert [loss.nll for loss in ours] == pytest.approx([loss.nll for loss in theirs], rel=0.02)


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("options", SWITCHES[:4], ids=str)
def test_equal_cohorts_give_equal_bytes(options: StackedOptions) -> None:
    def run() -> list[bytes]:
        engine = StackedEngine(random_base("cuda", torch.bfloat16), LORA, options)
        return [canonical_bytes(outcome.adapter) for outcome in trained(engine, even_jobs(3))]

    assert run() == run()


def test_adapters_go_in_and_out_of_the_device_exactly() -> None:
    engine = StackedEngine(random_base("cuda"), LORA, StackedOptions())
    adapters: list[Adapter] = adapters_of(random_base("cpu"), 2)
    engine.adapters.load([adapters[0], adapters[1], adapters[0]])
    read = [canonical_bytes(adapter) for adapter in engine.adapters.read()]
    assert read == [canonical_bytes(adapters[k]) for k in (0, 1, 0)]
