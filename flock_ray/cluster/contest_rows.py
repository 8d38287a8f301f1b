"""A contest's rows in the run folder, where everybody can score them: `rows/1.json`, …, `rows/final.json`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flock_ray.store.failures import run_folder_errors
from flock_ray.store.files import write_json
from flock_ray.training.contest_data import ContestData, ScoredRow

SCHEMA = "flock_ray/contest_rows/1"


def write_rows(run: Path, data: ContestData, day: int, last: bool) -> None:
    """Write a day's rows, and those of set B if it is the last day."""
    folder = run / "rows"
    with run_folder_errors(folder):
        folder.mkdir(exist_ok=True)
    write_json(folder / f"{day}.json", _value(data.chunks[day - 1]))
    if last:
        write_json(folder / "final.json", _value(data.final))


def _value(rows: Sequence[ScoredRow]) -> dict[str, object]:
    """`rows` as the terms commit to them, and the tokens that each digest is of; questions under `sql`."""
    tokens = [[one.example.input_ids.tolist(), one.example.labels.tolist()] for one in rows]
    value: dict[str, object] = {"schema": SCHEMA, "rows": [one.row.json() for one in rows], "tokens": tokens}
    questions = [[one.question.system, one.question.user, one.question.gold] for one in rows if one.question]
    return value | ({"questions": questions} if questions else {})
