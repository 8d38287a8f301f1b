from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flock_ray.protocol.ballot import Score
from flock_ray.protocol.hashing import keccak
from flock_ray.protocol.marginal1 import closeness
from flock_ray.protocol.mechanism import Outcome, share_out
from flock_ray.protocol.mechanisms import MECHANISMS, get_mechanism
from flock_ray.protocol.roles import Roles
from flock_ray.protocol.state import TaskState
from flock_ray.protocol.verdict import CandidateVerdict, Consensus, ProposalVerdict, consensus
from tests.protocol.players import TERMS, TOKEN, Play, new_task, settled

MARGINAL1, FLOCK, OPEN = (MECHANISMS[name] for name in ("marginal1", "flock", "open"))
ROLES = Roles((0, 1, 2, 3), (4, 5, 6))
HASH = keccak(b"payload")


def scored(member: int, status: str, score: int, band: int, gains: Mapping[int, int]) -> ProposalVerdict:
    return ProposalVerdict(member, status, HASH, Consensus(score, band, gains))


def candidate(gains: Mapping[int, int], score: int = 0, band: int = 1_000) -> CandidateVerdict:
    return CandidateVerdict(HASH, (), Consensus(score, band, gains))


def outcome(
    proposals: Sequence[ProposalVerdict],
    verdict: CandidateVerdict,
    roles: Roles = ROLES,
    state: TaskState | None = None,
    present: Sequence[int] = (0, 1, 2, 3),
) -> Outcome:
    """An outcome whose candidate, if there is one, holds every accepted update, unless it states weights itself."""
    if verdict.candidate and not verdict.weights:
        held = tuple((proposal.member, 1) for proposal in proposals if proposal.status == "accepted")
        verdict = replace(verdict, weights=held)
    return Outcome(state or new_task(8), roles, tuple(proposals), verdict, frozenset(present))


def paid(rewards: Mapping[int, int]) -> dict[int, int]:
    return {member: wei for member, wei in rewards.items() if wei}


# What every mechanism keeps.


@given(st.integers(0, 10**24), st.dictionaries(st.integers(0, 20), st.integers(0, 10**15)))
def test_shares_are_floored_and_never_more_than_there_is(amount: int, weights: dict[int, int]) -> None:
    shares = share_out(amount, weights)
    total = sum(weights.values())
    assert sum(shares.values()) <= amount
    assert set(shares) == {member for member, weight in weights.items() if weight}
    for member, share in shares.items():
        assert 0 <= Fraction(amount * weights[member], total) - share < 1
    if shares:
        assert amount - sum(shares.values()) < len(shares)


@st.composite
def outcomes(draw: st.DrawFn) -> Outcome:
    """Any outcome that ballots can lead to, and some that they cannot."""
    num_members = draw(st.integers(2, 9))
    members = st.integers(0, num_members - 1)
    voters = draw(st.lists(members, min_size=1, max_size=6))
    proposers = [member for member in draw(st.lists(members, max_size=8)) if member not in voters]
    roles = Roles(tuple(voters), tuple(proposers))
    gains = st.dictionaries(
        st.sampled_from(sorted(set(voters))), st.integers(-(10**12), 10**12), min_size=1, max_size=len(set(voters))
    )

    def draw_consensus() -> Consensus:
        reported = draw(gains)
        return consensus(
            {voter: Score(gain, draw(st.integers(0, 10**12))) for voter, gain in reported.items()}, roles, TERMS
        )

    proposals = []
    for member in sorted(set(proposers)):
        joint = draw_consensus()
        kinds = ["accepted"] if joint.score > joint.band else ["rejected", "harmful", "unseen", "copied", "malformed"]
        proposals.append(ProposalVerdict(member, draw(st.sampled_from(kinds)), HASH, joint, draw_consensus()))
    accepted = [proposal.member for proposal in proposals if proposal.status == "accepted"]
    weights = tuple((member, draw(st.integers(0, 2))) for member in accepted)
    verdict = draw(
        st.sampled_from([CandidateVerdict(None, (), None), CandidateVerdict(HASH, weights, draw_consensus())])
    )
    state = new_task(
        num_members,
        num_epochs=draw(st.integers(1, 5)),
        mechanism="marginal",
        mechanism_parameters={"voter_share": draw(st.integers(0, 10_000))},
    )
    stakes = draw(st.lists(st.integers(0, 10**22), min_size=num_members, max_size=num_members))
    state = replace(
        state,
        members=tuple(replace(member, stake=stake) for member, stake in zip(state.members, stakes, strict=True)),
        pool_left=draw(st.integers(0, 10**22)),
    )
    present = draw(st.sets(st.sampled_from(voters)))
    return Outcome(state, roles, tuple(proposals), verdict, frozenset(present))


