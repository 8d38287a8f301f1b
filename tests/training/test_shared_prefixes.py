"""Rows that begin alike are passed once, and have the losses that they have alone."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from flock_ray.lora.foreign import with_rank
from flock_ray.lora.peft_io import LoraSpec, adapter_shapes
from flock_ray.lora.serialization import Adapter
from flock_ray.training.data import Example
from flock_ray.training.engine import LossJob
from flock_ray.training.model import load_base
from flock_ray.training.shared_prefixes import num_different, pack_shared, passes, tree
from flock_ray.training.stacked_engine import StackedEngine, StackedOptions
from tests.training.samples import tiny_spec

pytestmark = pytest.mark.model

CPU = torch.device("cpu")
SPEC = LoraSpec(4, 4, ("all-linear",))


def branching(number: int, seed: int) -> list[Example]:
    """Rows that leave a common way at random places; labels lie in what is shared too."""
    stream = random.Random(seed)
    rows = [[3, 4, 5]]
    while len(rows) < number:
        way = stream.choice(rows)
        kept = stream.randint(1, len(way))
        rows.append(way[:kept] + [stream.randint(3, 60) for _ in range(stream.randint(0, 12))])
    return [Example.of(ids, [True] + [stream.random() < 0.6 for _ in ids[1:]]) for ids in rows]


def prefixes(rows: list[Example]) -> set[tuple[int, ...]]:
    ids = [tuple(row.input_ids.tolist()) for row in rows]
    return {one[:end] for one in ids for end in range(1, len(one) + 1)}


@pytest.mark.parametrize("seed", range(5))
def test_every_different_beginning_is_one_token_of_the_batch(seed: int) -> None:
    rows = branching(12, seed)
    packed = pack_shared(rows, 2, CPU)
    assert num_different(rows) == len(prefixes(rows)) < sum(len(row.input_ids) for row in rows)
    assert len(packed.input_ids) == 2 * len(prefixes(rows))
    brought = torch.cat([bucket.queries[bucket.real] for bucket in packed.buckets])
    assert sorted(brought.tolist()) == list(range(len(packed.input_ids)))
    for bucket in packed.buckets:
        sizes = bucket.real.sum(dim=1)
        assert 2 * int(sizes.min()) > bucket.queries.shape[1] >= int(sizes.max())


def test_passes_hold_every_row_once_and_at_most_so_many_tokens() -> None:
    rows = branching(30, 9)
    for limit in (1, 20, 64, 10_000):
        parts = list(passes(rows, limit))
        assert sorted(number for part in parts for number in part) == list(range(30))
        assert all(len(part) == 1 or num_different([rows[n] for n in part]) <= limit for part in parts)
    assert len(list(passes(rows, 10_000))) == 1
    assert list(passes([], 10)) == [] and tree([]).shared == ()


@pytest.fixture(scope="module")
def adapters(tiny_model_dir: Path) -> list[Adapter]:
    shapes = adapter_shapes(load_base(tiny_spec(tiny_model_dir)).model, SPEC.target_modules, 1)
    stream = torch.Generator().manual_seed(3)
    return [
        {key: torch.randn(shape, generator=stream) / 8 for key, shape in sorted(with_rank(shapes, SPEC.rank).items())}
        for _ in range(3)
    ]


@pytest.mark.parametrize("max_tokens", [None, 60])
@pytest.mark.parametrize("seed", [0, 1])
def test_losses_are_those_of_rows_that_share_nothing(
    tiny_model_dir: Path, adapters: list[Adapter], seed: int, max_tokens: int | None
) -> None:
    rows = [row for row in branching(14, seed) if row.num_labels]
    rows += rows[:2]  # the same row twice
    engine = StackedEngine(load_base(tiny_spec(tiny_model_dir)), SPEC, StackedOptions(max_tokens=max_tokens))
    shared = engine.shared_losses(adapters, rows)
    plain = engine.losses([LossJob(adapter, rows) for adapter in adapters])
    for own, other in zip(shared, plain, strict=True):
        for row, one, two in zip(rows, own, other, strict=True):
            assert one.num_tokens == two.num_tokens == row.num_labels
            assert one.nll == pytest.approx(two.nll, abs=2e-6 * row.num_labels)
    assert len({tuple(round(one.nll, 3) for one in each) for each in shared}) == 3


def test_a_row_sees_nothing_of_its_neighbours(tiny_model_dir: Path, adapters: list[Adapter]) -> None:
    """A later token of one row changes that row's loss and no other's."""
    start = list(range(5, 25))
    rows = [Example.of([*start, *end], [False] * 20 + [True] * 4) for end in ([7, 8, 9, 10], [7, 8, 30, 31])]
    changed = [rows[0], Example.of([*start, 7, 8, 33, 34], [False] * 20 + [True] * 4)]
    engine = StackedEngine(load_base(tiny_spec(tiny_model_dir)), SPEC, StackedOptions())
    before, after = (engine.shared_losses(adapters[:1], some)[0] for some in (rows, changed))
    assert before[0].nll == pytest.approx(after[0].nll, abs=1e-6)
    assert abs(before[1].nll - after[1].nll) > 1e-3
