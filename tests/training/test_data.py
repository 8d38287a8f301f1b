from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from flock_ray.errors import DataError
from flock_ray.training.data import IGNORED, DataSpec, Example, Silo, batches, load_silo, split

pytestmark = pytest.mark.model

SPEC = DataSpec(
    "stdlib_code", "", ("json",), 16, heldout_fraction=0.2, heldout_tokens=30, seed=1, heldout_sequences=1,
    max_bad_rows=0, template_date="2025-01-01",
)  # fmt: skip


def rows(number: int, copies: int = 1) -> list[Example]:
    """Rows of 10 tokens, of which 9 are predicted; each stands there `copies` times."""
    return [Example.of([index] * 10, [True] * 10) for index in range(number)] * copies


def ids(examples: tuple[Example, ...]) -> set[bytes]:
    return {example.sample_id for example in examples}


def test_example() -> None:
    example = Example.of([5, 6, 7, 8], [True, False, True, True])
    assert example.input_ids.dtype == example.labels.dtype == torch.long
    assert example.labels.tolist() == [5, IGNORED, 7, 8]
    assert example.num_labels == 2  # nothing comes before the first token
    assert example.sample_id == Example.of([5, 6, 7, 8], [True] * 4).sample_id != Example.of([5], [True]).sample_id


@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=60),
    st.floats(0.01, 0.99),
    st.integers(1, 80),
    st.integers(0, 9),
)
def test_split(kinds: list[int], fraction: float, wanted: int, seed: int) -> None:
    """Rows of few kinds, so that many are copies of others."""
    examples = [Example.of([kind] * (3 + kind % 5), [True] * (3 + kind % 5)) for kind in kinds]
    spec = replace(SPEC, heldout_fraction=fraction, heldout_tokens=wanted, seed=seed)
    try:
        silo = split("x", examples, spec, member=2)
    except DataError as refusal:
        assert "silo x of member 2" in str(refusal)
        return
    assert not ids(silo.train) & ids(silo.heldout)
    tokens = [example.num_labels for example in silo.heldout]
    assert sum(tokens[:-1]) < wanted <= sum(tokens)
    assert len(silo.train) <= len(examples) - int(len(examples) * fraction)
    kept = Counter(example.sample_id for example in silo.train + silo.heldout)
    assert not kept - Counter(example.sample_id for example in examples)
    assert silo.num_train_tokens == sum(example.num_labels for example in silo.train)


def test_sizes_of_the_parts() -> None:
    silo = split("x", rows(100), SPEC, member=0)
    assert (len(silo.train), len(silo.heldout)) == (80, 4)  # 4 x 9 tokens reach 30; the other 16 rest
    silo = split("x", rows(100), replace(SPEC, heldout_tokens=271), member=0)
    assert (len(silo.train), len(silo.heldout)) == (69, 31)  # more than the fraction, to reach heldout_tokens
    assert len(split("x", rows(100, copies=3), SPEC, member=0).train) < 240  # copies of held-out rows do not train


def test_split_depends_on_seed_and_member_alone() -> None:
    first, again = (split("x", rows(50), SPEC, member=0) for _ in range(2))
    assert [example.sample_id for example in first.train] == [example.sample_id for example in again.train]
    assert ids(first.heldout) != ids(split("x", rows(50), SPEC, member=1).heldout)
    assert ids(first.heldout) != ids(split("x", rows(50), replace(SPEC, seed=2), member=0).heldout)


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([], "0 sequences with 0 tokens"),
        (rows(3), "3 sequences with 27 tokens to predict, of which 30 are held out"),
        (rows(4), "4 sequences with 36 tokens"),  # all of them would be held out
        (rows(1, copies=10), "copies of held-out ones"),
    ],
)
def test_too_small_a_silo(examples: list[Example], message: str) -> None:
    with pytest.raises(DataError, match=message):
        split("x", examples, SPEC, member=0)


def test_too_few_heldout_sequences() -> None:
    spec = replace(SPEC, heldout_sequences=5)
    with pytest.raises(DataError, match=r"x of member 3 has 4 held-out sequences for data\.heldout_tokens = 30; it"):
        split("x", rows(100), spec, member=3)
    assert len(split("x", rows(100), replace(spec, heldout_tokens=37), member=3).heldout) == 5


def test_splitting_many_rows_takes_linear_time() -> None:
    examples = [Example.of([index, 1], [True, True]) for index in range(10_000)]
    began = time.process_time()
    silo = split("x", examples, replace(SPEC, heldout_tokens=9_000), member=0)
    assert (len(silo.train), len(silo.heldout)) == (1_000, 9_000)
    assert time.process_time() - began < 10


SILO = Silo("x", tuple(rows(7)), tuple(rows(1)))


def test_batches_pass_over_the_silo() -> None:
    drawn = batches(SILO, steps=7, batch_size=3, seed=5)
    assert [len(batch) for batch in drawn] == [3] * 7
    flat = [example.sample_id for batch in drawn for example in batch]
    for start in (0, 7, 14):
        assert set(flat[start : start + 7]) == ids(SILO.train)
    assert flat[:7] != flat[7:14]


def test_batches_depend_on_the_seed_alone() -> None:
    first, again, other = (
        [[example.sample_id for example in batch] for batch in batches(SILO, 5, 4, seed)] for seed in (1, 1, 2)
    )
    assert first == again != other


def test_batches_larger_than_the_silo() -> None:
    [batch] = batches(SILO, steps=1, batch_size=20, seed=0)
    assert sorted(Counter(example.sample_id for example in batch).values()) == [2] + [3] * 6


def test_sample_digest_is_salted_and_without_order() -> None:
    used = SILO.train[:3]
    digest = SILO.sample_digest(b"salt", used)
    assert len(digest) == 32
    assert digest == SILO.sample_digest(b"salt", used[::-1] + used[:1])
    assert digest != SILO.sample_digest(b"other", used)
    assert digest != SILO.sample_digest(b"salt", SILO.train[:4])


def test_unknown_kind(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(DataError, match=r"data\.kind is 'csv'; it must be one of stdlib_code, jsonl, hub"):
        load_silo(replace(SPEC, kind="csv"), 0, tokenizer)
