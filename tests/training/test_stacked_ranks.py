"""Stacked members on two ranks: members shared out, or the rows of each."""

from __future__ import annotations

import math
import pickle
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from flock_ray.errors import TrainingError
from flock_ray.lora.serialization import canonical_bytes
from flock_ray.training.data import Example
from flock_ray.training.deepspeed_engine import StackedRanks, by_itself
from flock_ray.training.engine import Engine, LossJob, MemberJob, Rendezvous, Result, SequenceLoss, TrainOutcome
from flock_ray.training.model import BaseModel, load_base
from flock_ray.training.stacked_engine import StackedEngine, StackedOptions
from tests.training.ranks import WORLD, Ranks
from tests.training.samples import LORA, adapters_of, distance, ragged_jobs, random_examples, tiny_spec

pytestmark = [pytest.mark.ray, pytest.mark.model]

POISON = 7
"""A token whose embedding is not a number: the rank that holds its row is the only one that meets it."""


def poisoned_base(folder: Path, dtype: str) -> BaseModel:
    base = load_base(tiny_spec(folder, dtype))
    base.model.get_input_embeddings().weight.data[POISON] = math.nan
    return base


def stacked(folder: Path, dtype: str, options: StackedOptions, rows: bool, place: Rendezvous) -> StackedRanks:
    return StackedRanks(poisoned_base(folder, dtype), LORA, options, place, rows)


@dataclass(frozen=True)
class Work:
    """What the ranks are asked: cohorts to train, one after the other, then jobs of losses."""

    cohorts: Sequence[Sequence[MemberJob]]
    losses: Sequence[Sequence[LossJob]]


@dataclass(frozen=True)
class Answers:
    cohorts: list[list[Result]]
    losses: list[list[list[SequenceLoss]]]
    ticks: list[int]


def do(work: Work, engine: Engine) -> Answers:
    """All of the work; `ticks` counts the progress told in each call."""
    ticks: list[int] = []

    def tick() -> None:
        ticks[-1] += 1

    cohorts, losses = [], []
    for jobs in work.cohorts:
        ticks.append(0)
        cohorts.append(engine.train(jobs, tick))
    for measured in work.losses:
        ticks.append(0)
        losses.append(engine.losses(measured, tick))
    return Answers(cohorts, losses, ticks)


def poisoned(job: MemberJob) -> MemberJob:
    """One whose second step holds a poisoned row, the second of two."""
    good, bad = random_examples(2, seed=50)
    bad = replace(bad, input_ids=bad.input_ids.clone().index_fill_(0, torch.tensor([3]), POISON))
    return replace(job, batches=[job.batches[0], [good, bad], *job.batches[2:]])


def harmless(examples: Sequence[Example]) -> list[Example]:
    ids = [example.input_ids for example in examples]
    healed = [row.masked_fill(row == POISON, POISON + 1) for row in ids]
    return [replace(example, input_ids=row) for example, row in zip(examples, healed, strict=True)]


@pytest.fixture(scope="module")
def jobs(base: BaseModel) -> list[MemberJob]:
    """Three members with 1 to 3 rows a step, of unequal lengths, steps and settings."""
    return [replace(job, batches=[harmless(batch) for batch in job.batches]) for job in ragged_jobs(base)]


@pytest.fixture(scope="module")
def work(base: BaseModel, jobs: list[MemberJob]) -> Work:
    """Cohorts: three on two ranks, a lonely member with a lonely row, one that fails, the first again."""
    lonely = replace(jobs[1], batches=[batch[:1] for batch in jobs[1].batches])
    many = [LossJob(a, harmless(random_examples(2 + 3 * k, seed=k))) for k, a in enumerate(adapters_of(base, 5))]
    return Work([jobs, [lonely], [jobs[0], poisoned(jobs[1]), jobs[2]], jobs], [many, many[:1]])


def same(left: Any, right: Any) -> bool:
    """Byte for byte, but for the clock."""
    if isinstance(left, TrainOutcome) and isinstance(right, TrainOutcome):
        facts = [(outcome.losses, outcome.num_tokens, canonical_bytes(outcome.adapter)) for outcome in (left, right)]
        return facts[0] == facts[1]
    if isinstance(left, TrainingError):
        return str(left) == str(right)
    if isinstance(left, list):
        return len(left) == len(right) and all(same(outcome, other) for outcome, other in zip(left, right, strict=True))
    return bool(left == right)


