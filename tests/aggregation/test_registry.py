from __future__ import annotations

import pytest
import torch

from flock_ray.aggregation.registry import RULES, get_rule
from flock_ray.errors import ConfigError


def test_mean_weighs_all_alike() -> None:
    assert get_rule("mean").weights([{"x": torch.zeros(1)}] * 3) == (1, 1, 1)


@pytest.mark.parametrize("name", sorted(RULES))
def test_every_rule_gives_usable_weights(name: str) -> None:
    weights = get_rule(name).weights([{"x": torch.ones(2) * value} for value in range(5)])
    assert len(weights) == 5 and min(weights) >= 0 and sum(weights) > 0


def test_unknown_rule_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'median'.*mean"):
        get_rule("median")
