"""Rows of somebody else's contest: taken as validators score them, or refused for what they are not."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flock_ray.cluster.contest_rows import read_rows_of, write_rows
from flock_ray.training.contest_data import ContestData, ContestDataSpec, read_contest
from flock_ray.training.model import BaseModel, load_base
from tests.training.samples import tiny_spec

pytestmark = pytest.mark.model

TEXT2SQL = Path(__file__).parents[1] / "data" / "text2sql"
TOKENS, DATE = 2_000, "2025-01-01"


@pytest.fixture(scope="module")
def base(tiny_model_dir: Path) -> BaseModel:
    return load_base(tiny_spec(tiny_model_dir))


@pytest.fixture(scope="module", params=["text", "sql"])
def written(request: pytest.FixtureRequest, base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(metric, the contest's data, what a run wrote of set B)."""
    spec = ContestDataSpec((str(TEXT2SQL / "singer.jsonl"),), (), 1, 4, 4, TOKENS, DATE, request.param, 5)
    data, folder = read_contest(spec, base.tokenizer), tmp_path_factory.mktemp("run")
    write_rows(folder, data, 1, last=True)
    return request.param, data, (folder / "rows" / "final.json").read_text()


def test_they_are_those_that_validators_score(written: tuple[str, ContestData, str], base: BaseModel) -> None:
    metric, data, text = written
    found = read_rows_of(json.loads(text), [one.row for one in data.final], base, metric, TOKENS, DATE)
    for one, other in zip(found, data.final, strict=True):
        assert (one.row, one.question, one.example.sample_id) == (other.row, other.question, other.example.sample_id)
        assert one.example.labels.tolist() == other.example.labels.tolist()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda v: v["tokens"][1][0].__setitem__(0, 1 << 20), "row 2 holds tokens that the base model does not have"),
        (lambda v: v["tokens"][1][0].__setitem__(0, -1), "row 2 holds tokens that the base model does not have"),
        (lambda v: v["tokens"][1][1].__setitem__(-1, 7), "row 2 holds tokens that the base model does not have"),
        (lambda v: v["tokens"][1][1].__setitem__(-3, -100), "row 2 has other numbers of target tokens or bytes"),
    ],
)
def test_tokens_that_are_not_the_rows_are_refused(
    written: tuple[str, ContestData, str], base: BaseModel, change: Callable[[Any], None], told: str
) -> None:
    metric, data, text = written
    value = json.loads(text)
    change(value)
    rows = [one.row for one in data.final]
    if metric == "sql" and "numbers" in told:  # a row counts one token; its bytes tell
        assert all(row.num_tokens == 1 for row in rows)
    with pytest.raises(ValueError, match=told):
        read_rows_of(value, rows, base, metric, TOKENS, DATE)
    with pytest.raises(ValueError, match="row 1 holds tokens that the base model does not have, or too many"):
        read_rows_of(json.loads(text), rows, base, metric, 3, DATE)
    longer = [replace(rows[0], num_bytes=rows[0].num_bytes + 1), *rows[1:]]
    with pytest.raises(ValueError, match="row 1 has other numbers of target tokens or bytes than its tokens"):
        read_rows_of(json.loads(text), longer, base, metric, TOKENS, DATE)


def test_questions_are_those_of_the_tokens(written: tuple[str, ContestData, str], base: BaseModel) -> None:
    metric, data, text = written
    if metric != "sql":
        return

    def refusal(change: Callable[[list[Any]], object]) -> str:
        value = json.loads(text)
        change(value["questions"])
        with pytest.raises(ValueError) as caught:
            read_rows_of(value, [one.row for one in data.final], base, metric, TOKENS, DATE)
        return str(caught.value)

    for place in range(3):  # schema, question, gold query
        told = refusal(lambda questions, place=place: questions[2].__setitem__(place, "SELECT 1"))  # type: ignore[misc]
        assert told == "the question of row 3 is not that of its tokens"
    assert refusal(lambda questions: questions.pop()) == "it does not hold a question for each row"
    assert refusal(lambda questions: questions[0].pop()) == "the question of row 1 does not read"
