from __future__ import annotations

import errno
import json
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from flock_ray.errors import DataError
from flock_ray.training.data import DataSpec, Example
from flock_ray.training.jsonl import encode, read, resolve

pytestmark = pytest.mark.model

SPEC = DataSpec("jsonl", "", (), 512, 0.1, 30, 1)
SECRET = "zanzibar"


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def assistant(content: str) -> dict[str, str]:
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
    turns = user("Hello?"), assistant("Hi!\n\nHow goes it?"), user("Well."), assistant("  Good, zwölf ünïcode 🦩")
    name, [example] = read(replace(SPEC, path=write(line(*turns, system="Be kind."))), 0, either)
    assert name == "silo"
    assert labelled(example, either) == ("Hi!\n\nHow goes it?<|im_end|>\n  Good, zwölf ünïcode 🦩<|im_end|>\n")
    system = {"role": "system", "content": "Be kind."}
    whole = either.apply_chat_template([system, *turns], tokenize=False)
    assert either.decode(example.input_ids.tolist()) == whole


def test_the_template_may_add_a_system_prompt(smollm2: PreTrainedTokenizerBase) -> None:
    ids, has_loss = encode(smollm2, [user("Hello?"), assistant("Hi")])
    assert smollm2.decode(ids).startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    assert smollm2.decode([token for token, loss in zip(ids, has_loss, strict=True) if loss]) == "Hi<|im_end|>\n"


def test_prompt_is_tokenised_as_it_is_when_the_model_answers(either: PreTrainedTokenizerBase) -> None:
    """An answer that starts with line feeds would merge with the prompt's last one."""
    ids, has_loss = encode(either, [user("Hello?"), assistant("\n\nHi")])
    prompt = either.apply_chat_template([user("Hello?")], add_generation_prompt=True, return_dict=False)
    assert ids[: has_loss.index(True)] == prompt


def test_model_without_a_template_gets_chatml(tiny_model_dir: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    bare = AutoTokenizer.from_pretrained(tiny_model_dir)
    bare.chat_template = None
    turns = [user("Hello?"), assistant("Hi"), user("Well."), assistant("Good")]
    assert encode(bare, turns) == encode(tokenizer, turns)


def test_rows_are_cut_and_dropped(tokenizer: PreTrainedTokenizerBase, write: Write) -> None:
    spec = replace(SPEC, sequence_length=40)
    path = write(
        line(user("a"), assistant("b")),
        line(user("a" * 100), assistant("b")),
        b"",
        line(user("a"), assistant("b" * 99)),
    )
    _, examples = read(replace(spec, path=path), 0, tokenizer)
    assert len(examples) == 2  # the second row's answer lies beyond 40 tokens
    assert all(len(example.input_ids) <= 40 and example.num_labels for example in examples)


def test_windows_files(tokenizer: PreTrainedTokenizerBase, write: Write) -> None:
    marked = write(b"\xef\xbb\xbf" + GOOD + b"\r", GOOD + b"\r")
    _, [first, second] = read(replace(SPEC, path=marked), 0, tokenizer)
    assert first.sample_id == second.sample_id


TURN = r'each turn needs a "role" \(assistant, system, tool, user\) and a text "content"'
HOSTILE = {
    "no JSON": (SECRET.encode(), "malformed JSON"),
    "cut off": (line(user(SECRET), assistant(SECRET))[:-3], "malformed JSON"),
    "two on a line": (GOOD + GOOD, "malformed JSON"),
    "deep": (b'{"conversations":' + b"[" * 200_000, "malformed JSON"),
    "long number": (b'{"conversations": ' + b"9" * 10_000 + b"}", "malformed JSON"),
    "not UTF-8": (b'{"conversations": "' + SECRET.encode() + b'\xff"}', "not UTF-8"),
    "a list": (json.dumps([SECRET]).encode(), 'non-empty list "conversations"'),
    "no conversations": (json.dumps({"text": SECRET}).encode(), 'non-empty list "conversations"'),
    "empty": (line(), 'non-empty list "conversations"'),
    "text for turns": (json.dumps({"conversations": SECRET}).encode(), 'non-empty list "conversations"'),
    "turn is text": (line(SECRET), TURN),
    "unknown role": (line({"role": SECRET, "content": "x"}), TURN),
    "role is a list": (line({"role": [SECRET], "content": "x"}), TURN),
    "no content": (line({"role": "user", "value": SECRET}), TURN),
    "content is a list": (line({"role": "user", "content": [{"type": "text", "text": SECRET}]}), TURN),
    "system is a number": (line(user(SECRET), assistant("x"), system=5), TURN),
    "half a character": (line(user(SECRET), assistant(SECRET + "\ud800")), TURN),
}


@pytest.mark.usefixtures("lifted_recursion_limit")
@pytest.mark.parametrize("case", HOSTILE)
def test_malformed_rows(tokenizer: PreTrainedTokenizerBase, write: Write, case: str) -> None:
    """One line that begins with file and line number; no text of the row, not even in a traceback."""
    bad, message = HOSTILE[case]
    path = write(GOOD, b"", bad, GOOD)
    with pytest.raises(DataError, match=message) as refusal:
        read(replace(SPEC, path=path), 0, tokenizer)
    assert str(refusal.value).startswith(f"{path}:3: ")
    assert "\n" not in str(refusal.value)
    assert SECRET not in "".join(traceback.format_exception(refusal.value))


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('roles must alternate, not ' + messages[0]['content']) }}",
        "{{ messages[0]['content'] + 1 }}",
        "{% for message in messages %}{{ loop.length }}{{ message['content'] }}{% endfor %}",  # changes what was before
    ],
)
def test_templates_that_refuse(tiny_model_dir: Path, write: Write, template: str) -> None:
    picky = AutoTokenizer.from_pretrained(tiny_model_dir)
    picky.chat_template = template
    path = write(line(user(SECRET), assistant("x"), user("y"), assistant("z")))
    with pytest.raises(DataError, match="chat template") as refusal:
        read(replace(SPEC, path=path), 0, picky)
    assert str(refusal.value).startswith(f"{path}:1: ")
    assert SECRET not in "".join(traceback.format_exception(refusal.value))


