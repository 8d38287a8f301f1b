"""The files of a model folder: what versions of other tools read in them, and what travels with an adapter."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

_CLASS, _OLDER_CLASS = "TokenizersBackend", "PreTrainedTokenizerFast"  # the same one
_TOKENIZER = (
    "added_tokens.json", "chat_template.jinja", "chat_template.json", "merges.txt", "special_tokens_map.json",
    "spiece.model", "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "vocab.txt",
)  # fmt: skip
_TEMPLATES = "additional_chat_templates/*.jinja"
"""Templates for occasions: one for conversations with tools, say."""


def write_for_older_readers(folder: Path) -> None:
    """Say in a saved model folder what older transformers need, beside what today's reads.

    `rope_theta` at the top level: before version 5 the base of the rotary embedding is read there, and is 10,000
    without it, in silence. A tokenizer class that they know, its template within its configuration, merges as texts.
    `without_older_spellings` takes all of it back.
    """
    path = folder / "config.json"
    config = _object(path)
    _write_object(path, config | _older_rope(config))
    path = folder / "tokenizer_config.json"
    if path.is_file():
        tokenizer = _object(path)
        if tokenizer.get("tokenizer_class") == _CLASS:
            tokenizer["tokenizer_class"] = _OLDER_CLASS
        template = _template(folder)
        _write_object(path, tokenizer | ({} if template is None else {"chat_template": template}))
    path = folder / "tokenizer.json"
    vocabulary = _object(path) if path.is_file() else {"model": {}}
    merges = vocabulary["model"].get("merges", [])
    if merges and not any(isinstance(pair, str) or " " in "".join(pair) for pair in merges):
        vocabulary["model"]["merges"] = [" ".join(pair) for pair in merges]
        _write_object(path, vocabulary)


def without_older_spellings(path: Path, value: dict[str, Any]) -> dict[str, Any]:
    """The object in a file of a model folder, less what only says again what today's transformers reads elsewhere.

    Two folders that differ in such things hold the same model, and have the same hashes.
    """
    value = dict(value)
    if path.name == "config.json":
        for key, said in _older_rope(value).items():
            if value.get(key) == said:
                del value[key]
    elif path.name == "tokenizer_config.json":
        if value.get("tokenizer_class") == _OLDER_CLASS:
            value["tokenizer_class"] = _CLASS
        if "chat_template" in value and value["chat_template"] == _template(path.parent):
            del value["chat_template"]
    elif path.name == "tokenizer.json" and isinstance(model := value.get("model"), dict):
        merges = model.get("merges") or []
        pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in merges]
        value["model"] = model | ({"merges": pairs} if merges else {})
    return value


def _older_rope(config: dict[str, Any]) -> dict[str, Any]:
    """The settings of the rotary embedding where transformers 4 reads them."""
    rope = config.get("rope_parameters")
    if not isinstance(rope, dict) or "rope_theta" not in rope:
        return {}  # it has none, or one for each kind of layer, which only later versions know
    scaling = {key: item for key, item in rope.items() if key != "rope_theta"}
    plain = scaling.get("rope_type", "default") == "default"
    return {"rope_theta": rope["rope_theta"]} | ({} if plain else {"rope_scaling": scaling})


def _template(folder: Path) -> str | None:
    path = folder / "chat_template.jinja"
    return path.read_text() if path.is_file() else None


def _object(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text())
    return value


def _write_object(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def tokenizer_files(folder: Path) -> list[str]:
    """Names, within a model folder, of the files of its tokenizer and its chat templates."""
    found = [folder / name for name in _TOKENIZER if (folder / name).is_file()]
    return [str(path.relative_to(folder)) for path in (*found, *sorted(folder.glob(_TEMPLATES)))]


def copy_tokenizer(folder: Path, target: Path) -> None:
    """Copy the tokenizer and the chat templates of a model folder."""
    for name in tokenizer_files(folder):
        (target / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(folder / name, target / name)


def licence_of(folder: Path) -> str:
    """The licence that the model card in a model folder names, as a hub's identifier; empty without one."""
    card = folder / "README.md"
    if not card.is_file():
        return ""
    head = re.match(r"---\n(.*?\n)---\n", card.read_text(errors="replace"), re.DOTALL)
    named = re.search(r"^license:\s*([\w.-]+)\s*$", head[1], re.MULTILINE) if head else None
    return named[1] if named else ""


def context_length_of(folder: Path) -> int:
    """Positions that the model in a folder has, in tokens; 0 where its configuration names none."""
    config = _object(folder / "config.json")
    text = config.get("text_config")  # of models that read more than text
    for part in (config, text if isinstance(text, dict) else {}):
        for key in ("max_position_embeddings", "n_positions"):
            if type(part.get(key)) is int and part[key] > 0:
                return int(part[key])
    return 0
