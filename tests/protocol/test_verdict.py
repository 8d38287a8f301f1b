from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import median_low
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flock_ray.protocol.ballot import BallotB, Check, ProposalEntry, Score
from flock_ray.protocol.hashing import keccak
from flock_ray.protocol.judging import judge_candidate, judge_proposal
from flock_ray.protocol.mechanism import Mechanism
from flock_ray.protocol.mechanisms import MECHANISMS
from flock_ray.protocol.roles import Roles
from flock_ray.protocol.verdict import (
    CandidateVerdict,
    Panel,
    ProposalVerdict,
    StepVerdict,
    band,
    consensus,
    quantile,
)
from tests.protocol.players import TERMS

ROLES = Roles((0, 1, 2, 3), (4, 5, 6))
PAYLOAD = keccak(b"payload")
WEIGHTS = ((4, 1), (6, 1))
ERROR = 2_500  # band 5,000
INTS = st.lists(st.integers(-(10**12), 10**12), min_size=1, max_size=30)


@given(INTS)
def test_the_half_quantile_is_the_lower_median(values: list[int]) -> None:
    assert quantile(values, 5_000) == median_low(values)


@given(INTS, st.integers(0, 10_000))
def test_a_quantile_is_a_value_with_enough_values_at_or_below(values: list[int], quantile_bp: int) -> None:
    result = quantile(values, quantile_bp)
    assert result in values
    assert sum(value <= result for value in values) * 10_000 >= quantile_bp * len(values)
    assert sum(value < result for value in values) * 10_000 <= quantile_bp * len(values)


@given(INTS)
def test_the_quantiles_run_from_the_least_to_the_greatest(values: list[int]) -> None:
    assert (quantile(values, 0), quantile(values, 10_000)) == (min(values), max(values))


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ([2_000], 4_000),
        ([100, 900], 1_000),  # floor
        ([0], 1_000),
        ([10**12], 20_000),  # ceiling
        ([1_000, 3_000], 2_000),  # lower median
        ([1_000, 3_000, 10**12], 6_000),
    ],
)
def test_the_band_is_z_standard_errors_within_its_limits(errors: Sequence[int], expected: int) -> None:
    assert band(errors, TERMS) == expected


def test_z_counts_in_basis_points_and_floors() -> None:
    assert band([1_001], replace(TERMS, band_z_bp=15_000)) == 1_501


def test_a_seat_is_a_vote_and_a_member_may_hold_two() -> None:
    roles = Roles((0, 1, 0), (2,))
    result = consensus({0: Score(10, 4_000), 1: Score(-90, 1_000)}, roles, TERMS)
    assert (result.score, result.band, result.gains) == (10, 8_000, {0: 10, 1: -90})
    assert consensus({0: Score(10, 0), 1: Score(-90, 0)}, Roles((0, 1), (2,)), TERMS).score == -90


def asking(scored: bool) -> Mechanism:
    """A mechanism that asks for one score of everything, or for none."""
    return MECHANISMS["marginal1" if scored else "open"]


def judged(
    gains: Sequence[int | None], roles: Roles = ROLES, check: Check = Check.VALID, scored: bool = True, **terms: Any
) -> ProposalVerdict:
    """Verdict when voter i reports gains[i]; None: it says nothing of the proposal."""
    entries = {
        voter: ProposalEntry(4, PAYLOAD, check, Score(gain, ERROR) if scored else None)
        for voter, gain in enumerate(gains)
        if gain is not None
    }
    return judge_proposal(4, PAYLOAD, entries, Panel(roles, replace(TERMS, **terms)), asking(scored))


@pytest.mark.parametrize(
    ("score", "status"),
    [
        (5_001, "accepted"),
        (5_000, "rejected"),  # not above the band
        (0, "rejected"),
        (-20_000, "rejected"),  # not below -4 bands
        (-20_001, "harmful"),
    ],
)
def test_a_score_is_measured_against_the_band(score: int, status: str) -> None:
    verdict = judged([score] * 4)
    assert (verdict.member, verdict.status, verdict.payload) == (4, status, PAYLOAD)
    assert verdict.consensus is not None
    assert (verdict.consensus.score, verdict.consensus.band) == (score, 5_000)


def test_one_liar_of_four_decides_nothing() -> None:
    assert judged([50_000, 50_000, 50_000, -(10**12)]).status == "accepted"
    assert judged([-50_000, -50_000, -50_000, 10**12]).status == "harmful"