def close(left: Result, right: Result, tolerance: float) -> bool:
    if isinstance(left, TrainOutcome) and isinstance(right, TrainOutcome):
        assert left.num_tokens == right.num_tokens
        assert left.losses == pytest.approx(right.losses, rel=1e-5)
        return distance(left.adapter, right.adapter) < tolerance
    return str(left) == str(right)


@pytest.mark.parametrize("rows", [False, True], ids=["members", "rows"])
@pytest.mark.parametrize("grouped", [False, True], ids=["stacked", "grouped"])
def test_two_ranks_do_the_work_of_one_process(
    ranks: Ranks, work: Work, tiny_model_dir: Path, grouped: bool, rows: bool
) -> None:
    options = StackedOptions(grouped=grouped)
    left, right = ranks.ask(partial(stacked, tiny_model_dir, "float32", options, rows), partial(do, work))
    assert same(left.cohorts, right.cohorts) and same(left.losses, right.losses)
    assert same(left.cohorts[0], left.cohorts[-1])

    alone = StackedEngine(poisoned_base(tiny_model_dir, "float32"), LORA, options)
    expected = do(work, alone)
    for ours, theirs in zip(left.cohorts, expected.cohorts, strict=True):
        for mine, other in zip(ours, theirs, strict=True):
            assert close(mine, other, tolerance=1e-5)
    assert [str(result) for result in left.cohorts[2] if not isinstance(result, TrainOutcome)] == [
        "the loss of local step 2 is nan: lower training.learning_rate"
    ]
    for measured, wanted in zip(left.losses, expected.losses, strict=True):
        for losses, other in zip(measured, wanted, strict=True):
            assert [loss.nll for loss in losses] == pytest.approx([loss.nll for loss in other], rel=1e-5)
            assert [loss.num_tokens for loss in losses] == [loss.num_tokens for loss in other]
    steps = [sum(len(job.batches) for job in cohort) for cohort in work.cohorts]
    for rank in (left, right):
        del rank.ticks[2]  # only who holds the member that stops knows when it did
        assert rank.ticks == [steps[0], steps[1], steps[3], 5, 1]


def test_a_rank_trains_its_members_as_if_there_were_no_others(
    ranks: Ranks, jobs: list[MemberJob], tiny_model_dir: Path
) -> None:
    make = partial(stacked, tiny_model_dir, "float32", StackedOptions(), False)
    [answers, _] = ranks.ask(make, partial(do, Work([jobs], [])))
    alone = StackedEngine(poisoned_base(tiny_model_dir, "float32"), LORA, StackedOptions())
    for rank in range(WORLD):
        assert same(answers.cohorts[0][rank::WORLD], alone.train(jobs[rank::WORLD]))


@pytest.mark.parametrize("rows", [False, True], ids=["members", "rows"])
def test_over_a_bfloat16_base_ranks_agree(
    ranks: Ranks, jobs: list[MemberJob], tiny_model_dir: Path, rows: bool
) -> None:
    make = partial(stacked, tiny_model_dir, "bfloat16", StackedOptions(), rows)
    left, right = ranks.ask(make, partial(do, Work([jobs], [])))
    assert same(left.cohorts, right.cohorts)
    alone = StackedEngine(poisoned_base(tiny_model_dir, "bfloat16"), LORA, StackedOptions())
    for mine, other in zip(left.cohorts[0], alone.train(jobs), strict=True):
        assert isinstance(mine, TrainOutcome) and isinstance(other, TrainOutcome)
        assert mine.losses == pytest.approx(other.losses, rel=1e-2)


def test_what_ranks_tell_each_other_is_as_large_as_the_adapter(tiny_model_dir: Path) -> None:
    base = load_base(tiny_spec(tiny_model_dir))
    jobs = ragged_jobs(base)
    for result in StackedEngine(base, LORA, StackedOptions()).train(jobs):
        assert isinstance(result, TrainOutcome)
        size = len(canonical_bytes(result.adapter))
        assert len(pickle.dumps(by_itself(result))) < 4 * size < len(pickle.dumps(result))