def test_conversation_that_the_assistant_begins(smollm2: PreTrainedTokenizerBase, write: Write) -> None:
    path = write(line(assistant(SECRET), user("x"), assistant("y")))
    with pytest.raises(DataError, match="chat template") as refusal:
        read(replace(SPEC, path=path), 0, smollm2)
    assert str(refusal.value).startswith(f"{path}:1: ")


@pytest.mark.parametrize("lines", [(), (line(user("nobody answers")),)])
def test_silo_without_an_answer(tokenizer: PreTrainedTokenizerBase, write: Write, lines: tuple[bytes, ...]) -> None:
    path = write(*lines)
    with pytest.raises(DataError, match=rf"\(member 0\) is empty: {len(lines)} rows") as refusal:
        read(replace(SPEC, path=path), 0, tokenizer)
    assert str(refusal.value).startswith(path)


def test_file_that_cannot_be_read(
    tokenizer: PreTrainedTokenizerBase, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    path = write(GOOD)
    monkeypatch.setattr(Path, "open", refuse)  # file modes do not bind root
    with pytest.raises(DataError, match=r"silo\.jsonl \(member 0\) cannot be read: Permission denied"):
        read(replace(SPEC, path=path), 0, tokenizer)


def test_glob_gives_files_in_sorted_order(write: Write, tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl", "c.txt"):
        write(GOOD, name=name)
    pattern = str(tmp_path / "*.jsonl")
    assert [resolve(pattern, member).name for member in (0, 1)] == ["a.jsonl", "b.jsonl"]
    with pytest.raises(DataError, match=r"matches 2 files, none for member 2; lower alliance\.num_members"):
        resolve(pattern, 2)


def test_mapping_names_each_members_file(write: Write, tmp_path: Path) -> None:
    mapping = {1: write(GOOD), "0": str(tmp_path / "gone.jsonl"), 2: str(tmp_path)}
    assert resolve(mapping, 1) == tmp_path / "silo.jsonl"
    with pytest.raises(DataError, match=r"gone\.jsonl \(member 0\) is no file"):
        resolve(mapping, 0)
    with pytest.raises(DataError, match=r"\(member 2\) is no file"):
        resolve(mapping, 2)
    with pytest.raises(DataError, match="no entry for member 3; it names members 0, 1, 2"):
        resolve(mapping, 3)


def test_home_folder_is_understood(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(GOOD)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve("~/silo.jsonl", 0) == resolve({0: "~/silo.jsonl"}, 0) == tmp_path / "silo.jsonl"


@pytest.mark.parametrize("path", ["", "/nowhere/*.jsonl", "~nobody-by-this-name/x.jsonl", None, ["a.jsonl"]])
def test_glob_without_files(path: Any) -> None:
    with pytest.raises(DataError, match="matches no file; give a glob such as") as refusal:
        resolve(path, 0)
    assert "\n" not in str(refusal.value)
