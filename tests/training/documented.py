"""The table of formats in docs/data.md: `python -m tests.training.documented` writes it anew."""

from __future__ import annotations

import json
import re
from datetime import date
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from flock_ray.training.formats import BadRowError, format_of, read_row
from flock_ray.training.labels import Encoder
from flock_ray.training.model import prepare_packaged
from tests.training.labelled import answers
from tests.training.test_chat_families import TEMPLATES

PAGE = Path(__file__).parents[2] / "docs" / "data.md"
BEGIN, END = "<!-- table formats -->\n", "<!-- end -->"
TOOLS = [{"name": "rain", "parameters": {}}]
ASKED, SAID = {"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}

ROWS: list[tuple[str, dict[str, Any]]] = [
    ("", {"system": "Be brief.", "conversations": [ASKED, SAID]}),
    ("", {"conversations": [SAID, ASKED, SAID]}),
    ("", {"messages": [ASKED, SAID]}),
    ("", {"messages": [{"role": "user", "content": [{"type": "text", "text": "2+2?"}]}, SAID]}),
    ("", {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "…"}]}, SAID]}),
    ("", {"messages": [ASKED, {**SAID, "weight": 0}, {"role": "user", "content": "3+3?"}, {**SAID, "content": "6"}]}),
    ("", {"conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]}),
    ("", {"instruction": "Add.", "input": "2 and 2", "output": "4"}),
    ("", {"prompt": "2+2=", "completion": "4"}),
    ("", {"prompt": [ASKED], "completion": [SAID]}),
    ("", {"text": "Two and two make four."}),
    (
        "qwen3",
        {
            "tools": json.dumps(TOOLS),
            "conversations": [
                {"role": "user", "content": "Rain?"},
                {"role": "function_call", "content": '{"name": "rain", "arguments": {"in": "Oslo"}}'},
                {"role": "observation", "content": "true"},
                {"role": "assistant", "content": "Yes."},
            ],
        },
    ),
    (
        "llama3_2",
        {
            "tools": [{"type": "function", "function": TOOLS[0]}],
            "messages": [
                {"role": "user", "content": "Rain?"},
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [{"function": {"name": "rain", "arguments": '{"in": "Oslo"}'}}],
                },
            ],
        },
    ),
    ("", {"tools": TOOLS, "messages": [ASKED, SAID]}),
    ("", {"question": "2+2?", "answer": "4"}),
]
"""Name of a chat template that trl ships (none: the packaged model's), and a row."""


def _learned(tokenizer: PreTrainedTokenizerBase, row: dict[str, Any]) -> str:
    try:
        texts = answers(tokenizer, Encoder(tokenizer, date(2025, 1, 1)).encode(read_row(row)))
    except BadRowError as bad:
        return f"refused: {bad}"
    return ", ".join(f"`{json.dumps(text, ensure_ascii=False)}`" for text in texts)


def format_name(row: dict[str, Any]) -> str:
    """Of the format that a row is read as."""
    try:
        return format_of(row).name
    except BadRowError:
        return "another"


def table() -> str:
    """Every row, and what of it is learned."""
    tokenizer = AutoTokenizer.from_pretrained(prepare_packaged())
    own = tokenizer.chat_template
    lines = ["| format | row | chat template | learned |", "|---|---|---|---|"]
    for template, row in ROWS:
        tokenizer.chat_template = TEMPLATES[template] if template else own
        cells = (
            format_name(row),
            f"`{json.dumps(row, ensure_ascii=False)}`",
            template or "SmolLM2",
            _learned(tokenizer, row),
        )
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def page() -> str:
    """The page with the table as it should be."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    assert rest, f"{PAGE} has no table of formats"
    return before + BEGIN + table() + END + re.split(re.escape(END), rest, maxsplit=1)[1]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
