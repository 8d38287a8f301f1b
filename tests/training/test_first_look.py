"""What a first look at a member's data tells, and what it refuses as the run would."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase

from flock_ray.errors import DataError
from flock_ray.training.data import DataSpec
from flock_ray.training.first_look import ROWS, SMALL, look_at_data

pytestmark = pytest.mark.model

SPEC = DataSpec(
    "jsonl", "", ("wsgiref",), 64, 0.1, 200, 1, heldout_sequences=1, max_bad_rows=0, template_date="2025-01-01"
)


def row(question: str, answer: str = "It is so.") -> str:
    return json.dumps({"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]})


def large(folder: Path, *first: str) -> str:
    """A file that is not read whole."""
    (folder / "silo.jsonl").write_text("\n".join([*first, row("a" * SMALL)]))
    return str(folder / "silo.jsonl")


def test_a_small_silo_of_code_is_read(tokenizer: PreTrainedTokenizerBase) -> None:
    """As one of people's own data: what the run would refuse is refused."""
    spec = replace(SPEC, kind="stdlib_code")
    assert "sequences to train on" in look_at_data(spec, 0, tokenizer)
    assert look_at_data(spec, 0, None).endswith(" kB")
    with pytest.raises(DataError, match="silo wsgiref of member 0 is too small"):
        look_at_data(replace(spec, heldout_tokens=100_000_000), 0, tokenizer)


def test_a_small_file_is_read(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    (tmp_path / "silo.jsonl").write_text("\n".join(row(f"{number}?") for number in range(60)))
    spec = replace(SPEC, path=str(tmp_path))
    assert look_at_data(spec, 0, tokenizer).startswith(f"{tmp_path}/silo.jsonl: 60 rows, ")
    with pytest.raises(DataError, match=r"is too small: 60 sequences .* must remain for training$"):
        look_at_data(replace(spec, heldout_tokens=100_000), 0, tokenizer)


def test_a_file_whose_answers_are_mostly_beyond_the_sequence_length_says_so(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    (tmp_path / "silo.jsonl").write_text("\n".join([*(row("a" * 200) for _ in range(50)), row("a")]))
    told = "1 sequences .*; 50 rows more have no assistant's token within data.sequence_length = 64"
    with pytest.raises(DataError, match=told):
        look_at_data(replace(SPEC, path=str(tmp_path)), 0, tokenizer)


def test_a_large_file_that_begins_with_rows_that_are_too_long(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    """The run would go on: the rows after them may be shorter."""
    spec = replace(SPEC, path=large(tmp_path, *[row("a" * 200)] * ROWS))
    assert look_at_data(spec, 0, tokenizer).endswith(
        f"MB, begins with {ROWS} rows, {ROWS} dropped, 0 tokens to learn (none with an assistant's token within"
        " data.sequence_length = 64)"
    )


def test_a_large_file_that_begins_with_bad_rows(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    spec = replace(SPEC, path=large(tmp_path, "1", *[row("a")] * ROWS))
    with pytest.raises(DataError, match=r":1: "):
        look_at_data(spec, 0, tokenizer)
    assert f"begins with {ROWS} rows, 1 bad, " in look_at_data(replace(spec, max_bad_rows=1), 0, tokenizer)
