"""Silos of conversations in FLock's format, one JSON object per line, one file per member.

`{"system": "...", "conversations": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}`
with `system` optional. The model's chat template is applied; only the assistant's tokens carry loss.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from flock_ray.errors import DataError
from flock_ray.protocol.encoding import parse_json
from flock_ray.training.data import DataSpec, Example

_ROLES = {"system", "user", "assistant", "tool"}
_MAX_DEPTH = 100  # of nested brackets


def resolve(path: Any, member: int) -> Path:
    """The member's file: file number `member` of a sorted glob, or the entry of a mapping.

    Raises:
        DataError: there is none.
    """
    if isinstance(path, Mapping):
        named = {str(key): value for key, value in path.items()}
        if str(member) not in named:
            raise DataError(f"data.path has no entry for member {member}; it names members {', '.join(sorted(named))}")
        file = Path(os.path.expanduser(str(named[str(member)])))
    else:
        files = sorted(glob.glob(os.path.expanduser(str(path)), recursive=True))
        if not files:
            raise DataError(f"data.path={path!s} matches no file; give a glob such as '/data/*.jsonl'")
        if member >= len(files):
            raise DataError(
                f"data.path={path!s} matches {len(files)} files, none for member {member}; lower alliance.num_members"
            )
        file = Path(files[member])
    if not file.is_file():
        raise DataError(f"data.path: {file} (member {member}) is no file")
    return file


def _turns(line: bytes, where: str) -> list[dict[str, str]]:
    """The conversation in a line as chat messages."""
    try:
        row = parse_json(line.decode("utf-8-sig"), _MAX_DEPTH)
    except UnicodeDecodeError:
        raise DataError(f"{where}: not UTF-8 text") from None
    except ValueError:
        raise DataError(f"{where}: malformed JSON; each line is one JSON object") from None
    if not isinstance(row, dict) or not isinstance(row.get("conversations"), list) or not row["conversations"]:
        raise DataError(f'{where}: expected an object with a non-empty list "conversations"')
    turns = [{"role": "system", "content": row["system"]}] if row.get("system") else []
    turns += row["conversations"]
    if not all(map(_is_turn, turns)):
        raise DataError(f'{where}: each turn needs a "role" ({", ".join(sorted(_ROLES))}) and a text "content"')
    return [{"role": turn["role"], "content": turn["content"]} for turn in turns]


def _is_turn(turn: Any) -> bool:
    """Whether it has a known role and a text that UTF-8 can encode: JSON can contain half a surrogate pair."""
    if not isinstance(turn, dict):
        return False
    role, content = turn.get("role"), turn.get("content")
    whole = isinstance(content, str) and content.encode(errors="ignore").decode() == content
    return whole and isinstance(role, str) and role in _ROLES


def _render(tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]], prompt: bool) -> str:
    """Text of a conversation by the model's chat template, or by ChatML where the model has none."""
    if tokenizer.chat_template:
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=prompt))
    text = "".join(f"<|im_start|>{turn['role']}\n{turn['content']}<|im_end|>\n" for turn in turns)
    return text + "<|im_start|>assistant\n" * prompt


def _pieces(tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]]) -> Iterator[tuple[str, str]]:
    """For each assistant turn, the text before it and its own text: what its rendering adds to its prompt.

    Raises:
        ValueError: the template renders earlier turns differently when later ones follow.
    """
    done = ""
    for index, turn in enumerate(turns):
        if turn["role"] == "assistant":
            before = _render(tokenizer, turns[:index], prompt=True)
            after = _render(tokenizer, turns[: index + 1], prompt=False)
            if not before.startswith(done) or not after.startswith(before):
                raise ValueError("not incremental")
            yield before[len(done) :], after[len(before) :]
            done = after


def encode(tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]]) -> tuple[list[int], list[bool]]:
    """Token ids of a conversation, and which belong to an assistant's turn (its end mark included).

    Prompts and answers are tokenised separately, as when the model answers, so a boundary never falls inside a token.

    Raises:
        Exception: raised by the model's chat template for a conversation that it does not accept.
        ValueError: the template renders earlier turns differently when later ones follow.
    """
    ids: list[int] = []
    has_loss: list[bool] = []
    for pair in _pieces(tokenizer, turns):
        for text, loss in zip(pair, (False, True), strict=True):
            piece = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
            ids.extend(piece)
            has_loss.extend([loss] * len(piece))
    return ids, has_loss


def example(line: bytes, where: str, tokenizer: PreTrainedTokenizerBase, length: int) -> Example:
    """The example in a line, cut to `length` tokens; errors name the place and contain none of its text."""
    turns = _turns(line, where)
    try:
        ids, has_loss = encode(tokenizer, turns)
    except Exception:
        raise DataError(
            f"{where}: the model's chat template does not take this conversation, or writes earlier turns anew"
        ) from None
    return Example.of(ids[:length], has_loss[:length])


def read(spec: DataSpec, member: int, tokenizer: PreTrainedTokenizerBase) -> tuple[str, list[Example]]:
    """The member's conversations, cut to `sequence_length`; those left without an assistant's token are dropped.

    Raises:
        DataError: the file is missing, empty or malformed, naming file and line.
    """
    file = resolve(spec.path, member)
    try:
        with file.open("rb") as lines:
            rows = [
                example(line, f"{file}:{number}", tokenizer, spec.sequence_length)
                for number, line in enumerate(lines, start=1)
                if line.strip()
            ]
    except OSError as error:
        raise DataError(f"data.path: {file} (member {member}) cannot be read: {error.strerror}") from error
    examples = [row for row in rows if row.num_labels]
    if not examples:
        raise DataError(
            f"{file} (member {member}) is empty: {len(rows)} rows, none with an assistant's token within"
            f" data.sequence_length = {spec.sequence_length}"
        )
    return file.stem, examples
