from __future__ import annotations

import json
import time
from enum import Enum
from pathlib import Path

import pytest

from flock_ray.telemetry.events import EventLog


class Colour(Enum):
    red = "r"


def test_an_event_is_one_json_line_with_time_and_kind(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    before = time.time()
    with EventLog(path) as log:
        log.emit(
            "proposal", epoch=1, payload=b"\x01\xff", loss=2.5, colour=Colour.red, many=(1, None), nan=float("nan")
        )
        assert path.read_text().endswith("\n"), "an event is readable as soon as it is written"
        log.emit("line", text="two\nlines")
    first, second = map(json.loads, path.read_text().splitlines())
    assert before - 1 <= first.pop("time") <= time.time() + 1
    assert first == {
        "kind": "proposal", "epoch": 1, "payload": "0x01ff", "loss": 2.5, "colour": "r", "many": [1, None], "nan": None
    }  # fmt: skip
    assert second["text"] == "two\nlines"


def test_a_resumed_run_appends_and_a_torn_line_harms_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"kind":"old"}\n{"kind":"torn')
    with EventLog(path) as log:
        log.emit("new")
    lines = path.read_text().splitlines()
    assert lines[:2] == ['{"kind":"old"}', '{"kind":"torn']
    assert json.loads(lines[2])["kind"] == "new"


def test_what_has_no_plain_form_is_refused_and_leaves_no_half_line(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with EventLog(path) as log, pytest.raises(TypeError, match="object has no plain JSON form"):
        log.emit("bad", thing=object())
    assert path.read_text() == ""
