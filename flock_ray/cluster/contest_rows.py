"""A contest's rows in the run folder, where everybody can score them: `rows/1.json`, …, `rows/final.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

from flock_ray.protocol.contest_scores import Row
from flock_ray.store.failures import run_folder_errors
from flock_ray.store.files import write_json
from flock_ray.training.contest import contest_rows
from flock_ray.training.contest_data import ContestData, Question, ScoredRow
from flock_ray.training.data import IGNORED, Example
from flock_ray.training.formats import BadRowError, Conversation
from flock_ray.training.labels import Encoder
from flock_ray.training.model import BaseModel

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


def read_rows_of(
    value: Mapping[str, Any], rows: Sequence[Row], base: BaseModel, metric: str, max_tokens: int, template_date: str
) -> tuple[ScoredRow, ...]:
    """The rows of a file of somebody else's run, as validators score them.

    Args:
        value: of the file.
        rows: that the terms commit to; their digests are those of the file's tokens.
        base: the contest's base model.
        metric: of the contest; under `sql` the file holds a question for each row.
        max_tokens: of a row.
        template_date: that a chat template is told, YYYY-MM-DD.

    Raises:
        ValueError: tokens that the model does not have, or rows that are not what their tokens or questions give.
    """
    known = base.model.get_input_embeddings().num_embeddings
    examples = []
    for number, (ids, labels) in enumerate(value["tokens"], start=1):
        right = all(0 <= token < known and label in (token, IGNORED) for token, label in zip(ids, labels, strict=True))
        if not right or len(ids) > max_tokens:
            raise ValueError(f"row {number} holds tokens that the base model does not have, or too many")
        examples.append(Example.of(ids, [label != IGNORED for label in labels]))
    counts_one = metric == "sql"
    for number, (row, found) in enumerate(
        zip(rows, contest_rows(examples, base.tokenizer, "tokens"), strict=True), start=1
    ):
        if row != (replace(found, num_tokens=1) if counts_one else found):
            raise ValueError(f"row {number} has other numbers of target tokens or bytes than its tokens")
    questions = _questions(value, examples, base, template_date) if counts_one else [None] * len(examples)
    return tuple(map(ScoredRow, examples, rows, questions))


def _questions(
    value: Mapping[str, Any], examples: Sequence[Example], base: BaseModel, template_date: str
) -> list[Question]:
    """The questions of a file: no digest is theirs, but each must give the tokens of its row.

    Raises:
        ValueError: one does not.
    """
    encoder = Encoder(base.tokenizer, date.fromisoformat(template_date))
    questions = value.get("questions")
    if not isinstance(questions, list) or len(questions) != len(examples):
        raise ValueError("it does not hold a question for each row")
    found = []
    for number, (texts, example) in enumerate(zip(questions, examples, strict=True), start=1):
        try:
            said = Question(*map(str, texts))
            turns = (("system", said.system), ("user", said.user), ("assistant", said.gold))
            messages = tuple({"role": role, "content": content} for role, content in turns)
            encoded = encoder.encode(Conversation(messages, (), (True,) * len(messages)))
        except (TypeError, BadRowError):
            raise ValueError(f"the question of row {number} does not read") from None
        if encoded.ids != example.input_ids.tolist() or encoded.has_loss != (example.labels != IGNORED).tolist():
            raise ValueError(f"the question of row {number} is not that of its tokens")
        found.append(said)
    return found
