"""What a contest's rows are read from: public files of conversations, dealt to days, to set B and to training nodes."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from flock_ray.errors import DataError
from flock_ray.protocol.contest_scores import Row
from flock_ray.training.contest import contest_rows
from flock_ray.training.data import Example
from flock_ray.training.files import files_of, rows
from flock_ray.training.formats import BadRowError, Conversation
from flock_ray.training.formats import Row as FileRow
from flock_ray.training.labels import Encoder
from flock_ray.training.sql_databases import parse_schema


@dataclass(frozen=True)
class ContestDataSpec:
    """Where rows are and how many are drawn.

    Attributes:
        data: files, folders or globs that rows are drawn from.
        train: those that the training nodes learn from.
        days: of the contest; rows_a_day, final_rows: of each chunk of set A, and of set B.
        max_row_tokens: longer rows are left out.
        template_date: that a chat template is told.
        metric: `text` or `sql`; under `sql` a row is a question with a schema, and counts as one token.
        seed: of the draw.
    """

    data: tuple[str, ...]
    train: tuple[str, ...]
    days: int
    rows_a_day: int
    final_rows: int
    max_row_tokens: int
    template_date: str
    metric: str
    seed: int


@dataclass(frozen=True)
class Question:
    """A row of the metric `sql`: the schema and the question as the model is asked, and the gold query."""

    system: str
    user: str
    gold: str


@dataclass(frozen=True)
class ScoredRow:
    """One row: as it is measured, as everybody knows it, and its question under `sql`."""

    example: Example
    row: Row
    question: Question | None


@dataclass(frozen=True)
class ContestData:
    """The rows of a contest.

    Attributes:
        chunks: of each day, set A.
        final: set B.
    """

    chunks: tuple[tuple[ScoredRow, ...], ...]
    final: tuple[ScoredRow, ...]

    def of(self, day: int, final: bool) -> tuple[ScoredRow, ...]:
        """Rows of a day's chunk, or of set B."""
        return self.final if final else self.chunks[day - 1]


def read_contest(spec: ContestDataSpec, tokenizer: PreTrainedTokenizerBase) -> ContestData:
    """Draw the rows of every day and of set B; each row is used once.

    Raises:
        DataError: a file is missing, a row cannot be read or has no target, or there are too few rows.
    """
    known = list(
        {
            example.sample_id: (example, _question(row, where) if spec.metric == "sql" else None)
            for where, example, row in _read(spec.data, spec, tokenizer, True)
        }.values()
    )
    need = spec.days * spec.rows_a_day + spec.final_rows
    if len(known) < need:
        raise DataError(
            f"contest.data has {len(known)} different rows of at most contest.max_row_tokens ="
            f" {spec.max_row_tokens} tokens; {spec.days} days of {spec.rows_a_day} and set B of"
            f" {spec.final_rows} take {need}"
        )
    random.Random(spec.seed).shuffle(known)
    examples = [example for example, _ in known[:need]]
    facts = contest_rows(examples, tokenizer, "contest.data")
    scored = [
        ScoredRow(example, replace(row, num_tokens=1) if question else row, question)
        for (example, question), row in zip(known[:need], facts, strict=True)
    ]
    chunks = [tuple(scored[day * spec.rows_a_day : (day + 1) * spec.rows_a_day]) for day in range(spec.days)]
    return ContestData(tuple(chunks), tuple(scored[need - spec.final_rows :]))


def read_training(spec: ContestDataSpec, tokenizer: PreTrainedTokenizerBase, scored: ContestData) -> list[Example]:
    """What training nodes learn from, in a seeded order; no row that is scored is among them.

    Raises:
        DataError: nothing is left.
    """
    taken = {one.example.sample_id for rows in (*scored.chunks, scored.final) for one in rows}
    found = {example.sample_id: example for _, example, _ in _read(spec.train, spec, tokenizer, False)}
    examples = [example for name, example in found.items() if name not in taken]
    if not examples:
        raise DataError(f"contest.train has no row of at most {spec.max_row_tokens} tokens that is not scored itself")
    random.Random(spec.seed + 1).shuffle(examples)
    return examples


def node_batches(examples: Sequence[Example], node: int, steps: int, batch_size: int, seed: int) -> list[list[Example]]:
    """A training node's batches, drawn pass by pass in an order of its own."""
    stream, queue = random.Random(seed + node), list[Example]()
    while len(queue) < steps * batch_size:
        passed = list(examples)
        stream.shuffle(passed)
        queue += passed
    return [queue[step * batch_size : (step + 1) * batch_size] for step in range(steps)]


def _read(
    places: Sequence[str], spec: ContestDataSpec, tokenizer: PreTrainedTokenizerBase, scored: bool
) -> Iterator[tuple[str, Example, FileRow]]:
    """(where it stands, as it is scored or learned, as it was read) of each row that is not too long."""
    key = "contest.data" if scored else "contest.train"
    encoder = Encoder(tokenizer, date.fromisoformat(spec.template_date))
    for place in places:
        files = [Path(place).expanduser()] if Path(place).expanduser().is_file() else files_of(place)
        if not files:
            raise DataError(
                f"{key} names {place}, which is no file; give files, folders or globs such as 'data/*.jsonl'"
            )
        for file in files:
            for where, row in rows(file):
                try:
                    if isinstance(row, BadRowError):
                        raise row
                    encoded = encoder.encode(row)
                except BadRowError as bad:
                    raise DataError(f"{where}: {bad}") from None
                if len(encoded.ids) > spec.max_row_tokens:
                    continue
                example = Example.of(encoded.ids, encoded.has_loss)
                if not example.num_labels:
                    raise DataError(f"{where}: no target to score; a contest's rows all have one")
                yield where, example, row


def _question(row: FileRow, where: str) -> Question:
    said = [(one["role"], one["content"]) for one in row.messages] if isinstance(row, Conversation) else []
    if [role for role, _ in said] != ["system", "user", "assistant"]:
        raise DataError(
            f"{where}: metric sql takes conversations of a system text with the schema, a question and its query"
        )
    question = Question(*(str(content) for _, content in said))
    if not parse_schema(question.system).tables:
        raise DataError(f"{where}: metric sql: the system text has no line of the form table(column type, ...)")
    return question
