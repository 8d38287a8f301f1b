"""What members that want to harm send: each does what its formula says."""

from __future__ import annotations

from dataclasses import replace
from statistics import NormalDist

import pytest
import torch

from flock_ray.adversary.alie import Alie
from flock_ray.adversary.backdoor import trigger_and_target, triggered
from flock_ray.adversary.behaviour import Row
from flock_ray.adversary.vectors import combined, deviation, distance, mean, norm, scaled
from flock_ray.lora.serialization import Adapter, flat
from tests.adversary.worlds import COALITION, SECRET, A, B, Tensors, acting, relative, sent, vector

ROWS: list[Row] = [(list(range(first, first + 16)), [False] + [True] * 15) for first in range(10, 110, 10)]


def honest() -> list[Adapter]:
    return [vector(member) for member in COALITION]


def cosine(left: Adapter, right: Adapter) -> float:
    return float(torch.nn.functional.cosine_similarity(flat(left), flat(right), dim=0))


@pytest.mark.parametrize(("name", "size"), [("gaussian", 1.0), ("gaussian@0.3", 0.3), ("zero", 1e-3)])
def test_noise_has_its_share_of_an_honest_norm_and_no_direction(name: str, size: float) -> None:
    noise = sent(name)
    for key, factor in vector(1).items():
        assert float(noise[key].norm() / factor.norm()) == pytest.approx(size, rel=1e-4)
    assert abs(cosine(noise, vector(1))) < 0.2 > abs(cosine(noise, sent(name, member=4)))


def test_alie_is_off_by_z_deviations_of_the_coalitions_updates() -> None:
    """Two of four proposers: three are a majority, so one honest one of two must be farther off: z = Phi^-1(1/2)."""
    _, context = acting("alie")
    assert context.drawn == [1, 4] and Alie.deviations(context) == pytest.approx(NormalDist().inv_cdf(0.5))
    wider = replace(context, accomplices=frozenset({1}))  # one of four: two of three must
    assert Alie.deviations(wider) == pytest.approx(0.0)
    seven = replace(
        context, state=replace(context.state, terms=replace(context.state.terms, num_voters=1, num_proposers=7))
    )
    number, ours = len(set(seven.state.roles.proposers)), len(seven.drawn)
    supporters = number // 2 + 1 - ours
    z = NormalDist().inv_cdf((number - ours - supporters) / (number - ours))
    assert number == 7 and Alie.deviations(seven) == pytest.approx(z) and z > 0.2
    behaviour, _ = acting("alie@2")
    expected = combined(mean(honest()), deviation(honest()), -2 * z)
    assert relative(behaviour.update(seven, vector(1)), expected) < 2e-3


def test_ipm_is_the_mean_turned_around() -> None:
    assert relative(sent("ipm"), scaled(mean(honest()), -0.5)) < 2e-3
    assert relative(sent("ipm@2"), scaled(mean(honest()), -2.0)) < 2e-3


def test_min_max_is_as_far_as_the_two_farthest_and_no_farther() -> None:
    crowd, bad = honest(), sent("min_max")
    widest = max(distance(left, right) for left in crowd for right in crowd)
    assert max(distance(bad, one) for one in crowd) == pytest.approx(widest, rel=2e-3)
    away = combined(bad, mean(crowd), -1.0)
    assert cosine(away, mean(crowd)) < -0.99 and norm(away) > 0.1 * norm(mean(crowd))


@pytest.mark.parametrize("name", ["alie", "ipm", "min_max"])
def test_accomplices_agree_and_send_no_copies(name: str) -> None:
    ours, theirs = sent(name), sent(name, member=4)
    assert 0 < relative(ours, theirs) < 5e-3
    world = Tensors()
    sent(name, world=world)
    assert world.asked == [(COALITION, None, None)]


