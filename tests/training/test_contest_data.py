"""Rows of a contest: drawn once each, none of them learned from, and judged by execution where they are questions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from flock_ray.errors import DataError
from flock_ray.lora.algebra import initial_adapter
from flock_ray.lora.foreign import padded, with_rank
from flock_ray.lora.peft_io import adapter_shapes
from flock_ray.lora.serialization import Adapter, canonical_bytes
from flock_ray.training.contest import RowScorer, largest_rank, train_snapshots
from flock_ray.training.contest_data import ContestDataSpec, node_batches, read_contest, read_training
from flock_ray.training.contest_sql import SqlScorer
from flock_ray.training.engine import MemberJob, TrainSettings
from flock_ray.training.model import load_base
from tests.training.samples import tiny_spec

pytestmark = pytest.mark.model

TEXT2SQL = Path(__file__).parents[1] / "data" / "text2sql"


def conversation(number: int) -> dict[str, Any]:
    return {"conversations": [{"role": "user", "content": f"say {number}"},
                              {"role": "assistant", "content": f"it is {number}"}]}  # fmt: skip


def spec_of(folder: Path, rows: int = 12, learned: int = 12, **changes: Any) -> ContestDataSpec:
    """Two days of three rows, four of set B."""
    for name, numbers in (("rows", range(rows)), ("train", range(8, 8 + learned))):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(conversation(one)) + "\n" for one in numbers))
    files = (str(folder / "rows.jsonl"),), (str(folder / "train.jsonl"),)
    return replace(ContestDataSpec(*files, 2, 3, 4, 200, "2025-01-01", "text", 5), **changes)


def test_every_row_is_used_once_and_none_that_is_scored_is_learned_from(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    spec = spec_of(tmp_path)
    data = read_contest(spec, tokenizer)
    assert [len(rows) for rows in (*data.chunks, data.final)] == [3, 3, 4]
    scored = [one.example.sample_id for rows in (*data.chunks, data.final) for one in rows]
    assert len(set(scored)) == 10
    learned = [example.sample_id for example in read_training(spec, tokenizer, data)]
    assert learned and not set(learned) & set(scored)
    again = read_contest(spec, tokenizer)
    assert [one.row for rows in again.chunks for one in rows] == [one.row for rows in data.chunks for one in rows]
    other = read_contest(replace(spec, seed=6), tokenizer)
    assert [one.row for one in other.final] != [one.row for one in data.final]


def test_what_cannot_be_a_contests_data_is_refused_in_a_line(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    spec = spec_of(tmp_path, rows=9)
    with pytest.raises(DataError, match=r"contest.data has 9 different rows .* 2 days of 3 and set B of 4 take 10"):
        read_contest(spec, tokenizer)
    with pytest.raises(DataError, match=r"contest.data has 0 different rows of at most contest.max_row_tokens = 3"):
        read_contest(replace(spec, max_row_tokens=3), tokenizer)
    with pytest.raises(DataError, match=r"contest.data names nowhere, which is no file"):
        read_contest(replace(spec, data=("nowhere",)), tokenizer)
    enough = spec_of(tmp_path)
    with pytest.raises(DataError, match=r"contest.train has no row .* that is not scored itself"):
        read_training(replace(enough, train=()), tokenizer, read_contest(enough, tokenizer))
    (tmp_path / "rows.jsonl").write_text('{"conversations": [{"role": "user", "content": "no answer"}]}\n')
    with pytest.raises(DataError, match=r"rows.jsonl:1: (no target to score|.*assistant)"):
        read_contest(enough, tokenizer)
    with pytest.raises(DataError, match=r"rows.jsonl:1: metric sql takes conversations of a system text"):
        read_contest(spec_of(tmp_path, metric="sql"), tokenizer)
    row = {"system": "no schema", "conversations": [{"role": "user", "content": "q"}]}
    row["conversations"].append({"role": "assistant", "content": "SELECT 1"})  # type: ignore[attr-defined]
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match=r"rows.jsonl:1: metric sql: the system text has no line of the form table"):
        read_contest(replace(enough, metric="sql"), tokenizer)


def test_a_node_draws_its_own_batches_pass_by_pass(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    spec = spec_of(tmp_path)
    examples = read_training(spec, tokenizer, read_contest(spec, tokenizer))
    one, other = (node_batches(examples, node, len(examples), 1, 3) for node in (1, 2))
    names = [[example.sample_id for batch in batches for example in batch] for batches in (one, other)]
    assert names[0] != names[1] and set(names[0]) == set(names[1]) == {example.sample_id for example in examples}


def test_a_snapshot_is_what_so_many_steps_give_whoever_trains_along(
    tiny_model_dir: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    """In a stack of a larger rank, and beside other nodes: only the last bits may differ."""
    spec = spec_of(tmp_path)
    examples = read_training(spec, tokenizer, read_contest(spec, tokenizer))
    settings = TrainSettings(4, 1, 1e-2, 0.0, 1.0)

    def snapshots(nodes: Sequence[int], rank: int) -> list[list[Adapter]]:
        base = load_base(tiny_spec(tiny_model_dir))
        shapes = with_rank(adapter_shapes(base.model, ("all-linear",), 4), 4)
        jobs = [
            MemberJob(initial_adapter(shapes, node), node_batches(examples, node, 4, 1, 3), settings) for node in nodes
        ]
        return train_snapshots(RowScorer(base, ("all-linear",), rank, 2_048), jobs, [2, 4])

    together, alone = snapshots([1, 2], 4), snapshots([1], 8)
    assert [len(each) for each in together] == [2, 2]
    for one, other in zip(together[0], alone[0], strict=True):
        assert largest_rank([other]) == 4
        for key, factor in one.items():
            torch.testing.assert_close(factor, other[key], atol=2e-5, rtol=0)
    first, second = together[0]
    assert canonical_bytes(first) != canonical_bytes(second)


class GoldFor:
    """An engine whose adapter of rank `knows` writes the gold queries, and any other nonsense."""

    def __init__(self, gold: Mapping[str, str], knows: float) -> None:
        self.gold, self.knows = gold, knows

    def answers(
        self, adapters: Sequence[Adapter], tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Any], most: int
    ) -> list[list[str]]:
        [adapter] = adapters
        right = float(next(iter(adapter.values())).flatten()[0]) == self.knows
        texts = [tokenizer.decode(prompt[0]) for prompt in prompts]
        asked = [max((user for user in self.gold if user in text), key=len) for text in texts]
        return [[self.gold[user] if right else "SELECT" for user in asked]]


def test_queries_are_judged_by_what_they_return(tiny_model_dir: Path) -> None:
    base = load_base(tiny_spec(tiny_model_dir))
    spec = ContestDataSpec((str(TEXT2SQL / "museum_visit.jsonl"),), (), 1, 8, 8, 4_096, "2025-01-01", "sql", 5)
    data = read_contest(spec, base.tokenizer)
    questions = [one.question for one in data.chunks[0] if one.question]
    assert len(questions) == 8 and all(one.row.num_tokens == 1 for one in data.chunks[0])
    shapes = with_rank(adapter_shapes(base.model, ("all-linear",), 2), 2)
    scorer = RowScorer(base, ("all-linear",), 2, 2_048)
    knowing, other = ({key: torch.full(shape, value) for key, shape in shapes.items()} for value in (1.0, 2.0))
    sql = SqlScorer(scorer, base.tokenizer, 8, date(2025, 1, 1))
    real = sql.losses({b"a": padded(other, 2)}, questions[:1], questions, bytes(32))
    assert real == {b"a": (1_000_000,)}  # a model of random weights writes no query
    scorer.engine = GoldFor({one.user: one.gold for one in questions}, 1.0)  # type: ignore[assignment]
    losses = sql.losses({b"knowing": knowing, b"other": other}, questions, questions, bytes(32))
    assert losses[b"knowing"] == (0,) * 8
    assert sum(losses[b"other"]) >= 4_000_000  # all but those that cannot tell
    alone = [sql.losses({b"other": other}, [one], questions, bytes(32))[b"other"][0] for one in questions]
    assert tuple(alone) == losses[b"other"]
