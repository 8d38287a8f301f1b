"""Silos of several kinds in one task."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from flock_ray.errors import DataError
from flock_ray.training.data import DataSpec, load_silo
from flock_ray.training.first_look import look_at_data
from flock_ray.training.mixed import spec_of

pytestmark = pytest.mark.model

SPEC = DataSpec("mixed", {}, (), 64, 0.1, 100, 1, heldout_sequences=1, max_bad_rows=0, template_date="2025-01-01")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "ann.jsonl"
    turns = [[("user", f"count {number}"), ("assistant", f"{number + 1} {number + 2}")] for number in range(40)]
    said = [[{"role": role, "content": content} for role, content in turn] for turn in turns]
    path.write_text("".join(json.dumps({"messages": one}) + "\n" for one in said))
    return path


def test_each_member_has_what_a_task_of_its_kind_would_give_it(rows: Path, tiny_model_dir: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    spec = replace(SPEC, path={0: "stdlib_code:json", "1": f"jsonl:{rows}"})
    code = load_silo(replace(SPEC, kind="stdlib_code", packages=("json",)), 0, tokenizer)
    said = load_silo(replace(SPEC, kind="jsonl", path={1: str(rows)}), 1, tokenizer)
    for member, alone in ((0, code), (1, said)):
        silo = load_silo(spec, member, tokenizer)
        assert (silo.name, silo.counts) == (alone.name, alone.counts)
        for part in ("train", "heldout"):
            ours, theirs = getattr(silo, part), getattr(alone, part)
            assert [one.sample_id for one in ours] == [one.sample_id for one in theirs]
    assert max(len(one.input_ids) for one in code.train) == spec.longest
    assert look_at_data(spec, 0, tokenizer).startswith("json, ")
    assert look_at_data(spec, 1, tokenizer).startswith(f"{rows}: 40 rows")


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/data/*.jsonl", "must name each member's data"),
        ({1: "jsonl:/x"}, "has no entry for member 0"),
        ({0: "/data/ann.jsonl"}, "must begin with one of stdlib_code, jsonl, hub and ':'"),
        ({0: "mixed:jsonl:/x"}, "must begin with one of"),
        ({0: "jsonl:"}, "must begin with one of"),
    ],
)
def test_what_names_no_silo_is_refused(path: object, told: str) -> None:
    with pytest.raises(DataError, match=told):
        spec_of(replace(SPEC, path=path), 0)
