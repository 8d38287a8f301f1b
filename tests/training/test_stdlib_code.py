from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase

from flock_ray.errors import DataError
from flock_ray.training.data import IGNORED, DataSpec, load_silo
from flock_ray.training.stdlib_code import read

pytestmark = pytest.mark.model

SPEC = DataSpec(
    "stdlib_code", "", ("json", "wsgiref", "no_such_package", "unittest", "../json", ""), 64, 0.1, 200, 1,
    heldout_sequences=1, max_bad_rows=0, template_date="2025-01-01",
)  # fmt: skip


def test_chunks_of_source_code(tokenizer: PreTrainedTokenizerBase) -> None:
    reading = read(SPEC, 0, tokenizer)
    name, examples = reading.name, reading.examples
    assert name == "json"
    assert {example.num_labels for example in examples} == {64}
    predicted = [token for example in examples for token in example.labels.tolist() if token != IGNORED]
    text = tokenizer.decode([int(examples[0].input_ids[0]), *predicted])  # each token of the package once
    source = "\n".join(file.read_text() for file in sorted(Path(json.__file__).parent.glob("*.py")))
    assert source.startswith(text) and len(text) > 0.95 * len(source)


def test_tests_of_the_library_are_left_out(tokenizer: PreTrainedTokenizerBase) -> None:
    examples = read(SPEC, 3, tokenizer).examples
    text = tokenizer.decode([token for example in examples for token in example.input_ids.tolist()])
    assert "class TestCase" in text
    assert "class Test_TestCase" not in text


def test_silos_of_members(tokenizer: PreTrainedTokenizerBase) -> None:
    first, second = load_silo(SPEC, 0, tokenizer), load_silo(SPEC, 1, tokenizer)
    assert (first.name, second.name) == ("json", "wsgiref")
    again = load_silo(SPEC, 0, tokenizer)
    assert [example.sample_id for example in first.heldout] == [example.sample_id for example in again.heldout]


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (2, r"has no package 'no_such_package' \(member 2\)"),
        (4, r"has no package '\.\./json' \(member 4\)"),
        (5, r"has no package '' \(member 5\)"),
        (6, "data.packages names 6 packages, none for member 6; lower alliance.num_members"),
    ],
)
def test_missing_package(tokenizer: PreTrainedTokenizerBase, member: int, message: str) -> None:
    with pytest.raises(DataError, match=message) as refusal:
        read(SPEC, member, tokenizer)
    assert "\n" not in str(refusal.value)


def test_package_shorter_than_a_chunk(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(DataError, match="silo json of member 0 is too small: 0 sequences"):
        load_silo(replace(SPEC, sequence_length=1_000_000), 0, tokenizer)