@given(st.sampled_from(sorted(MECHANISMS)), outcomes(), st.booleans())
def test_rewards_are_within_the_budget_and_go_to_who_took_part(name: str, drawn: Outcome, accepted: bool) -> None:
    mechanism = get_mechanism(name)
    rewards = mechanism.rewards(drawn, accepted)
    assert all(wei >= 0 for wei in rewards.values())
    assert sum(rewards.values()) <= drawn.budget <= drawn.state.pool_left
    assert set(rewards) <= {*drawn.roles.voters, *drawn.roles.proposers}
    slashed = mechanism.slashed(drawn, accepted)
    assert set(slashed) <= {*drawn.roles.voters, *drawn.roles.proposers}
    assert not set(slashed) & {member for member, wei in rewards.items() if wei}
    held = {member for member, weight in drawn.candidate.weights if weight}
    assert set(rewards) & set(drawn.roles.proposers) <= (held if accepted else set())
    if name == "flock":
        assert set(slashed) & set(drawn.roles.proposers) == (set() if accepted else held)


def test_the_budget_is_the_pool_over_the_epochs_left() -> None:
    state = replace(new_task(8, num_epochs=3), pool_left=100)
    budgets = [outcome([], candidate({}), state=replace(state, epoch=epoch)).budget for epoch in (1, 2, 3)]
    assert budgets == [33, 50, 100]


def test_an_unknown_mechanism_is_refused_with_those_that_exist() -> None:
    with pytest.raises(ValueError, match="'yuma'; it must be one of marginal, marginal1, flock, open"):
        get_mechanism("yuma")


# marginal1


@pytest.mark.parametrize(
    ("own", "score", "band", "weight"),
    [
        (50_000, 50_000, 5_000, 1_000_000),
        (100_000, 50_000, 5_000, 750_000),  # off by the consensus itself
        (-150_000, 50_000, 5_000, 0),
        (10**12, 50_000, 5_000, 0),
        (0, 0, 1_000, 1_000_000),
        (1_000, 0, 1_000, 750_000),  # off by the band
        (-2_000, 0, 1_000, 500_000),
        (-30_000, -40_000, 1_000, 937_500),
    ],
)
def test_closeness_falls_linearly_to_zero_at_four_bands_or_scores(own: int, score: int, band: int, weight: int) -> None:
    assert closeness(own, Consensus(score, band, {})) == weight


def test_proposers_share_by_what_they_add_beyond_the_band() -> None:
    """Budget 300, of which 30 % is the voters'; 210 by score - band = 30,000 : 40,000."""
    state = replace(new_task(8), pool_left=900)
    gains = {0: 35_000, 1: 35_000, 2: 35_000, 3: 35_000}
    proposals = [
        scored(4, "accepted", 35_000, 5_000, gains),
        scored(5, "rejected", 4_000, 5_000, dict.fromkeys(gains, 4_000)),
        scored(6, "accepted", 50_000, 10_000, dict.fromkeys(gains, 50_000)),
    ]
    rewards = MARGINAL1.rewards(outcome(proposals, candidate(gains), state=state), True)
    assert rewards == {0: 22, 1: 22, 2: 22, 3: 22, 4: 90, 6: 120}


def test_a_proposer_is_paid_once_a_seat() -> None:
    state = replace(new_task(8, mechanism_parameters={"voter_share": 0}), pool_left=900)
    roles = Roles((0, 1, 2, 3), (4, 6, 6))
    proposals = [scored(member, "accepted", 35_000, 5_000, {0: 1}) for member in (4, 6)]
    assert paid(MARGINAL1.rewards(outcome(proposals, candidate({}), roles, state), True)) == {4: 100, 6: 200}


def test_voters_are_paid_by_closeness_and_seats_and_a_liar_is_not_slashed() -> None:
    state = replace(new_task(8, mechanism_parameters={"voter_share": 10_000}), pool_left=3 * 2_750)
    roles = Roles((0, 1, 0, 2), (4,))
    gains = {0: 50_000, 1: 100_000, 2: -(10**9)}
    case = outcome([scored(4, "accepted", 50_000, 5_000, gains)], candidate(gains), roles, state, (0, 1, 2))
    assert paid(MARGINAL1.rewards(case, True)) == {0: 2_000, 1: 750}
    assert MARGINAL1.slashed(case, True) == {}


