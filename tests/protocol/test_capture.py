from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flock_ray.protocol.capture import capture_risk, quantile_index
from flock_ray.protocol.roles import quorum

GOOD, BAD = 0, 1


def enumerated(num_slots: int, num_malicious: int, num_voters: int, quantile_bp: int) -> tuple[float, float, float]:
    """Chances of capture by the median, by the quorum, and of a blockade, by drawing every committee."""
    slots = [BAD] * num_malicious + [GOOD] * (num_slots - num_malicious)
    committees = list(combinations(slots, num_voters))
    median = by_quorum = blocked = 0
    for committee in committees:
        bad = sum(committee)
        honest = [0] * (num_voters - bad)
        # Dishonest seats all say -1 or all say +1; captured when the score is theirs and not the honest one.
        scores = [sorted(honest + [vote] * bad)[quantile_index(num_voters, quantile_bp)] for vote in (-1, 1)]
        median += any(scores)
        by_quorum += bad >= quorum(num_voters)
        blocked += len(honest) < quorum(num_voters)
    return median / len(committees), by_quorum / len(committees), blocked / len(committees)


@given(st.integers(1, 11), st.data())
def test_the_chances_are_those_of_drawing_every_committee(num_slots: int, draw: st.DataObject) -> None:
    num_malicious = draw.draw(st.integers(0, num_slots))
    num_voters = draw.draw(st.integers(1, num_slots))
    quantile_bp = draw.draw(st.sampled_from([0, 2_500, 5_000, 7_500, 10_000]))
    risk = capture_risk(num_slots, num_malicious, num_voters, quantile_bp)
    expected = enumerated(num_slots, num_malicious, num_voters, quantile_bp)
    assert (risk.median, risk.quorum, risk.blocked) == pytest.approx(expected)


def test_a_simple_majority_of_five_among_64_slots_with_30_percent_dishonest() -> None:
    """The published committee: captured in 15 % of epochs."""
    risk = capture_risk(64, 19, 5)
    assert risk.median == pytest.approx(0.15, abs=0.001)
    assert (risk.num_slots, risk.num_malicious, risk.num_voters) == (64, 19, 5)


def test_the_default_committee_cannot_be_captured() -> None:
    risk = capture_risk(8, 1, 4)
    assert (risk.median, risk.quorum, risk.blocked) == (0, 0, 0)


@given(st.integers(1, 99), st.integers(0, 10_000))
def test_the_quantile_is_the_smallest_value_with_that_share_at_or_below(count: int, quantile_bp: int) -> None:
    index = quantile_index(count, quantile_bp)
    assert 0 <= index < count
    assert (index + 1) * 10_000 >= quantile_bp * count
    assert index == 0 or index * 10_000 < quantile_bp * count


@pytest.mark.parametrize(("count", "index"), [(1, 0), (2, 0), (3, 1), (4, 1), (5, 2), (6, 2), (7, 3)])
def test_half_is_the_lower_median(count: int, index: int) -> None:
    assert quantile_index(count, 5_000) == index
