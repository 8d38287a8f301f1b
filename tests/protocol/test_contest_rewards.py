from __future__ import annotations

import decimal
import math
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flock_ray.protocol.contest_rewards import (
    Pools,
    Split,
    claim_split,
    day_budget,
    decay,
    delegated_split,
    effective_stake,
    heaviest,
    node_weights,
    pay_nodes,
    pay_validators,
    pools,
    power,
    validator_weights,
    vesting_split,
)
from flock_ray.protocol.mechanism import share_out

TOKEN = 10**18
STAKES = st.integers(0, 10**27)


def wei(tokens: str) -> int:
    return int(Decimal(tokens) * TOKEN)


def tokens(amount: int, places: int = 2) -> str:
    return f"{Decimal(amount) / TOKEN:.{places}f}"


# FLock's worked example: R0 a day, nodes A 3,000 + 1,000 delegated and B 3,500, validators 3, 6 and 3 thousand.
R0, T, S = wei("309157.68"), 7_500 * TOKEN, 12_000 * TOKEN


@pytest.mark.parametrize(
    ("gamma_bp", "nodes", "validators"),
    [
        (0, "118906.80", "190250.88"),
        (2_500, "136742.82", "172414.86"),
        (5_000, "154578.84", "154578.84"),
    ],
)
def test_pools_of_the_published_example(gamma_bp: int, nodes: str, validators: str) -> None:
    assert pools(R0, T, S, gamma_bp) == Pools(wei(nodes), wei(validators))


def test_stake_of_the_published_example() -> None:
    assert effective_stake(3_000 * TOKEN, 1_000 * TOKEN, 10_000) + 3_500 * TOKEN == T
    assert effective_stake(3_000, 1_000, 2_500) == 3_250


def test_delegator_of_the_published_example() -> None:
    """A's income is 58,084; its delegator has a quarter of the stake and a sharing ratio of 60 %."""
    split = delegated_split(58_084 * TOKEN, 3_000 * TOKEN, 1_000 * TOKEN, 4_000)
    assert split == Split(wei("49371.4"), wei("8712.6"))
    assert tokens(claim_split(split.kept, 800).kept) == "45421.69"
    assert tokens(claim_split(split.passed_on, 1_450).kept) == "7449.27"


def test_validator_of_the_published_example() -> None:
    income = share_out(pools(R0, T, S, 0).validators, {0: 472_768, 1: 1_000_000 - 472_768})
    assert tokens(income[0]) == "89944.53"


def test_node_shares_of_the_published_example() -> None:
    """A's 58,084 follow from B's being first with q = 0.836: the fit that FLock's numbers allow."""
    ranking, stakes = [1, 0], {0: 4_000 * TOKEN, 1: 3_500 * TOKEN}
    paid = pay_nodes(pools(R0, T, S, 0).nodes, ranking, stakes, 835_600, 10_000, top=8)
    assert paid[0] == pytest.approx(58_084 * TOKEN, rel=1e-5)


def test_the_published_law_of_distance() -> None:
    """exp(-20 D) s with s = 3, 6, 3 thousand and D = 0, 0.01, 0.05."""
    weights = validator_weights({0: 3_000, 1: 6_000, 2: 3_000}, {0: 0, 1: 10_000, 2: 50_000}, 20, 10_000)
    total = sum(weights.values())
    assert [f"{Decimal(weight) / total:.6f}" for weight in weights.values()] == ["0.332741", "0.544850", "0.122409"]


def test_powers_and_exponentials_are_fixed_to_the_digit_whatever_the_global_context() -> None:
    assert str(decay(20, 50_000)) == "0.36787944117144232159552377016146086744581113103177"  # 1/e
    assert str(power(2, 5_000)) == "1.4142135623730950488016887242096980785696718753770"
    with decimal.localcontext() as context:
        context.prec, context.rounding = 3, decimal.ROUND_UP
        assert str(power(2, 5_000)) == "1.4142135623730950488016887242096980785696718753770"
    assert power(7, 30_000) == 343 and power(0, 0) == 0 and power(5, 0) == 1


@given(st.integers(1, 10**27), st.integers(0, 30_000), st.integers(0, 500), st.integers(0, 10**6))
def test_powers_and_exponentials_are_those_of_mathematics(base: int, bp: int, rate: int, distance: int) -> None:
    assert math.log(power(base, bp)) == pytest.approx(bp / 10_000 * math.log(base), rel=1e-12, abs=1e-12)
    assert decay(rate, distance).ln(decimal.Context(prec=30)) == pytest.approx(Decimal(-rate * distance) / 10**6)


@given(st.integers(0, 10**27), STAKES, STAKES, st.integers(0, 5_000))
def test_pools_never_promise_more_and_lose_at_most_a_wei_each(budget: int, t: int, s: int, gamma_bp: int) -> None:
    both = pools(budget, t, s, gamma_bp)
    left = budget - both.nodes - both.validators
    assert left == budget if t + s == 0 else 0 <= left <= 1
    swapped = pools(budget, s, t, gamma_bp)
    assert (swapped.nodes, swapped.validators) == (both.validators, both.nodes)


RANKED = st.dictionaries(st.integers(0, 99), STAKES, min_size=1, max_size=12)