def test_in_a_rejected_epoch_voters_are_paid_and_proposers_are_not() -> None:
    gains = {0: 50_000, 1: 50_000, 2: 50_000, 3: 50_000}
    case = outcome([scored(4, "accepted", 50_000, 5_000, gains)], candidate(gains, score=-9_000))
    assert not MARGINAL1.accepts(case)
    rewards = MARGINAL1.rewards(case, False)
    assert set(rewards) == {0, 1, 2, 3}
    assert sum(rewards.values()) <= case.budget * 3 // 10


def test_without_scored_proposals_present_voters_share_alike() -> None:
    case = outcome([ProposalVerdict(4, "missing")], CandidateVerdict(None, (), None), present=(0, 2, 3))
    rewards = MARGINAL1.rewards(case, False)
    assert set(rewards) == {0, 2, 3}
    assert len(set(rewards.values())) == 1


def test_an_absent_voter_is_unpaid_though_it_scored() -> None:
    gains = {0: 50_000, 1: 50_000, 2: 50_000, 3: 50_000}
    case = outcome([scored(4, "accepted", 50_000, 5_000, gains)], candidate(gains), present=(0, 1, 2))
    assert set(MARGINAL1.rewards(case, True)) == {0, 1, 2, 4}


@pytest.mark.parametrize(("score", "accepts"), [(0, True), (-1_000, True), (-1_001, False), (10**9, True)])
def test_a_candidate_is_accepted_down_to_minus_the_band(score: int, accepts: bool) -> None:
    assert MARGINAL1.accepts(outcome([], candidate({}, score=score, band=1_000))) is accepts


def test_harmful_proposers_are_slashed_whatever_became_of_the_epoch() -> None:
    proposals = [scored(4, "harmful", -90_000, 5_000, {0: 1}), scored(5, "rejected", 0, 5_000, {0: 1})]
    case = outcome(proposals, candidate({}))
    assert MARGINAL1.slashed(case, True) == MARGINAL1.slashed(case, False) == {4: "harmful"}


# flock


def flock_outcome(votes: Sequence[int], stakes: Sequence[int] = (100,) * 8, **terms: Any) -> Outcome:
    """Voters 0..3 vote on the mean of proposers 4, 5, 6; pool 2,100 over 3 epochs."""
    state = replace(new_task(8, mechanism="flock", **terms), pool_left=2_100)
    members = tuple(replace(member, stake=stake) for member, stake in zip(state.members, stakes, strict=True))
    proposals = [ProposalVerdict(member, "accepted", HASH) for member in ROLES.proposers]
    verdict = candidate(dict(enumerate(votes)))
    return outcome(proposals, verdict, state=replace(state, members=members))


@pytest.mark.parametrize(
    ("votes", "accepts"),
    [([1, 1, 1, -1], True), ([1, 1, -1, -1], True), ([1, -1, -1, -1], False), ([0, 0, -5, -5], True)],
)
def test_the_sum_of_signs_decides_and_zero_accepts(votes: list[int], accepts: bool) -> None:
    assert FLOCK.accepts(flock_outcome(votes)) is accepts


def test_a_vote_counts_by_its_sign_and_its_seats() -> None:
    assert FLOCK.accepts(flock_outcome([-(10**9), 1, 1, 1]))
    case = flock_outcome([-1, 1, 1])
    assert not FLOCK.accepts(replace(case, roles=Roles((0, 0, 0, 1, 2), (4, 5))))


def test_when_accepted_proposers_and_the_majority_earn_by_stake_and_the_minority_is_slashed() -> None:
    """700 an epoch over the stake of all seven that were drawn."""
    case = flock_outcome([5, 5, 5, -5], stakes=(100, 100, 200, 50, 100, 100, 50, 999))
    assert FLOCK.rewards(case, True) == {0: 100, 1: 100, 2: 200, 4: 100, 5: 100, 6: 50}
    assert FLOCK.slashed(case, True) == {3: "minority"}


def test_a_member_with_two_seats_has_one_stake_in_the_round() -> None:
    """700 an epoch over five members with 100 each."""
    roles = Roles((0, 0, 1, 2), (4, 4, 5))
    case = replace(flock_outcome([5, 5, 5], stakes=(100,) * 8), roles=roles)
    case = replace(case, proposals=tuple(ProposalVerdict(member, "accepted", HASH) for member in (4, 5)))
    assert FLOCK.rewards(case, True) == dict.fromkeys((0, 1, 2, 4, 5), 140)


