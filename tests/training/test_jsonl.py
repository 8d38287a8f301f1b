"""A member's file as examples, and what became of its rows."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from flock_ray.errors import DataError
from flock_ray.training.counts import RowCounts
from flock_ray.training.data import DataSpec, Example, load_silo
from flock_ray.training.jsonl import read, read_hub

pytestmark = pytest.mark.model

SPEC = DataSpec("jsonl", "", (), 512, 0.1, 30, 1, heldout_sequences=1, max_bad_rows=0, template_date="2025-01-01")
SECRET = "zanzibar"


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


def line(*turns: Any, **fields: Any) -> bytes:
    return json.dumps({"conversations": list(turns), **fields}).encode()


GOOD = line(user("List the singers."), assistant("SELECT name FROM singer"), system="You write SQL.")


def labelled(example: Example, tokenizer: PreTrainedTokenizerBase) -> str:
    return str(tokenizer.decode(example.input_ids[example.labels != -100].tolist()))


Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def made(*lines: bytes, name: str = "silo.jsonl") -> str:
        (tmp_path / name).write_bytes(b"\n".join(lines) + b"\n")
        return str(tmp_path / name)

    return made


@pytest.fixture(params=["tokenizer", "smollm2"])
def either(request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    """The tests' own tokenizer, and the packaged model's with its real chat template."""
    tokenizer: PreTrainedTokenizerBase = request.getfixturevalue(request.param)
    return tokenizer


def test_loss_is_on_the_assistants_text_alone(either: PreTrainedTokenizerBase, write: Write) -> None:
    turns = user("Hello?"), assistant("Hi!\n\nHow goes it?"), user("Well."), assistant("Good, zwölf ünïcode 🦩 ")
    reading = read(replace(SPEC, path=write(line(*turns, system="Be kind."))), 0, either)
    [example] = reading.examples
    assert reading.name == "silo"
    assert labelled(example, either) == "Hi!\n\nHow goes it?<|im_end|>\nGood, zwölf ünïcode 🦩 <|im_end|>\n"
    system = {"role": "system", "content": "Be kind."}
    assert either.decode(example.input_ids.tolist()) == either.apply_chat_template([system, *turns], tokenize=False)
    assert reading.counts == RowCounts(read=1, target_tokens=example.num_labels)


def test_rows_are_cut_and_dropped_and_counted(tokenizer: PreTrainedTokenizerBase, write: Write) -> None:
    path = write(
        line(user("a"), assistant("b")),
        line(user("a" * 100), assistant("b")),
        b"",
        line(user("a"), assistant("b" * 99)),
        line(user("nobody answers")),
    )
    reading = read(replace(SPEC, path=path, sequence_length=40), 0, tokenizer)
    assert len(reading.examples) == 2  # the second row's answer lies beyond 40 tokens
    assert all(len(example.input_ids) <= 40 and example.num_labels for example in reading.examples)
    targets = sum(example.num_labels for example in reading.examples)
    assert reading.counts == RowCounts(read=4, cut=1, dropped=2, target_tokens=targets)


def test_what_the_template_leaves_out_is_counted(tiny_model_dir: Path, write: Write) -> None:
    from transformers import AutoTokenizer

    from tests.conftest import CHATML

    trimming = AutoTokenizer.from_pretrained(tiny_model_dir)
    trimming.chat_template = CHATML.replace("message['content']", "message['content'] | trim")
    path = write(line(user("a "), assistant("b")), line(user("a"), assistant("b")))
    assert read(replace(SPEC, path=path), 0, trimming).counts.rewritten == 1


def test_windows_files(tokenizer: PreTrainedTokenizerBase, write: Write) -> None:
    marked = write(b"\xef\xbb\xbf" + GOOD + b"\r", GOOD + b"\r")
    first, second = read(replace(SPEC, path=marked), 0, tokenizer).examples
    assert first.sample_id == second.sample_id


HOSTILE = {
    "no JSON": (SECRET.encode(), "malformed JSON"),
    "not UTF-8": (b'{"conversations": "' + SECRET.encode() + b'\xff"}', "not UTF-8"),
    "deep": (b'{"conversations":' + b"[" * 200_000, "malformed JSON"),
    "unknown shape": (json.dumps({"question": SECRET}).encode(), "keys found: question; rows with one of these are"),
    "unknown role": (line({"role": SECRET + "!", "content": "x"}), "turn 1 has the role of another kind"),
    "an image": (line(user([{"type": "image_url", "image_url": SECRET}])), "content part of type image_url"),
    "several parts": (
        line(user([{"type": "text", "text": SECRET}] * 2), assistant("x")),
        "the model's chat template takes one text a message",
    ),
    "tools": (line(user(SECRET), assistant("x"), tools=[{"name": "f"}]), "chat template leaves the tools out"),
    "half a character": (line(user(SECRET), assistant(SECRET + "\ud800")), "half a character"),
}


@pytest.mark.usefixtures("lifted_recursion_limit")
@pytest.mark.parametrize("case", HOSTILE)
def test_bad_rows(tokenizer: PreTrainedTokenizerBase, write: Write, case: str) -> None:
    """One line that begins with file and line number; no text of the row, not even in a traceback."""
    bad, message = HOSTILE[case]
    path = write(GOOD, b"", bad, GOOD)
    with pytest.raises(DataError) as refusal:
        read(replace(SPEC, path=path), 0, tokenizer)
    assert str(refusal.value).startswith(f"{path}:3: ") and message in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert SECRET not in "".join(traceback.format_exception(refusal.value))
    skipped = read(replace(SPEC, path=path, max_bad_rows=1), 0, tokenizer)
    assert (len(skipped.examples), skipped.counts.read, skipped.counts.bad) == (2, 3, 1)


def test_too_many_bad_rows_name_the_first(tokenizer: PreTrainedTokenizerBase, write: Write) -> None:
    path = write(GOOD, b"1", GOOD, b"2", b"x")
    assert read(replace(SPEC, path=path, max_bad_rows=3), 0, tokenizer).counts.bad == 3
    with pytest.raises(DataError) as refusal:
        read(replace(SPEC, path=path, max_bad_rows=2), 0, tokenizer)
    told = "a row must be a JSON object (the first of 3 bad rows; data.max_bad_rows = 2)"
    assert str(refusal.value) == f"{path}:2: {told}"


def test_nothing_but_bad_rows_names_the_first(tokenizer: PreTrainedTokenizerBase, write: Write) -> None:
    path = write(b"1", b"2")
    with pytest.raises(DataError, match=r":1: a row must be a JSON object$"):
        read(replace(SPEC, path=path, max_bad_rows=9), 0, tokenizer)


@pytest.mark.parametrize("lines", [(), (line(user("nobody answers")),)])
def test_silo_without_an_answer(tokenizer: PreTrainedTokenizerBase, write: Write, lines: tuple[bytes, ...]) -> None:
    path = write(*lines)
    with pytest.raises(DataError, match=rf"\(member 0\) is empty: {len(lines)} rows") as refusal:
        read(replace(SPEC, path=path), 0, tokenizer)
    assert str(refusal.value).startswith(path)


def test_a_data_set_a_member(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "train.jsonl").write_bytes(b"\n".join([GOOD] * 3 + [json.dumps({"question": SECRET}).encode()]))
    spec = replace(SPEC, kind="hub", path={0: f"{folder}:train[:3]", 1: str(folder)})
    assert read_hub(spec, 0, tokenizer).counts.read == 3
    with pytest.raises(DataError, match=r": row 4: keys found: question;"):
        read_hub(spec, 1, tokenizer)
    with pytest.raises(DataError, match="no entry for member 2"):
        read_hub(spec, 2, tokenizer)
    with pytest.raises(DataError, match="must name each member's data set"):
        read_hub(replace(spec, path="openai/gsm8k"), 0, tokenizer)


def test_a_silo_has_the_counts(tokenizer: PreTrainedTokenizerBase, write: Write) -> None:
    rows = [line(user(f"{number}?"), assistant(f"It is {number}.")) for number in range(40)]
    silo = load_silo(replace(SPEC, path=write(*rows, b"x"), max_bad_rows=1), 0, tokenizer)
    assert (silo.counts.read, silo.counts.bad) == (41, 1)
    assert silo.counts.target_tokens >= silo.num_train_tokens > 0
