"""Rows and real adapters of the arena's benchmark: text-to-SQL questions, and nodes that train on some of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch
from transformers import PreTrainedTokenizerBase

from benchmarks.common import ROOT
from flock_ray.lora.algebra import initial_adapter
from flock_ray.lora.fixed_point import dequantize, quantize
from flock_ray.lora.peft_io import LoraSpec, adapter_shapes
from flock_ray.lora.serialization import Adapter
from flock_ray.protocol.hashing import sha256
from flock_ray.training import jsonl
from flock_ray.training.data import DataSpec, Example, Silo, batches
from flock_ray.training.engine import MemberJob, TrainOutcome, TrainSettings
from flock_ray.training.model import BaseModel
from flock_ray.training.stacked_engine import StackedEngine, StackedOptions

DATA = ROOT / "tests" / "data" / "text2sql"
DATABASES = ("course_teach", "flight_2", "network_1", "poker_player", "singer")  # rows of about 140 tokens
SPEC = LoraSpec(8, 8, ("all-linear",))
STEPS, RATES = (1, 2, 3, 4), (3e-4, 1e-3, 2e-3, 4e-3)
"""Recipes of the nodes: each number of local steps at each learning rate."""

ONE_START_RATE = 2e-3
_TOGETHER = 4  # nodes that train in one batch: with all, memory would be the limit


@dataclass(frozen=True)
class Questions:
    """Rows to train on and rows to score; no answer is in both.

    Attributes:
        train: of the nodes.
        scored: of the contest's day.
    """

    train: tuple[Example, ...]
    scored: tuple[Example, ...]


def read_questions(tokenizer: PreTrainedTokenizerBase, num_scored: int) -> Questions:
    """The questions of DATABASES in an order that their answers' hashes give, the first ones to be scored."""
    examples: list[Example] = []
    for name in DATABASES:
        spec = DataSpec(
            "jsonl", str(DATA / f"{name}.jsonl"), (), sequence_length=512, heldout_fraction=0.0, heldout_tokens=1,
            seed=0, heldout_sequences=1, max_bad_rows=0, template_date="2026-01-01",
        )  # fmt: skip
        examples += jsonl.read(spec, 0, tokenizer).examples
    answers = [sha256(example.labels[example.labels >= 0].numpy().tobytes()) for example in examples]
    order = sorted(range(len(examples)), key=lambda number: (answers[number], number))
    scored = order[:num_scored]
    seen = {answers[number] for number in scored}
    train = [number for number in order[num_scored:] if answers[number] not in seen]
    return Questions(*(tuple(examples[number] for number in part) for part in (train, scored)))


def train_nodes(base: BaseModel, questions: Questions, num_nodes: int) -> list[Adapter]:
    """Adapters of nodes that trained for STEPS at RATES, each on questions in an order of its own.

    Args:
        base: in float32; adapter layers are put into it.
        questions: to train on.
        num_nodes: how many, spread evenly over the recipes.
    """
    shapes = adapter_shapes(base.model, SPEC.target_modules, SPEC.rank)
    engine = StackedEngine(base, SPEC, StackedOptions())
    recipes = list(product(STEPS, RATES))
    silo = Silo("questions", questions.train, ())
    jobs = []
    for node in range(num_nodes):
        steps, rate = recipes[node * len(recipes) // num_nodes]
        settings = TrainSettings(steps, 1, rate, 0.0, 1.0)
        jobs.append(MemberJob(initial_adapter(shapes, node), batches(silo, steps, 1, node), settings))
    outcomes = [outcome for at in range(0, num_nodes, _TOGETHER) for outcome in engine.train(jobs[at : at + _TOGETHER])]
    assert all(isinstance(outcome, TrainOutcome) for outcome in outcomes)
    return [on_grid(outcome.adapter) for outcome in outcomes if isinstance(outcome, TrainOutcome)]


def train_from_one_start(base: BaseModel, questions: Questions, num_nodes: int, steps: int) -> list[Adapter]:
    """Adapters of nodes that began with the same factors and trained on rows of their own.

    Args:
        base: in float32, without adapter layers, which are put into it.
        questions: to train on.
        num_nodes: how many.
        steps: of each.
    """
    shapes = adapter_shapes(base.model, SPEC.target_modules, SPEC.rank)
    settings = TrainSettings(steps, 1, ONE_START_RATE, 0.0, 1.0)
    silo = Silo("questions", questions.train, ())
    jobs = [
        MemberJob(initial_adapter(shapes, 0), batches(silo, steps, 1, 100 + node), settings)
        for node in range(num_nodes)
    ]
    outcomes = StackedEngine(base, SPEC, StackedOptions()).train(jobs)
    return [on_grid(outcome.adapter) for outcome in outcomes if isinstance(outcome, TrainOutcome)]


def on_grid(adapter: Adapter) -> Adapter:
    """An adapter as its payload holds it."""
    return {key: dequantize(quantize(factor.contiguous())) for key, factor in adapter.items()}


def num_tokens(rows: Sequence[Example]) -> int:
    """Tokens of all rows."""
    return sum(len(row.input_ids) for row in rows)


def scaled(adapter: Adapter, noise: float, seed: int) -> Adapter:
    """An adapter with noise on every factor, relative to its size: another payload that costs as much to score."""
    stream = torch.Generator().manual_seed(seed)
    return on_grid(
        {
            key: factor * (1 + noise * torch.randn(factor.shape, generator=stream))
            for key, factor in sorted(adapter.items())
        }
    )
