"""The verifier's `marginal`: verdicts, steps, pay and fees, by values computed by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from flock_ray.protocol.ballot import Score
from flock_ray.protocol.state import TaskState
from flock_ray.verify.accounting import FEES_OWED, settle_accounts, settle_fees
from flock_ray.verify.accuracy import ACCURACY
from flock_ray.verify.draw import Seats
from flock_ray.verify.payment import Outcome
from flock_ray.verify.payment_marginal import MarginalPayment, consensus_of, is_harm, least_difference
from flock_ray.verify.scores import Candidate, Consensus, Electorate, Judgement, Verdict
from tests.protocol.players import STAKE, TOKEN, new_task

PAYMENT = MarginalPayment()
MOST = 10**12


def task(noted: Mapping[int, Mapping[str, int]] | None = None, **terms: object) -> TaskState:
    state = new_task(12)
    parameters = {"voter_share": 3_000, "fee_bp": 5, "history": 16}
    members = tuple(replace(m, noted=(noted or {}).get(number, {})) for number, m in enumerate(state.members))
    return replace(state, terms=replace(state.terms, mechanism_parameters=parameters, **terms), members=members)


def electorate(
    voters: Sequence[int] = (0, 1, 2, 3),
    proposers: Sequence[int] = (8, 9, 10, 11),
    voiceless: Sequence[int] = (),
    state: TaskState | None = None,
) -> Electorate:
    return Electorate(state or task(), Seats(tuple(voters), tuple(proposers)), frozenset(voiceless))


def scores(*gains: tuple[int, ...]) -> dict[int, tuple[Score, ...]]:
    """Of voters 0, 1, 2 and so on."""
    return {voter: tuple(Score(gain, 7) for gain in own) for voter, own in enumerate(gains)}


# Consensus.


@pytest.mark.parametrize(
    ("gains", "score", "band"),
    [
        # deviations 10, 0, 10 and 20 thousand, of which the larger middle one: 1858 * 10000 // 2000
        ({0: 10_000, 1: 20_000, 2: 30_000, 3: 40_000}, 20_000, 9_290),
        # three seats: 1858 * 10000 // isqrt(3 * 10**6), which is 1732
        ({0: 10_000, 1: 20_000, 2: 30_000}, 20_000, 10_727),
        ({0: 7, 1: 7, 2: 7, 3: 900_000}, 7, 200),
        ({0: 7, 1: 7, 2: 900_007, 3: 900_007}, 7, 1_858 * 900_000 // 2_000),
        ({2: -5}, -5, 200),
        ({0: -MOST, 1: MOST, 2: MOST}, MOST, 200),
        ({0: -MOST, 1: -MOST, 2: MOST, 3: MOST}, -MOST, 1_858 * 2 * MOST // 2_000),
    ],
)
def test_score_and_band_are_medians(gains: dict[int, int], score: int, band: int) -> None:
    assert consensus_of(electorate(), gains, 200) == Consensus(score, band, gains)


def test_seats_are_counted_and_the_voiceless_are_not() -> None:
    gains = {0: 10_000, 1: 20_000, 2: 90_000}
    assert consensus_of(electorate((0, 1, 2, 2)), gains, 1).score == 20_000
    assert consensus_of(electorate((0, 1, 2, 2, 2)), gains, 1).score == 90_000
    silent = consensus_of(electorate((0, 1, 2, 2, 2), voiceless=[2]), gains, 1)
    assert silent == Consensus(10_000, 1_858 * 10_000 // 1_414, gains)  # its gain is still told
    assert consensus_of(electorate(voiceless=[0, 1]), {0: 5, 1: 5}, 1).score == 5


@pytest.mark.parametrize(
    ("proposers", "least"), [((8,), 200), ((8, 9, 10), 67), ((8, 8, 9, 9, 9), 100), (tuple(range(201)), 1)]
)
def test_the_least_difference_is_a_part_of_a_candidate_s(proposers: tuple[int, ...], least: int) -> None:
    assert least_difference(Seats((300,), proposers)) == least


# Proposals.


def test_an_update_is_accepted_if_both_scores_are_above_the_band_of_its_residual() -> None:
    """Four proposers: no band is below 50."""
    for gains, status in (
        ([(51, 51)] * 4, "accepted"),
        ([(50, 51)] * 4, "rejected"),
        ([(51, 50)] * 4, "rejected"),
        # the residual's band is 50 and that of what enters far above it, which does not count
        ([(51, 10**6), (51, 2 * 10**6), (51, 3 * 10**6), (51, 4 * 10**6)], "accepted"),
        ([(10_000, 10**6), (20_000, 10**6), (30_000, 10**6), (40_000, 10**6)], "accepted"),  # 20000 of 9290
        ([(10_000, 9_291), (20_000, 9_291), (30_000, 9_291), (40_000, 9_291)], "accepted"),
        ([(10_000, 9_290), (20_000, 9_290), (30_000, 9_290), (40_000, 9_290)], "rejected"),
    ):
        judgement = PAYMENT.judged(electorate(), scores(*gains))
        assert judgement.status == status
        assert judgement.consensus.gains == {voter: own[0] for voter, own in enumerate(gains)}
        assert judgement.entering is not None
        assert judgement.entering.gains == {voter: own[1] for voter, own in enumerate(gains)}


SEVEN = electorate(range(7))  # a quorum of 5


@pytest.mark.parametrize(
    ("entering", "harmful"),
    [
        ([-201] * 7, True),
        ([-200] * 7, False),
        ([-201] * 5 + [MOST] * 2, True),  # the fifth lowest is the quorum's
        ([-201] * 4 + [-200] * 3, False),
        ([-MOST] * 4 + [0] * 3, False),
        # deviations from the median -90000 up to 30000: a band of 1858 * 20000 // 2645
        ([-120_000, -110_000, -100_000, -90_000, -80_000, -70_000, -60_000], True),
        ([-120_000, -110_000, -100_000, -90_000, -4 * 14_049, -60_000, -60_000], False),
    ],
)
def test_an_update_is_harmful_if_a_quorum_measures_harm(entering: list[int], harmful: bool) -> None:
    judgement = PAYMENT.judged(SEVEN, scores(*((-5, gain) for gain in entering)))
    assert judgement.status == ("harmful" if harmful else "rejected")


def test_the_residual_s_score_is_no_harm() -> None:
    assert PAYMENT.judged(SEVEN, scores(*[(-MOST, 0)] * 7)).status == "rejected"
    assert PAYMENT.judged(SEVEN, scores(*[(51, 51)] * 7)).status == "accepted"


@pytest.mark.parametrize(
    ("voters", "voiceless", "harmful"),
    [
        (range(7), [], True),
        (range(6), [], False),
        ([*range(7), 0], [], False),  # 8 * 8 // (4 + 6)
        ([*range(8), 0], [], True),  # 9 * 9 // (4 + 7)
        (range(8), [7], True),
        (range(8), [6, 7], False),
        (range(12), [9, 10, 11], True),  # a quorum of 9
        (range(12), [8, 9, 10, 11], False),  # eight independent voters, but no quorum
    ],
)
def test_fewer_than_seven_independent_voters_or_a_quorum_slash_nobody(
    voters: Sequence[int], voiceless: Sequence[int], harmful: bool
) -> None:
    some = electorate(voters, voiceless=voiceless)
    assert is_harm(some, consensus_of(some, dict.fromkeys(voters, -MOST), 50)) == harmful


# How far to go.


@pytest.mark.parametrize(
    ("gains", "taken"),
    [
        ([(1, 2, 3, 4)] * 4, 3),
        ([(1, 1, 1, 1)] * 4, 0),
        ([(4, 3, 2, 1)] * 4, 0),
        ([(4, 3, 5, 5)] * 4, 2),  # past a step that is worse than the first
        ([(-9, -8, -9, -7)] * 4, 3),
        ([(1, 2, 0, 0), (1, 2, 0, 0), (1, 0, 0, 0), (1, 0, 0, 0)], 0),  # the lower of 1 and -1
        ([(1, 2, 0, 0), (1, 2, 0, 0), (1, 2, 0, 0), (1, -MOST, 0, 0)], 1),
        ([(0, 5, 9, 0), (0, 5, 4, 0), (0, 5, 4, 0), (0, 5, 9, 0)], 1),  # differences to the second, not to the first
    ],
)
def test_a_further_step_is_taken_if_the_median_gains_by_it(gains: list[tuple[int, ...]], taken: int) -> None:
    assert PAYMENT.taken(electorate(), scores(*gains)) == taken
    assert PAYMENT.steps == (1, 2, 3, 5)


def test_steps_are_taken_by_the_seats_that_count() -> None:
    some = scores((0, 1, 0, 0), (0, -1, 0, 0), (0, 1, 0, 0))
    assert PAYMENT.taken(electorate((0, 1, 2)), some) == 1
    assert PAYMENT.taken(electorate((0, 1, 1, 2)), some) == 0
    assert PAYMENT.taken(electorate((0, 1, 1, 2), voiceless=[1]), some) == 1
    assert PAYMENT.taken(electorate((0, 1, 2), voiceless=[0]), some) == 0


@pytest.mark.parametrize(
    ("gains", "accepted"), [([-200] * 4, True), ([-201] * 4, False), ([-9_290, -9_290, 710, 710], True)]
)
def test_a_candidate_is_accepted_down_to_minus_the_band_of_one_adapter(gains: list[int], accepted: bool) -> None:
    consensus = PAYMENT.consensus(electorate(), {voter: Score(gain, 0) for voter, gain in enumerate(gains)})
    candidate = Candidate(b"c", ((8, 1),), consensus, 1, ((1, b"c", consensus.score),))
    assert PAYMENT.accepts(Outcome(electorate(), (), candidate, frozenset())) == accepted


# Pay and fees.


def judged(member: int, status: str, residual: int, entering: int, band: int, own: Mapping[int, int] = {}) -> Verdict:
    return Verdict(member, status, b"p", Consensus(residual, band, dict(own)), Consensus(entering, 10**6, dict(own)))


def outcome(
    proposals: Sequence[Verdict],
    weights: Mapping[int, int] | None = None,
    present: Sequence[int] = (),
    some: Electorate | None = None,
) -> Outcome:
    held = {one.member: 1 for one in proposals if one.status == "accepted"} if weights is None else weights
    candidate = Candidate(b"c", tuple(held.items()), Consensus(1, 1, {}), 1, ((1, b"c", 1),))
    return Outcome(some or electorate(), tuple(proposals), candidate, frozenset(present))


BUDGET = 1_000 * TOKEN // 3
FOR_VOTERS = BUDGET * 3_000 // 10_000
FOR_PROPOSERS = BUDGET - FOR_VOTERS


def test_proposers_earn_by_the_worse_score_above_the_band_and_by_seats() -> None:
    proposals = (
        judged(8, "accepted", 1_050, 5_000, 50),  # 1000
        judged(9, "accepted", 5_000, 350, 50),  # 300, and two seats
        judged(10, "rejected", 10, 10, 50),
        judged(11, "accepted", 9_000, 9_000, 50),  # of weight 0
    )
    done = outcome(proposals, {8: 2, 9: 1, 11: 0}, some=electorate(proposers=(8, 9, 9, 10, 11)))
    assert PAYMENT.rewards(done, True) == {8: FOR_PROPOSERS * 1_000 // 1_600, 9: FOR_PROPOSERS * 600 // 1_600}
    assert PAYMENT.rewards(done, False) == {}


def test_less_than_a_thousand_micro_nats_earn_a_part_of_the_budget() -> None:
    done = outcome([judged(8, "accepted", 51, 52, 50), judged(9, "accepted", 300, 250, 50)])
    assert PAYMENT.rewards(done, True) == {8: FOR_PROPOSERS * 1 // 1_000, 9: FOR_PROPOSERS * 200 // 1_000}


@pytest.mark.parametrize(
    ("terms", "stake", "fee"),
    [
        ({}, STAKE, FOR_PROPOSERS // 32),  # 7.3 tokens; of the stake 1.5
        ({"pool": 9 * TOKEN}, STAKE, STAKE * 5 // 10_000),
        ({"num_proposers": 100}, STAKE, STAKE * 5 // 10_000),
        ({"num_proposers": 5}, 3, FOR_PROPOSERS // 40),
    ],
)
def test_what_was_scored_and_not_accepted_costs_a_fee(terms: dict[str, int], stake: int, fee: int) -> None:
    state = task(**terms)
    state = replace(
        state,
        pool_left=terms.get("pool", state.pool_left),
        members=tuple(replace(member, stake=stake) for member in state.members),
    )
    proposals = (
        judged(8, "accepted", 10**6, 10**6, 50),
        judged(9, "rejected", 0, 0, 50),
        judged(10, "harmful", 0, -(10**6), 50),
        *(Verdict(11, status) for status in ("unseen", "malformed", "copied", "refused", "missing")),
    )
    done = outcome(proposals, some=electorate(proposers=(8, 9, 9, 10), state=state))
    assert PAYMENT.fees(done) == {9: fee, 10: fee}
    assert PAYMENT.slashed(done, True) == PAYMENT.slashed(done, False) == {10: "harmful"}


def test_voters_earn_by_accuracy_after_the_epoch() -> None:
    """Members 0 and 1 fit the proposals fully and member 2 scores nothing; all three measure with two others."""
    own = ({0: 1_000, 1: 1_000, 3: 1_000}, {0: 90_000, 1: 90_000, 3: 90_000})
    proposals = [judged(8 + i, "rejected", 0, 0, 50, gains) for i, gains in enumerate(own)]
    state = task({1: {ACCURACY: 500_000}, 2: {ACCURACY: 100, FEES_OWED: 9}, 3: {ACCURACY: 8}})
    newest = 10**6 - (0 + 11_112) // 2  # 1000 fits 90000 by 1/90
    after = {0: newest // 4, 1: 500_000 + (newest - 500_000) // 4, 2: 75}
    done = outcome(proposals, present=[0, 1, 2], some=electorate((0, 1, 1, 2, 3), state=state))
    assert PAYMENT.noted(done, False) == {
        0: {ACCURACY: after[0]},
        1: {ACCURACY: after[1]},
        2: {ACCURACY: after[2], FEES_OWED: 9},
    }
    least = after[0] // 4  # the middle one of 75, 248611 and 623611
    weights = {0: after[0] - least, 1: 2 * (after[1] - least)}
    assert PAYMENT.rewards(done, False) == {
        voter: FOR_VOTERS * weight // sum(weights.values()) for voter, weight in weights.items()
    }


def test_with_fewer_than_two_proposals_what_is_known_pays() -> None:
    state = task({0: {ACCURACY: 5}, 1: {ACCURACY: -5}})
    for proposals in ([], [judged(8, "rejected", 0, 0, 50, {0: 7, 1: 7, 2: 7})]):
        done = outcome(proposals, present=[0, 1, 2], some=electorate(state=state))
        assert PAYMENT.noted(done, True) == {0: {ACCURACY: 5}, 1: {ACCURACY: -5}}
        assert PAYMENT.rewards(done, True) == {0: FOR_VOTERS}
        assert PAYMENT.rewards(outcome(proposals, present=[1, 2], some=electorate(state=state)), True) == {}


def test_who_is_absent_is_neither_measured_nor_paid() -> None:
    own = ({0: 1_000, 1: 1_000, 3: 1_000}, {0: 90_000, 1: 90_000, 3: 90_000})
    proposals = [judged(8 + i, "rejected", 0, 0, 50, gains) for i, gains in enumerate(own)]
    done = outcome(proposals, present=[0])
    assert set(PAYMENT.noted(done, False)) == set(PAYMENT.rewards(done, False)) == {0}


# Fees and earnings.


def test_earnings_pay_owed_fees_before_they_are_rewards() -> None:
    state = task({1: {FEES_OWED: 70}, 2: {FEES_OWED: 30, ACCURACY: 1}, 3: {FEES_OWED: 5}, 5: {FEES_OWED: 6}})
    fees = settle_fees(state, earned={0: 100, 1: 50, 2: 50, 4: 9, 6: 0}, charged={3: 4, 4: 9, 6: 2})
    assert fees.rewards == {0: 100, 1: 0, 2: 20, 4: 0, 6: 0}
    assert fees.rows == ((1, 0, 50), (2, 0, 30), (3, 4, 0), (4, 9, 9), (6, 2, 0))
    assert fees.withheld == 89 and not fees.slashes
    noted = fees.noted(state, {2: {FEES_OWED: 30, ACCURACY: 2}, 7: {ACCURACY: 3}})
    assert noted == {
        1: {FEES_OWED: 20},
        2: {ACCURACY: 2},
        3: {FEES_OWED: 9},
        4: {},
        5: {FEES_OWED: 6},
        6: {FEES_OWED: 2},
        7: {ACCURACY: 3},
    }


def test_a_debt_above_a_hundredth_of_the_stake_is_slashed() -> None:
    owed = {0: {FEES_OWED: 10}, 1: {FEES_OWED: 9, ACCURACY: 1}, 2: {FEES_OWED: 20}, 3: {FEES_OWED: 11}}
    state = task(owed)
    state = replace(state, members=tuple(replace(member, stake=1_099) for member in state.members))
    fees = settle_fees(state, earned={2: 10}, charged={1: 2})
    assert [(slash.member, slash.amount, slash.reason) for slash in fees.slashes] == [(1, 11, "fees"), (3, 11, "fees")]
    assert fees.rows == ((1, 2, 0), (2, 0, 10))
    assert fees.noted(state, {}) == {0: {FEES_OWED: 10}, 1: {ACCURACY: 1}, 2: {FEES_OWED: 10}, 3: {}}


def test_what_is_withheld_leaves_the_pool_and_is_summed_up() -> None:
    state = replace(task({1: {FEES_OWED: 70}}), withheld=5)
    fees = settle_fees(state, {0: 100, 1: 90}, {})
    money = settle_accounts(state, fees.rewards, list(fees.slashes), fees.noted(state, {}), False, fees.withheld)
    assert money.pool_left == state.pool_left - 190 and money.withheld == 75
    assert [money.members[number].earned for number in (0, 1)] == [100, 20]
    assert money.members[1].noted == {}


@pytest.mark.parametrize(("gains", "status"), [((51, 51), "accepted"), ((51, 50), "rejected"), ((-5, -201), "harmful")])
def test_a_verdict_is_of_the_scores_and_not_of_standard_errors(gains: tuple[int, int], status: str) -> None:
    errors = {voter: tuple(Score(gain, 10**12 * voter) for gain in gains) for voter in range(7)}
    assert PAYMENT.judged(SEVEN, errors) == PAYMENT.judged(SEVEN, scores(*[gains] * 7))
    assert isinstance(PAYMENT.judged(SEVEN, errors), Judgement)
    assert PAYMENT.judged(SEVEN, errors).status == status
