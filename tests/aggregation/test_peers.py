"""Our rules beside those of byzfl and Flower, on vectors that `benchmarks/peers/robust_rules.py` asked them about."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.aggregation.vectors import combined, made

CASES: list[dict[str, Any]] = json.loads((Path(__file__).parents[1] / "data" / "robust_rules.json").read_text())
ANSWERS = [(number, name) for number, case in enumerate(CASES) for name in case["results"]]


@pytest.mark.parametrize(("number", "name"), ANSWERS, ids=[f"{name}-{number}" for number, name in ANSWERS])
def test_a_rule_gives_what_the_peers_gives(number: int, name: str) -> None:
    case = CASES[number]
    *before, rule = name.split(" ")[1].split("+")
    given = dict.fromkeys(before, 1) | ({"num_malicious": case["f"]} if rule != "coordinate_median" else {})
    assert len(case["vectors"]) >= made(rule, **given).fewest
    ours = combined(rule, np.array(case["vectors"]), **given)
    theirs = np.array(case["results"][name])
    assert np.abs(ours - theirs).max() < 1e-5 * max(1.0, float(np.abs(case["vectors"]).max()))


def test_both_peers_were_asked_about_every_rule() -> None:
    asked: dict[str, set[str]] = {}
    for _, name in ANSWERS:
        peer, rule = name.split(" ")
        asked.setdefault(peer, set()).add(rule.split("+")[-1])
    assert asked["byzfl"] == {"krum", "geometric_median", "centered_clipping", "coordinate_median", "trimmed_mean"}
    assert asked["flower"] == {"krum", "multi_krum", "coordinate_median", "trimmed_mean"}
