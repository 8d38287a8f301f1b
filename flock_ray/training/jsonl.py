"""Silos of people's own conversations and texts, one file per member, or one data set of the Hugging Face hub.

`formats.py` has the shapes of rows, `files.py` the kinds of files, `labels.py` what is learned of a row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import date
from itertools import islice
from typing import Any

from transformers import PreTrainedTokenizerBase

from flock_ray.errors import DataError
from flock_ray.training.counts import RowCounts
from flock_ray.training.data import DataSpec, Example, Reading
from flock_ray.training.files import entry, resolve, rows, stem
from flock_ray.training.formats import BadRowError, Row, read_row
from flock_ray.training.labels import Encoder
from flock_ray.training.tables import hub_rows


def read(spec: DataSpec, member: int, tokenizer: PreTrainedTokenizerBase) -> Reading:
    """The member's file, its rows cut to `sequence_length`; those left without a token to learn are dropped.

    Raises:
        DataError: the file is missing or empty, or more of its rows are bad than `max_bad_rows`; names file and line.
    """
    file = resolve(spec.path, member)
    return _encoded(spec, member, tokenizer, stem(file), str(file), rows(file))


def read_first(spec: DataSpec, member: int, tokenizer: PreTrainedTokenizerBase, count: int) -> Reading:
    """As `read`, of at most `count` rows."""
    file = resolve(spec.path, member)
    return _encoded(spec, member, tokenizer, stem(file), str(file), islice(rows(file), count))


def read_hub(spec: DataSpec, member: int, tokenizer: PreTrainedTokenizerBase) -> Reading:
    """The member's data set of the Hugging Face hub, as `read` does with a file.

    Raises:
        DataError: as `read`; or the data set cannot be loaded.
    """
    if not isinstance(spec.path, Mapping):
        raise DataError("data.path must name each member's data set: data.path={0:ORG/NAME:train,1:…}")
    name = entry(spec.path, member)
    return _encoded(spec, member, tokenizer, name, name, _hub_rows(name))


def _hub_rows(name: str) -> Iterator[tuple[str, Row | BadRowError]]:
    for number, value in enumerate(hub_rows(name), start=1):
        where = f"{name}: row {number}"
        try:
            yield where, read_row(value)
        except BadRowError as bad:
            yield where, bad


def _encoded(
    spec: DataSpec, member: int, tokenizer: PreTrainedTokenizerBase, name: str, where: str,
    read_rows: Iterable[tuple[str, Row | BadRowError]],
) -> Reading:  # fmt: skip
    encoder, length = Encoder(tokenizer, date.fromisoformat(spec.template_date)), spec.sequence_length
    examples: list[Example] = []
    counts = dict.fromkeys(("read", "bad", "dropped", "cut", "rewritten"), 0)
    first_bad = ""
    for place, row in read_rows:
        counts["read"] += 1
        try:
            encoded = encoder.encode(_good(row))
        except BadRowError as bad:
            counts["bad"] += 1
            first_bad = first_bad or f"{place}: {bad}"
            if counts["bad"] > spec.max_bad_rows:
                rows_before = f" (the first of {counts['bad']} bad rows; data.max_bad_rows = {spec.max_bad_rows})"
                raise DataError(first_bad + rows_before * (spec.max_bad_rows > 0)) from None
            continue
        example = Example.of(encoded.ids[:length], encoded.has_loss[:length])
        if not example.num_labels:
            counts["dropped"] += 1
            continue
        counts["cut"] += len(encoded.ids) > length
        counts["rewritten"] += encoded.rewritten
        examples.append(example)
    if not examples:
        raise DataError(first_bad or _nothing_learned(where, member, counts, length))
    return Reading(name, examples, RowCounts(**counts, target_tokens=sum(one.num_labels for one in examples)))


def _good(row: Row | BadRowError) -> Row:
    if isinstance(row, BadRowError):
        raise row
    return row


def _nothing_learned(where: str, member: int, counts: Mapping[str, Any], length: int) -> str:
    return (
        f"{where} (member {member}) is empty: {counts['read']} rows, none with an assistant's token within"
        f" data.sequence_length = {length}"
    )