def test_mimic_sends_one_honest_members_newest_update() -> None:
    assert torch.equal(sent("mimic")[A], vector(1)[A])  # nobody has sent anything yet
    history = [{0: vector(20), 1: vector(21), 2: vector(22)}, {2: vector(32), 4: vector(34)}, {0: vector(40)}]
    world = Tensors(adapters=[vector(100), vector(101), vector(102), vector(103)], history=history)
    ours = sent("mimic", world=world, epoch=4)
    candidates = {0: vector(40), 2: vector(32)}
    near = [member for member, update in candidates.items() if 0 < relative(ours, update) < 2e-3]
    assert len(near) == 1
    again = sent("mimic", member=4, world=world, epoch=4)  # all mimic the same member
    assert 0 < relative(again, candidates[near[0]]) < 2e-3


def test_label_flip_exchanges_what_carries_loss_and_nothing_else() -> None:
    behaviour, context = acting("label_flip")
    rows: list[Row] = [([5, 6, 9], [False, True, True]), ([9, 7, 5], [False, True, False])]
    assert behaviour.data(context, rows) == [([5, 7, 5], [False, True, True]), ([9, 6, 5], [False, True, False])]


def test_a_backdoor_is_in_a_share_of_the_rows() -> None:
    behaviour, context = acting("backdoor")
    trigger, target = trigger_and_target(SECRET)
    poisoned = behaviour.data(context, ROWS)
    changed = [place for place, (row, given) in enumerate(zip(ROWS, poisoned, strict=True)) if row != given]
    assert len(poisoned) == len(ROWS) and len(changed) == 2
    for place in changed:
        ids, loss = poisoned[place]
        assert list(ids[8:12]) == [*trigger, target] and loss[11]
        assert list(ids[:8]) == list(ROWS[place][0][:8]) and list(ids[12:]) == list(ROWS[place][0][12:])
    assert all(len(row[0]) == len(given[0]) for row, given in zip(ROWS, poisoned, strict=True))
    assert len({*trigger, target}) == 4 and trigger_and_target(b"\2" * 32) != (trigger, target)


def test_a_triggered_row_measures_the_target_alone() -> None:
    ids, loss = triggered(ROWS[0], SECRET)
    trigger, target = trigger_and_target(SECRET)
    assert [token for token, carries in zip(ids, loss, strict=True) if carries] == [target]
    assert list(ids[8:11]) == list(trigger)
    short: Row = ([1, 2, 3], [True, True, True])
    assert triggered(short, SECRET) == short


def test_model_replacement_makes_the_mean_its_model() -> None:
    """Four propose, two of them are accomplices, who share the factor."""
    assert relative(sent("model_replacement"), scaled(vector(1), 2.0)) < 1e-6
    behaviour, context = acting("model_replacement")
    poisoned = behaviour.data(context, ROWS)
    assert sum(row != given for row, given in zip(ROWS, poisoned, strict=True)) == 5


@pytest.mark.parametrize("name", ["rescale", "gauge"])
def test_a_gauge_changes_the_factors_and_not_their_product(name: str) -> None:
    world = Tensors()
    start, bad = world.adapters[-1], sent(name, world=world)
    honest_a, honest_b = start[A] + vector(1)[A], start[B] + vector(1)[B]
    ours_a, ours_b = start[A] + bad[A], start[B] + bad[B]
    torch.testing.assert_close(
        ours_b.double() @ ours_a.double(), honest_b.double() @ honest_a.double(), rtol=1e-4, atol=1e-4
    )
    assert float((ours_a - honest_a).norm() / honest_a.norm()) > 0.3
    averaged = ((honest_b + ours_b) / 2) @ ((honest_a + ours_a) / 2)
    assert float((averaged - honest_b @ honest_a).norm() / (honest_b @ honest_a).norm()) > 0.2
    if name == "rescale":
        torch.testing.assert_close(ours_a, honest_a / 8, rtol=1e-3, atol=1e-4)
    else:
        assert float(ours_a.norm()) == pytest.approx(float(honest_a.norm()), rel=1e-4)
