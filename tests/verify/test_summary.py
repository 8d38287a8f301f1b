from __future__ import annotations

from typing import Any

import pytest

from flock_ray.config import AdversaryConfig, AllianceConfig, Config, behaviours
from flock_ray.verify.summary import _adversaries

pytestmark = pytest.mark.chain  # it imports an EVM


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.55, 1.0])
def test_the_verifier_draws_the_same_coalition(share: float) -> None:
    for attack, vote in (("gaussian", ""), ("none", "lazy_vote"), ("alie", "none")):
        config = Config(
            seed=5, alliance=AllianceConfig(num_members=20), adversary=AdversaryConfig(attack, vote, share=share)
        )
        told = {"seed": 5, "alliance": {"num_members": 20}, "adversary": vars(config.adversary)}
        assert _adversaries(told) == set(behaviours(config)) and len(_adversaries(told)) == int(20 * share)


@pytest.mark.parametrize("share", ["0.3", [1], float("nan"), -1, 1e300])
def test_a_share_that_makes_no_sense_names_nobody(share: Any) -> None:
    _adversaries({"seed": 5, "alliance": {"num_members": 20}, "adversary": {"attack": "nan", "share": share}})


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
