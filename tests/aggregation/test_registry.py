from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flock_ray.aggregation.registry import RULES, get_rule, rule_of
from flock_ray.aggregation.rule import Weighting
from flock_ray.aggregation.start import Start
from flock_ray.errors import ConfigError
from flock_ray.lora.algebra import initial_adapter
from flock_ray.lora.serialization import Adapter
from flock_ray.protocol.parameters import filled
from tests.aggregation.rules import WithoutLargest
from tests.aggregation.test_aggregate import SHAPES, random_adapter
from tests.protocol.players import TERMS


def weighting(name: str, updates: list[Adapter]) -> Weighting:
    rule = get_rule(name)(filled(get_rule(name).parameters, {}, "aggregation.parameters"))
    rule.start(Start(initial_adapter(SHAPES, 0)))
    for update in updates:
        rule.add(update)
    return rule.finish()


def test_mean_weighs_all_alike() -> None:
    made = weighting("mean", [random_adapter(seed) for seed in range(3)])
    assert made.weights == (1, 1, 1) and made.denominator == 3


@pytest.mark.parametrize("name", [*sorted(RULES), "without_largest"])
@given(st.integers(1, 7), st.randoms(use_true_random=False))
def test_every_rule_gives_usable_weights_that_go_with_the_updates(name: str, count: int, order: random.Random) -> None:
    updates = [random_adapter(seed) for seed in range(count)]
    places = order.sample(range(count), count)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RULES, "without_largest", WithoutLargest)
        made, permuted = weighting(name, updates), weighting(name, [updates[place] for place in places])
    assert len(made.weights) == count and min(made.weights) >= 0 < made.denominator >= sum(made.weights)
    assert permuted.weights == tuple(made.weights[place] for place in places)
    assert permuted.denominator == made.denominator


def test_a_rule_begins_anew() -> None:
    rule, start = rule_of(TERMS), Start(initial_adapter(SHAPES, 0))
    for _ in range(2):
        rule.start(start)
        rule.add(random_adapter(1))
        assert rule.finish().weights == (1,)


def test_a_task_has_the_rule_and_the_parameters_of_its_terms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RULES, "without_largest", WithoutLargest)
    rule = rule_of(replace(TERMS, rule="without_largest", rule_parameters={"some": 3}))
    assert isinstance(rule, WithoutLargest) and rule.values == {"some": 3}
    assert rule_of(TERMS) is not rule_of(TERMS)


def test_unknown_rule_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'median'.*mean"):
        get_rule("median")
