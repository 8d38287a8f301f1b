from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flock_ray.protocol.ballot import Check, ProposalEntry, Score
from flock_ray.protocol.capture import capture_risk, quantile_index
from flock_ray.protocol.hashing import sha256
from flock_ray.protocol.judging import judge_proposal
from flock_ray.protocol.marginal1 import Marginal1
from flock_ray.protocol.mechanism import Outcome
from flock_ray.protocol.roles import Roles, quorum
from flock_ray.protocol.verdict import CandidateVerdict, Panel
from tests.protocol.players import new_task

GOOD, BAD = 0, 1
BAND, LOUD = 1_000, 10**9
HASH = sha256(b"payload")


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


# Yuma's retention contour (Bittensor's white paper): what share of the pay honest members keep, by the share of seats
# that a cabal drew and by how useful their work is. The cabal praises its own proposals and damns all others.


def kept_by_honest(num_voters: int, cabal: int, utility: int, quantile_bp: int) -> float | None:
    """Share of the proposers' pay that goes to honest ones; None where nobody is paid."""
    roles = Roles(tuple(range(num_voters)), (num_voters, num_voters + 1))
    honest, dishonest = roles.proposers
    state = new_task(num_voters + 2, num_voters=num_voters, num_proposers=2, quantile_bp=quantile_bp, band_floor=BAND)
    said = {honest: (utility, -LOUD), dishonest: (0, LOUD)}
    verdicts = []
    for proposer, (measured, claimed) in said.items():
        scores = [Score(claimed if voter < cabal else measured, 0) for voter in roles.voters]
        entries = {
            voter: ProposalEntry(proposer, HASH, Check.VALID, score)
            for voter, score in zip(roles.voters, scores, strict=True)
        }
        verdicts.append(judge_proposal(proposer, HASH, entries, Panel(roles, state.terms), Marginal1()))
    held = tuple((verdict.member, 1) for verdict in verdicts if verdict.status == "accepted")
    named = CandidateVerdict(HASH if held else None, held, None)
    outcome = Outcome(state, roles, tuple(verdicts), named, frozenset(roles.voters))
    rewards = Marginal1().rewards(outcome, bool(held))
    pay = [rewards.get(proposer, 0) for proposer in (honest, dishonest)]
    return pay[0] / sum(pay) if any(pay) else None


@given(st.integers(1, 30), st.sampled_from([2_500, 5_000, 7_500]), st.integers(1, 50), st.data())
def test_below_kappa_of_the_drawn_committee_honest_members_keep_all_and_above_it_nothing(
    num_voters: int, quantile_bp: int, utility: int, draw: st.DataObject
) -> None:
    """Whether it is captured depends on the seats that were drawn, not on the cabal's share of all slots."""
    index = quantile_index(num_voters, quantile_bp)
    praised, damned = num_voters - index, index + 1  # seats that lift its own score, that sink another's
    cabal = draw.draw(st.integers(0, num_voters))
    kept = kept_by_honest(num_voters, cabal, utility * BAND // 10, quantile_bp)
    useful = utility > 10 and cabal < damned
    if cabal < praised:
        assert kept == (1.0 if useful else None)
    else:
        assert kept is not None and (kept < utility * BAND / LOUD if useful else kept == 0)


@pytest.mark.parametrize(("cabal", "kept"), [(6, 1.0), (7, 0.0)])
def test_the_committee_of_13_falls_with_the_seventh_seat(cabal: int, kept: float) -> None:
    assert kept_by_honest(13, cabal, 5 * BAND, 5_000) == kept


@pytest.mark.parametrize(("num_slots", "num_voters"), [(20, 13), (64, 29), (256, 43)])
def test_the_smallest_committees_that_thirty_percent_capture_at_most_once_in_a_thousand_epochs(
    num_slots: int, num_voters: int
) -> None:
    malicious = num_slots * 3 // 10
    assert capture_risk(num_slots, malicious, num_voters).median <= 1e-3
    assert capture_risk(num_slots, malicious, num_voters - 2).median > 1e-3


def test_the_default_committee_with_two_dishonest_of_eight() -> None:
    assert capture_risk(8, 2, 4).median == pytest.approx(3 / 14)