def test_the_quantile_is_a_term() -> None:
    gains = [-50_000, 50_000, 50_000, 50_000]
    assert judged(gains, quantile_bp=2_500).status == "harmful"
    assert judged(gains, quantile_bp=5_000).status == "accepted"


def test_a_proposal_counts_when_a_quorum_of_seats_had_it() -> None:
    assert judged([50_000, 50_000, 50_000, None]).status == "accepted"
    assert judged([50_000, 50_000, None, None]) == ProposalVerdict(4, "unseen", PAYLOAD)
    doubled = Roles((0, 1, 0, 2), (4,))
    assert judged([50_000, 50_000], doubled).status == "accepted"


@pytest.mark.parametrize(("voters", "status"), [(2, "unseen"), (3, "malformed"), (4, "malformed")])
def test_malformed_is_what_a_quorum_of_seats_calls_malformed(voters: int, status: str) -> None:
    assert judged([0] * voters, check=Check.MALFORMED, scored=False).status == status
    assert judged([0] * voters, check=Check.UNAVAILABLE, scored=False).status == "unseen"


def test_without_scores_a_valid_proposal_is_accepted() -> None:
    assert judged([0, 0, 0], scored=False) == ProposalVerdict(4, "accepted", PAYLOAD)
    assert judged([0, 0], scored=False).status == "unseen"


def test_a_quorum_that_found_it_valid_but_scored_it_not_does_not_accept() -> None:
    entries = {voter: ProposalEntry(4, PAYLOAD, Check.VALID, None if voter else Score(9**9, 1)) for voter in range(4)}
    assert judge_proposal(4, PAYLOAD, entries, Panel(ROLES, TERMS), asking(True)).status == "unseen"


def ballot(
    gain: int | None, candidate: bytes | None = PAYLOAD, weights: tuple[tuple[int, int], ...] = WEIGHTS
) -> BallotB:
    score = None if gain is None else Score(gain, ERROR)
    return BallotB(((candidate, score),) if candidate else (), weights, PAYLOAD)


NOTHING = CandidateVerdict(None, (), None)


def candidate_of(ballots: Sequence[BallotB], accepted: Sequence[int] = (4, 6), scored: bool = True) -> CandidateVerdict:
    return judge_candidate(dict(enumerate(ballots)), accepted, Panel(ROLES, TERMS), asking(scored))


def test_the_candidate_is_the_one_that_a_quorum_names() -> None:
    other = ballot(10**9, keccak(b"other"))
    verdict = candidate_of([ballot(3_000), ballot(1_000), other, ballot(2_000)])
    assert (verdict.candidate, verdict.weights) == (PAYLOAD, WEIGHTS)
    assert verdict.consensus is not None
    assert (verdict.consensus.score, verdict.consensus.gains) == (2_000, {0: 3_000, 1: 1_000, 3: 2_000})
    assert candidate_of([ballot(1), ballot(1), other, other]) == NOTHING


def test_a_quorum_must_agree_on_the_weights_too() -> None:
    other = ballot(1, weights=((4, 1), (6, 2)))
    assert candidate_of([ballot(1), ballot(1), other, other]) == NOTHING
    assert candidate_of([other, other, ballot(1), other]).weights == ((4, 1), (6, 2))


def test_weights_of_other_updates_than_the_accepted_do_not_count() -> None:
    assert candidate_of([ballot(1)] * 4, accepted=(4, 5)) == NOTHING
    assert candidate_of([ballot(1)] * 4, accepted=()) == NOTHING
    assert candidate_of([ballot(1, weights=())] * 4, accepted=()) == NOTHING
    assert candidate_of([ballot(None, None, ())] * 4) == NOTHING


def test_scores_of_the_candidate_need_a_quorum_where_the_mechanism_asks_for_them() -> None:
    ballots = [ballot(1), ballot(1), ballot(None), ballot(None)]
    assert candidate_of(ballots) == NOTHING
    steps = (StepVerdict(1, PAYLOAD, None),)
    assert candidate_of(ballots, scored=False) == CandidateVerdict(PAYLOAD, WEIGHTS, None, 1, steps)


def test_no_ballots_no_candidate() -> None:
    assert candidate_of([]) == NOTHING
