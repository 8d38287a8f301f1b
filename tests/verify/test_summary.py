from __future__ import annotations

from typing import Any

import pytest

from flock_ray.verify.summary import _adversaries

pytestmark = pytest.mark.chain  # it imports an EVM


@pytest.mark.parametrize(
    ("adversary", "named"),
    [
        ({"attack": "sign_flip", "members": [3, 5]}, {3, 5}),
        ({"attack": "none", "members": [3]}, set()),
        ({"attack": "none", "members": None}, set()),
        ({"attack": "none", "members": {3: "nan", 4: "none", 6: "collude"}}, {3, 6}),
        ({}, set()),
        (None, set()),
    ],
)
def test_who_cheats_is_read_of_a_list_and_of_a_mapping(adversary: Any, named: set[int]) -> None:
    assert _adversaries({"adversary": adversary}) == named
