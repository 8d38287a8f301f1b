"""Every robust rule against its formula on dense vectors, and against what it is there for."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flock_ray.aggregation.registry import RULES, require_usable
from flock_ray.errors import ConfigError
from flock_ray.wire_format.registry import WIRE_FORMATS
from tests.aggregation.vectors import Vectors, combined, far_away, made, points_of, random_vectors, weigh

ROBUST = sorted(name for name in RULES if name != "mean")
PRE = [{}, {"nnm": 1}, {"arc": 1}, {"arc": 1, "nnm": 1}]
GRAM_RULES = [name for name in ROBUST if "nnm" in RULES[name].parameters]
CASES = [(name, pre) for name in GRAM_RULES for pre in PRE] + [
    (name, {}) for name in ROBUST if name not in GRAM_RULES
]  # fmt: skip
seeds = st.integers(0, 2**32)
GRID = 3e-6
"""Weights are in steps of 2^-20, entries in steps of 2^-24."""


def with_f(name: str, malicious: int) -> dict[str, int]:
    return {"num_malicious": malicious} if "num_malicious" in RULES[name].parameters else {}


def dense_krum_scores(vectors: Vectors, malicious: int) -> Vectors:
    squares = ((vectors[:, None] - vectors[None]) ** 2).sum(-1)
    scores: Vectors = np.sort(squares, axis=1)[:, 1 : len(vectors) - malicious - 1].sum(axis=1)
    return scores


def dense_krum(vectors: Vectors, malicious: int) -> Vectors:
    result: Vectors = vectors[np.argmin(dense_krum_scores(vectors, malicious))]
    return result


def dense_multi_krum(vectors: Vectors, malicious: int) -> Vectors:
    chosen = np.argsort(dense_krum_scores(vectors, malicious), kind="stable")[: len(vectors) - malicious]
    result: Vectors = vectors[chosen].mean(axis=0)
    return result


def dense_geometric_median(vectors: Vectors, malicious: int) -> Vectors:
    point, nearest = np.zeros(vectors.shape[1]), 1e-6 * np.median(np.linalg.norm(vectors, axis=1))
    for _ in range(32):
        pulls = 1 / np.maximum(nearest, np.linalg.norm(vectors - point, axis=1))
        point = (pulls / pulls.sum()) @ vectors
    return point


def dense_centered_clipping(vectors: Vectors, malicious: int) -> Vectors:
    point, radius = np.zeros(vectors.shape[1]), np.median(np.linalg.norm(vectors, axis=1))
    for _ in range(3):
        moves = vectors - point
        point = point + (moves * np.minimum(1, radius / np.linalg.norm(moves, axis=1))[:, None]).mean(axis=0)
    return point


def dense_median(vectors: Vectors, malicious: int) -> Vectors:
    result: Vectors = np.median(vectors, axis=0)
    return result


def dense_trimmed_mean(vectors: Vectors, malicious: int) -> Vectors:
    result: Vectors = np.sort(vectors, axis=0)[malicious : len(vectors) - malicious].mean(axis=0)
    return result


DENSE: dict[str, Callable[[Vectors, int], Vectors]] = {
    "krum": dense_krum,
    "multi_krum": dense_multi_krum,
    "geometric_median": dense_geometric_median,
    "centered_clipping": dense_centered_clipping,
    "coordinate_median": dense_median,
    "trimmed_mean": dense_trimmed_mean,
}


def dense_arc(vectors: Vectors, malicious: int) -> Vectors:
    lengths, count = np.linalg.norm(vectors, axis=1), len(vectors)
    clipped = int(2 * (malicious / count) * (count - malicious))
    result: Vectors = vectors * np.minimum(1, np.sort(lengths)[count - clipped - 1] / lengths)[:, None]
    return result


def dense_nnm(vectors: Vectors, malicious: int) -> Vectors:
    squares = ((vectors[:, None] - vectors[None]) ** 2).sum(-1)
    nearest = np.argsort(squares, axis=1, kind="stable")[:, : len(vectors) - malicious]
    result: Vectors = vectors[nearest].mean(axis=1)
    return result


@pytest.mark.parametrize(("name", "pre"), CASES)
@settings(max_examples=12)
@given(seeds, st.integers(1, 3), st.integers(0, 3))
def test_a_rule_computes_its_formula(name: str, pre: dict[str, int], seed: int, malicious: int, more: int) -> None:
    vectors = random_vectors(seed, 2 * malicious + 3 + more)
    vectors[:malicious] *= 1.5  # so that lengths differ enough to be clipped
    vectors = np.rint(vectors * 2**16) / 2**16
    expected = dense_arc(vectors, malicious) if "arc" in pre else vectors
    expected = dense_nnm(expected, malicious) if "nnm" in pre else expected
    ours = combined(name, vectors, **with_f(name, malicious), **pre)
    assert np.abs(ours - DENSE[name](expected, malicious)).max() < 4 * GRID


@pytest.mark.parametrize(("name", "pre"), CASES)
@settings(max_examples=12)
@given(seeds, st.sampled_from([1e-3, 1.0, 20.0, 60.0]), st.randoms(use_true_random=False))
def test_a_minority_moves_the_result_no_further_than_honest_members_differ(
    name: str, pre: dict[str, int], seed: int, by: float, order: random.Random
) -> None:
    """Two of seven: whatever they send and wherever they stand."""
    honest = random_vectors(seed, 7)
    attacked = far_away(honest, order.sample(range(7), 2), by)
    others = [i for i in range(7) if (attacked[i] == honest[i]).all()]
    centre = attacked[others].mean(axis=0)
    spread = np.linalg.norm(attacked[others] - centre, axis=1).max()
    moved = np.linalg.norm(combined(name, attacked, **with_f(name, 2), **pre) - centre)
    assert moved <= 2 * spread + np.linalg.norm(centre) * (name == "centered_clipping")


def test_the_mean_is_moved_as_far_as_anybody_likes() -> None:
    honest = random_vectors(1, 7)
    assert np.abs(combined("mean", far_away(honest, [3], 60)) - honest.mean(axis=0)).min() > 8


@pytest.mark.parametrize(("name", "pre"), [case for case in CASES if "krum" not in case[0] or "nnm" not in case[1]])
@given(seeds, st.integers(5, 9), st.randoms(use_true_random=False))
@settings(max_examples=12)
def test_permuting_updates_permutes_their_weights(
    name: str, pre: dict[str, int], seed: int, count: int, order: random.Random
) -> None:
    """Mixtures of the same neighbours are equal, so that Krum has ties among them, which go to the first one."""
    vectors, places = random_vectors(seed, count), order.sample(range(count), count)
    plain, permuted = (weigh(made(name, **pre), rows) for rows in (vectors, vectors[places]))
    assert permuted.weights == tuple(plain.weights[place] for place in places)
    assert permuted.denominator == plain.denominator
    assert points_of(plain).equal(points_of(permuted))


@pytest.mark.parametrize(("name", "pre"), CASES)
def test_equal_updates_are_what_comes_of_them(name: str, pre: dict[str, int]) -> None:
    vectors = np.repeat(random_vectors(3, 1), 5, axis=0)
    assert np.abs(combined(name, vectors, **pre) - vectors[0]).max() < GRID


@pytest.mark.parametrize(("name", "pre"), CASES)
@pytest.mark.parametrize("num_zero", [4, 5])
def test_updates_that_are_zero_are_no_division_by_zero(name: str, pre: dict[str, int], num_zero: int) -> None:
    """What all but one agree on is nothing."""
    vectors = random_vectors(4, 5)
    vectors[:num_zero] = 0
    assert np.abs(combined(name, vectors, **pre)).max() < 1e-3


@pytest.mark.parametrize("name", ROBUST)
def test_with_too_few_updates_there_is_no_candidate(name: str) -> None:
    rule = made(name, **with_f(name, 2))
    enough, short = (weigh(rule, random_vectors(5, count)) for count in (rule.fewest, rule.fewest - 1))
    assert any(enough.weights)
    assert short.weights == (0,) * (rule.fewest - 1)


@pytest.mark.parametrize(("name", "malicious", "fewest"), [("krum", 2, 7), ("multi_krum", 1, 5), ("krum", 0, 3),
    ("geometric_median", 2, 5), ("centered_clipping", 0, 1), ("trimmed_mean", 3, 7)])  # fmt: skip
def test_how_many_updates_a_rule_needs(name: str, malicious: int, fewest: int) -> None:
    assert made(name, num_malicious=malicious).fewest == fewest


def test_ties_go_to_the_update_that_was_added_first() -> None:
    vectors = np.repeat(random_vectors(6, 1), 5, axis=0)
    assert weigh(made("krum"), vectors).weights == (1, 0, 0, 0, 0)
    assert weigh(made("multi_krum"), vectors).weights == (1, 1, 1, 1, 0)
    assert weigh(made("krum", nnm=1), vectors).weights == (1, 1, 1, 1, 0)  # the mean of the first one's neighbours


def test_weights_of_equal_shares_are_small_integers_and_the_rest_is_the_starts() -> None:
    vectors = random_vectors(7, 5)
    assert weigh(made("multi_krum"), vectors).denominator == 4
    clipped = weigh(made("centered_clipping"), far_away(vectors, [2], 60))
    assert 0 < sum(clipped.weights) < clipped.denominator <= 2**20


def test_a_rule_that_could_never_make_a_candidate_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        require_usable(made("krum", num_malicious=2), "krum", 6, False)
    assert str(caught.value) == (
        "alliance.num_proposers is 6; aggregation.rule=krum with num_malicious = 2 needs at least 7 updates; raise it,"
        " or lower aggregation.parameters.num_malicious"
    )
    require_usable(made("krum", num_malicious=2), "krum", 7, False)


@pytest.mark.parametrize("name", RULES)
def test_rules_that_compare_entries_of_factors_need_a_shared_a(name: str) -> None:
    rule = made(name, **with_f(name, 0))
    require_usable(rule, name, 4, True)
    if name in ("coordinate_median", "trimmed_mean"):
        with pytest.raises(ConfigError, match=r"set lora\.freeze_a=true"):
            require_usable(rule, name, 4, False)
    else:
        require_usable(rule, name, 4, False)


@pytest.mark.parametrize(("name", "pre"), CASES)
def test_the_largest_entries_that_terms_allow_end_no_epoch(name: str, pre: dict[str, int]) -> None:
    """All but one of the updates have them, so that they come through with their whole weight."""
    limit = WIRE_FORMATS["dense"].parameters["max_abs"].high
    vectors = np.full((5, 16), float(limit))
    vectors[0] = 0
    assert np.abs(combined(name, vectors, **pre)).max() > limit / 4