def test_when_rejected_proposers_share_their_fate_and_the_majority_earns() -> None:
    case = flock_outcome([-5, -5, -5, 5])
    assert FLOCK.rewards(case, False) == {0: 100, 1: 100, 2: 100}
    assert FLOCK.slashed(case, False) == {3: "minority", 4: "rejected", 5: "rejected", 6: "rejected"}


def test_without_a_voted_candidate_nothing_moves() -> None:
    case = replace(flock_outcome([1, 1, 1, 1]), candidate=CandidateVerdict(None, (), None))
    assert FLOCK.rewards(case, False) == {}
    assert FLOCK.slashed(case, False) == {}


def test_members_without_stake_share_nothing() -> None:
    assert FLOCK.rewards(flock_outcome([1, 1, 1, 1], stakes=(0,) * 8), True) == {}


def published_run(solvent: bool, num_epochs: int) -> list[int]:
    """Wei of each member after each epoch of FLock's own run: 4 members drawn 2:2, pool 1,000, 10 rounds, stake 20."""
    state = new_task(
        4,
        stake=20 * TOKEN,
        num_voters=2,
        num_proposers=2,
        num_epochs=10,
        mechanism="flock",
        mechanism_parameters={"solvent": int(solvent)},
    )
    held = []
    for _ in range(num_epochs):
        state = settled(state, Play().record(state))
        assert len({member.stake + member.earned for member in state.members}) == 1
        held.append(state.members[0].stake + state.members[0].earned)
    return held


def test_published_rewards_in_the_historic_form() -> None:
    """The logged clients went from 20.00 to 45.00 to 72.78: 1000/10/4, then 1000/9/4."""
    first, second = published_run(solvent=False, num_epochs=2)
    assert first == 45 * TOKEN
    assert second - first == 1_000 * TOKEN // 9 // 4
    assert f"{second / TOKEN:.2f}" == "72.78"


def test_published_rewards_in_the_solvent_form() -> None:
    """1000/10/4, then 900/9/4 and so on: 25.00 in every round, and the pool is spent exactly."""
    held = published_run(solvent=True, num_epochs=10)
    assert held == [(20 + 25 * epoch) * TOKEN for epoch in range(1, 11)]


@pytest.mark.parametrize("solvent", [True, False])
def test_published_slash(solvent: bool) -> None:
    """Stake 100 and p = 10 %: 9 to the pool in the historic form, else into the escrow; 1 to who relays."""
    state = new_task(8, stake=100 * TOKEN, mechanism="flock", mechanism_parameters={"solvent": int(solvent)})
    liar = state.roles.voters[0]
    record = Play(candidate_gain=lambda voter: -1 if voter == liar else 1).record(state)
    (slash,) = record.slashes
    assert (slash.member, slash.amount, slash.reason) == (liar, 10 * TOKEN, "minority")
    assert record.members[liar].stake == 90 * TOKEN
    paid = sum(record.rewards.values()) if solvent else 0
    assert (record.pool_left, record.escrow) == (
        (state.pool_left - paid, 9 * TOKEN) if solvent else (state.pool_left + 9 * TOKEN, 0)
    )


def test_the_historic_form_cuts_rewards_from_a_pool_that_slashes_feed() -> None:
    state = new_task(8, stake=100 * TOKEN, mechanism="flock", mechanism_parameters={"solvent": 0})
    liar = state.roles.voters[0]
    state = settled(state, Play(candidate_gain=lambda voter: -1 if voter == liar else 1).record(state))
    assert state.pool_left == 1_009 * TOKEN
    assert outcome([], candidate({}), state=state).budget == 1_009 * TOKEN // 2


# open


def test_open_pays_every_valid_proposal_alike_a_seat() -> None:
    state = replace(new_task(8), pool_left=3_000)
    roles = Roles((0, 1, 2, 3), (4, 5, 6, 6))
    proposals = [
        ProposalVerdict(4, "accepted", HASH),
        ProposalVerdict(5, "malformed", HASH),
        ProposalVerdict(6, "accepted", HASH),
    ]
    case = outcome(proposals, CandidateVerdict(HASH, (), None), roles, state)
    assert OPEN.accepts(case)
    assert OPEN.rewards(case, True) == {4: 333, 6: 666}
    assert OPEN.rewards(case, False) == {}
    assert OPEN.slashed(case, True) == {}
    assert not OPEN.scores_proposals
    assert not OPEN.scores_candidate
