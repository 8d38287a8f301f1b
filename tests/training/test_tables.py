"""Tables and data sets, read by the package `datasets`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from flock_ray.errors import DataError
from flock_ray.training.files import rows
from flock_ray.training.formats import Conversation, PlainText
from flock_ray.training.tables import hub_rows

pytestmark = pytest.mark.model  # importing it takes seconds

MESSAGES = [
    [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}],
    [
        {"role": "user", "content": "Rain?", "name": "Ann"},
        {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": '{"city": "Oslo"}'}}]},
    ],
]


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"messages": MESSAGES, "id": [1, 2]}), tmp_path / "silo.parquet")
    return tmp_path / "silo.parquet"


def test_parquet(parquet: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A column of objects has nulls for what an object lacks; they are read as what is not there."""
    cache = tmp_path / "cache"
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", cache)
    (first, one), (second, two) = rows(parquet)
    assert (first, second) == (f"{parquet}: row 1", f"{parquet}: row 2")
    assert isinstance(one, Conversation) and isinstance(two, Conversation)
    assert one.messages == tuple(MESSAGES[0])
    assert two.messages[0] == {"role": "user", "content": "Rain?", "name": "Ann"}
    call = {"type": "function", "function": {"name": "f", "arguments": {"city": "Oslo"}}}
    assert two.messages[1] == {"role": "assistant", "content": "", "tool_calls": [call]}
    left = [file for file in cache.rglob("*") if file.is_file()]
    assert {file.suffix for file in left} <= {".lock"}  # no copy of the data stays


@pytest.mark.parametrize(("name", "between"), [("silo.csv", ","), ("silo.tsv", "\t")])
def test_csv(tmp_path: Path, name: str, between: str) -> None:
    lines = [between.join(cells) for cells in (("prompt", "completion"), ('"2+2, say"', "four"), ("3+3", "six"))]
    (tmp_path / name).write_text("\n".join(lines) + "\n")
    assert [row for _, row in rows(tmp_path / name)] == [PlainText("2+2, say", "four"), PlainText("3+3", "six")]


@pytest.mark.parametrize("name", ["silo.parquet", "silo.csv"])
def test_a_table_that_does_not_read(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"zanzibar\xff\x00\n\xff,1")
    with pytest.raises(DataError, match=rf"{name} does not read as {name.partition('.')[2]} \(\w+\)$") as refusal:
        list(rows(tmp_path / name))
    assert "zanzibar" not in str(refusal.value)


def test_a_data_set_by_name_split_and_slice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A local folder stands for one of the hub, which no test can reach."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "set"
    folder.mkdir()
    lines: list[dict[str, Any]] = [{"text": f"text {number}"} for number in range(6)]
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (folder / "test.jsonl").write_text(json.dumps({"text": "of the test"}))
    assert list(hub_rows(str(folder))) == lines
    assert list(hub_rows(f"{folder}:test")) == [{"text": "of the test"}]
    assert list(hub_rows(f"{folder}:train[2:4]")) == lines[2:4]
    assert list(hub_rows(f"{folder}:default:train[:50%]")) == lines[:3]
    with pytest.raises(DataError, match=r"the data set .* cannot be loaded: "):
        list(hub_rows(f"{folder}:no_such_split"))


def test_the_missing_package_is_named(parquet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    told = r"is read through the package datasets, which is not installed: pip install 'flock-ray\[datasets\]'"
    with pytest.raises(DataError, match=told):
        list(rows(parquet))
    with pytest.raises(DataError, match=told):
        list(hub_rows("openai/gsm8k"))
