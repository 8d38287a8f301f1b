"""docs/events.md against the contracts' ABI: every event with its fields, and no other."""

from __future__ import annotations

import json
import re
from pathlib import Path

from flock_ray.chain.abi import CONTRACTS

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\| `(\w+)` \| (.*?) ?\| (.+) \|$", re.MULTILINE)


def test_every_event_is_documented_with_its_fields_in_their_order() -> None:
    parts = re.split(r"^## (\w+)$", (ROOT / "docs/events.md").read_text(), flags=re.MULTILINE)[1:]
    told = {name: ROW.findall(text) for name, text in zip(parts[::2], parts[1::2], strict=True)}
    assert told.keys() == set(CONTRACTS)
    for name in CONTRACTS:
        abi = json.loads((ROOT / f"flock_ray/chain/artifacts/{name}.json").read_text())["abi"]
        events = {
            entry["name"]: ", ".join(f"`{item['name']}`{'*' * item['indexed']}" for item in entry["inputs"])
            for entry in abi
            if entry["type"] == "event"
        }
        assert {event: fields for event, fields, _ in told[name]} == events, name
        assert len(told[name]) == len(events)
        assert all(len(meaning) > 10 for *_, meaning in told[name])