@given(st.integers(0, 10**27), RANKED, st.integers(1, 10**6), st.sampled_from([0, 5_000, 10_000, 15_000]), st.data())
def test_nodes_are_paid_out_of_the_pool_by_rank(
    pool: int, stakes: dict[int, int], ratio: int, alpha_bp: int, data: st.DataObject
) -> None:
    ranking = data.draw(st.permutations(sorted(stakes)))
    top = data.draw(st.integers(1, 12))
    paid = pay_nodes(pool, ranking, stakes, ratio, alpha_bp, top)
    assert set(paid) <= set(ranking[:top])
    staked = [node for node in ranking[:top] if stakes[node]]
    assert 0 <= pool - sum(paid.values()) <= max(len(staked), 0 if staked else pool)
    equal = pay_nodes(pool, ranking, dict.fromkeys(stakes, TOKEN), ratio, alpha_bp, top)
    amounts = [equal.get(node, 0) for node in ranking]
    assert amounts == sorted(amounts, reverse=True)


@given(st.integers(0, 10**27), RANKED, st.integers(0, 100), st.sampled_from([5_000, 10_000]), st.data())
def test_order_and_names_of_validators_do_not_matter(
    pool: int, stakes: dict[int, int], rate: int, alpha_bp: int, data: st.DataObject
) -> None:
    distances = {member: data.draw(st.integers(0, 10**6)) for member in stakes}
    paid = pay_validators(pool, stakes, distances, rate, alpha_bp, top=99)
    assert sum(paid.values()) <= pool
    order = data.draw(st.permutations(sorted(stakes)))
    assert paid == pay_validators(pool, {one: stakes[one] for one in order}, distances, rate, alpha_bp, top=99)
    renamed = {member: 1_000 - member for member in stakes}
    other = pay_validators(
        pool,
        {renamed[one]: stake for one, stake in stakes.items()},
        {renamed[one]: distance for one, distance in distances.items()},
        rate,
        alpha_bp,
        top=99,
    )
    assert {renamed[one]: amount for one, amount in paid.items()} == other


@given(st.integers(1, 10**27), st.integers(1, 10**24), st.integers(1, 10**24), st.integers(0, 10**5), st.data())
def test_a_validator_gains_nothing_by_splitting_its_stake(
    pool: int, mine: int, others: int, distance: int, data: st.DataObject
) -> None:
    """With alpha = 1 two halves earn what the whole does, to the rounding; with alpha < 1 they would earn more."""
    part = data.draw(st.integers(0, mine))
    whole = pay_validators(pool, {0: mine, 1: others}, {0: distance, 1: 0}, 20, 10_000, top=9)
    halves = pay_validators(
        pool, {0: part, 1: others, 2: mine - part}, {0: distance, 1: 0, 2: distance}, 20, 10_000, top=9
    )
    assert halves.get(0, 0) + halves.get(2, 0) <= whole.get(0, 0) + 2 + pool // 10**38
    rewarded = validator_weights({0: 50, 2: 50, 1: 100}, {0: 0, 1: 0, 2: 0}, 20, 5_000)
    assert rewarded[0] + rewarded[2] > rewarded[1]


def test_distance_costs() -> None:
    weights = validator_weights({0: 1, 1: 1, 2: 1}, {0: 0, 1: 34_657, 2: 10**9}, 20, 10_000)
    assert weights[1] / weights[0] == pytest.approx(0.5, abs=1e-4)
    assert weights[2] == 0
    assert heaviest(weights, 9) == {0: weights[0], 1: weights[1]}


def test_only_the_top_are_paid_and_ties_go_to_lower_members() -> None:
    assert heaviest({3: 5, 1: 5, 2: 9, 4: 0}, 2) == {1: 5, 2: 9}
    stakes = {0: 1, 1: 1, 2: 1}
    assert set(pay_nodes(100, [2, 0, 1], stakes, 10**6, 10_000, top=2)) == {0, 2}
    assert node_weights([], {}, 500_000, 10_000) == {}
    assert pay_nodes(100, [0], {0: 0}, 500_000, 10_000, top=1) == {}


@given(st.integers(0, 10**30), st.integers(0, 10**24), st.integers(0, 10**24), st.integers(0, 10_000))
def test_splits_lose_nothing(amount: int, own: int, delegated: int, bp: int) -> None:
    split = delegated_split(amount, own, delegated, bp)
    fee, vested = claim_split(amount, bp), vesting_split(amount, bp)
    for one in (split, fee, vested):
        assert one.kept + one.passed_on == amount and min(one.kept, one.passed_on) >= 0
    if not delegated:
        assert split.passed_on == 0
    assert fee.kept == amount * (10_000 - bp) // 10_000 and vested.passed_on == amount * bp // 10_000


@given(st.integers(0, 10**30), st.integers(0, 10**30), st.integers(1, 400))
def test_days_budgets_spend_the_pool_but_for_the_end_share(pool: int, reserved: int, days: int) -> None:
    left = pool
    for day in range(days):
        budget = day_budget(left, reserved, days - day)
        assert budget >= 0
        left -= budget
    assert left == min(pool, reserved)
