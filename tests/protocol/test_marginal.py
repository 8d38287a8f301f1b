"""The mechanism `marginal`: by hand, against its formulas written out, and what holds for all outcomes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from math import floor, isqrt
from random import Random
from statistics import median_high, median_low
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from flock_ray.protocol.ballot import Check, ProposalEntry, Score
from flock_ray.protocol.epoch import derive
from flock_ray.protocol.fees import FEES_OWED, settle_fees
from flock_ray.protocol.hashing import keccak
from flock_ray.protocol.inbox import Inbox
from flock_ray.protocol.judging import judge_proposal
from flock_ray.protocol.marginal import ACCURACY, Marginal
from flock_ray.protocol.mechanism import Outcome
from flock_ray.protocol.roles import Roles
from flock_ray.protocol.state import Slash, TaskState
from flock_ray.protocol.verdict import CandidateVerdict, Consensus, Panel, ProposalVerdict
from tests.protocol.players import TOKEN, Play, new_task, relayer_share, settled, total_wei
from tests.verify.epochs import mischief

MARGINAL = Marginal()
HASH = keccak(b"payload")
ROLES = Roles(tuple(range(8)), (8, 9, 10, 10))  # three proposers, q = 6
GAINS = st.integers(-(10**6), 10**6)


def task(**terms: Any) -> TaskState:
    return new_task(12, num_voters=8, mechanism="marginal", **terms)


def with_noted(state: TaskState, noted: Mapping[int, Mapping[str, int]]) -> TaskState:
    members = [replace(member, noted=noted.get(number, {})) for number, member in enumerate(state.members)]
    return replace(state, members=tuple(members))


def panel(voiceless: Sequence[int] = (), roles: Roles = ROLES) -> Panel:
    return Panel(roles, task().terms, frozenset(voiceless))


def joint(gains: Sequence[int] | Mapping[int, int], num_parts: int = 3, voiceless: Sequence[int] = ()) -> Consensus:
    reported = gains if isinstance(gains, Mapping) else dict(enumerate(gains))
    return MARGINAL.consensus({one: Score(gain, 0) for one, gain in reported.items()}, panel(voiceless), num_parts)


def judged(
    residual: Sequence[int], entering: Sequence[int], roles: Roles = ROLES, voiceless: Sequence[int] = ()
) -> ProposalVerdict:
    entries = {
        voter: ProposalEntry(8, HASH, Check.VALID, Score(one, 5), Score(other, 5))
        for voter, (one, other) in enumerate(zip(residual, entering, strict=True))
    }
    return judge_proposal(8, HASH, entries, panel(voiceless, roles), MARGINAL)


def outcome(
    proposals: Sequence[ProposalVerdict], state: TaskState | None = None, present: Sequence[int] = tuple(range(8)),
    voiceless: Sequence[int] = (), weights: Sequence[int] | None = None,
) -> Outcome:  # fmt: skip
    accepted = [proposal.member for proposal in proposals if proposal.status == "accepted"]
    held = tuple(zip(accepted, weights or [1] * len(accepted), strict=True))
    verdict = CandidateVerdict(HASH, held, Consensus(0, 200, {})) if held else CandidateVerdict(None, (), None)
    return Outcome(
        state or task(), ROLES, tuple(proposals), verdict, frozenset(present), frozenset(voiceless)
    )  # fmt: skip


def scored(member: int, status: str, residual: Consensus, entering: Consensus | None = None) -> ProposalVerdict:
    return ProposalVerdict(member, status, HASH, residual, entering or residual)


# Bands and verdicts.


def test_a_band_by_hand() -> None:
    """Eight seats: the lower median is 3,000, the upper median of 0 1 1 1 2 2 3 97 (thousands) is 2,000."""
    found = joint([1_000, 2_000, 2_000, 3_000, 4_000, 5_000, 6_000, 100_000])
    assert (found.score, found.band) == (3_000, 1_858 * 2_000 // isqrt(8 * 10**6))
    assert isqrt(8 * 10**6) == 2_828 and found.band == 1_314
    assert joint([5] * 8, 3).band == 67 and joint([5] * 8, 1).band == 200  # rounded up


@given(st.lists(GAINS, min_size=8, max_size=8), st.sets(st.integers(0, 7)), st.integers(1, 9))
def test_score_and_band_are_of_the_seats_that_count(gains: list[int], voiceless: set[int], num_parts: int) -> None:
    found = joint(gains, num_parts, sorted(voiceless))
    counted = [gain for voter, gain in enumerate(gains) if voter not in voiceless] or gains
    middle = sorted(counted)[(len(counted) - 1) // 2]
    deviation = sorted(abs(gain - middle) for gain in counted)[len(counted) // 2]
    least = -(-200 // num_parts)
    assert found == Consensus(
        middle, max(least, 1_858 * 1_000 * deviation // (1_000 * isqrt(len(counted) * 10**6))), dict(enumerate(gains))
    )


def test_a_seat_is_a_score() -> None:
    roles = Roles((0, 0, 0, 1, 2), (8,))
    found = MARGINAL.consensus({0: Score(7, 0), 1: Score(900, 0), 2: Score(901, 0)}, panel(roles=roles), 1)
    assert found.score == 7


def test_the_worse_of_both_scores_must_be_above_the_band_of_the_residual() -> None:
    assert judged([68] * 8, [68] * 8).status == "accepted"  # the band is 67
    assert judged([67] * 8, [900] * 8).status == "rejected"
    assert judged([900] * 8, [67] * 8).status == "rejected"
    wide = judged([5_000, 6_000, 7_000, 8_000, 9_000, 10_000, 11_000, 12_000], [1_500] * 8)
    assert wide.consensus is not None and 1_000 < wide.consensus.band < 2_000
    assert wide.status == "accepted"


def test_harm_needs_a_quorum_of_seats_and_seven_independent_voters() -> None:
    bad = [-300, -400, -300, -400, -300, -400, 50, 60]  # q = 6
    found = judged([-1] * 8, bad)
    assert found.entering is not None and found.entering.band == 67 and found.status == "harmful"
    assert judged([-1] * 8, [-300, -400, -300, -400, -300, -200, 50, 60]).status == "rejected"
    assert judged([-1] * 8, bad, voiceless=[0]).status == "rejected"  # of seven that count, five say so
    assert judged([-1] * 8, [-300] * 8, voiceless=[0]).status == "harmful"
    assert judged([-1] * 8, [-300] * 8, voiceless=[0, 1]).status == "rejected"  # six voters that count
    doubled = Roles((0, 0, 0, 1, 2, 3, 4, 5, 6), (8, 9, 10))  # 81 / (9 + 6) is 5
    assert judged([-1] * 7, [-300] * 7, doubled).status == "rejected"


def test_who_has_no_voice_still_counts_for_the_quorum() -> None:
    assert judged([900] * 6, [900] * 6, voiceless=[0, 1]).status == "accepted"
    assert judged([900] * 5, [900] * 5).status == "unseen"
    few = {voter: ProposalEntry(8, HASH, Check.VALID, Score(900, 0)) for voter in range(8)}  # one score of two
    assert judge_proposal(8, HASH, few, panel(), MARGINAL) == ProposalVerdict(8, "unseen", HASH)


# Voices.


def voiceless(accuracies: Mapping[int, int], voters: tuple[int, ...] = tuple(range(8))) -> frozenset[int]:
    state = with_noted(task(), {one: {ACCURACY: value} for one, value in accuracies.items()})
    state.__dict__["roles"] = Roles(voters, (8, 9))
    return MARGINAL.voiceless(state)


def test_who_is_far_below_the_others_loses_its_voice() -> None:
    known = dict.fromkeys(range(8), 400)
    assert voiceless({}) == frozenset()
    assert voiceless(known) == frozenset()
    assert voiceless({**known, 3: 100}) == frozenset()
    assert voiceless({**known, 3: 99}) == {3}
    assert voiceless({3: 99, 4: 400}) == {3}  # of those that are known, the upper median
    assert voiceless({3: 99}) == frozenset()
    assert voiceless({0: -8, 1: -5, 2: -5}) == {0, 1}  # all are below floor(-5 / 4) = -2
    assert voiceless({**known, 3: 9, 4: 8, 5: 8}) == {4, 5}  # at most two of eight seats, the lowest first


def test_the_first_that_would_be_too_much_ends_it() -> None:
    known = dict.fromkeys(range(4, 8), 400)
    assert voiceless({**known, 1: 5, 2: 7}, (1, 1, 2, 4, 5, 6, 7, 3)) == {1}
    assert voiceless({**known, 1: 7, 2: 5}, (1, 1, 2, 4, 5, 6, 7, 3)) == {2}  # not 1, and nobody after it


@given(st.dictionaries(st.integers(0, 9), st.integers(-(10**6), 10**6)), st.lists(st.integers(0, 9), min_size=4))
def test_at_most_a_third_of_the_seats_and_nobody_above_a_quarter_of_the_median(
    accuracies: dict[int, int], voters: list[int]
) -> None:
    lost = voiceless(accuracies, tuple(voters))
    known = {voter: accuracies[voter] for voter in set(voters) & accuracies.keys()}
    assert lost <= known.keys()
    assert 3 * sum(voters.count(voter) for voter in lost) <= len(voters)
    if lost:
        assert max(accuracies[voter] for voter in lost) < median_high(known.values()) // 4
        kept = [known[voter] for voter in known.keys() - lost]
        assert not kept or max(accuracies[voter] for voter in lost) <= min(kept)


# Steps.


def taken(*gains: Sequence[int], voiceless: Sequence[int] = ()) -> int:
    return MARGINAL.steps[MARGINAL.best_step([dict(enumerate(one)) for one in gains], panel(voiceless))]


def test_a_longer_step_needs_a_median_that_gains() -> None:
    base, more, less = [10] * 8, [11] * 8, [9] * 8
    assert taken(base, base, base, base) == 1
    assert taken(base, more, more, more) == 2
    assert taken(base, less, more, more) == 3
    assert taken(base, more, base, [12] * 8) == 5  # against the one taken, not the one before
    half = [11, 11, 11, 11, 10, 10, 10, 10]
    assert taken(base, half, base, base) == 1  # the lower median
    assert taken(base, half, base, base, voiceless=[7]) == 2


# Money.


def test_pay_of_proposers_by_hand() -> None:
    """Pool 3,000 over 3 epochs: 300 for voters, 700 by (400 - 67) : 2 * (500 - 67), at least 1,000 in all."""
    state = replace(task(), pool_left=3_000)
    proposals = [
        scored(8, "accepted", Consensus(400, 67, {})),
        scored(9, "rejected", Consensus(60, 67, {})),
        scored(10, "accepted", Consensus(900, 67, {}), Consensus(500, 67, {})),
    ]
    assert MARGINAL.rewards(outcome(proposals, state), True) == {8: 700 * 333 // 1_199, 10: 700 * 866 // 1_199}
    assert MARGINAL.rewards(outcome(proposals, state), False) == {}
    assert MARGINAL.rewards(outcome(proposals, state, weights=[1, 0]), True) == {8: 700 * 333 // 1_000}


def test_fees_by_hand() -> None:
    """The proposers' part of 10,000 is 7,000; of 8 times 4 seats one pays 218."""
    state = replace(task(), pool_left=30_000)
    members = [
        replace(member, stake=stake) for member, stake in zip(state.members, [10**6] * 9 + [10**5] * 3, strict=True)
    ]
    state = replace(state, members=tuple(members))
    proposals = [
        scored(8, "rejected", Consensus(1, 67, {})),
        scored(9, "harmful", Consensus(1, 67, {})),
        ProposalVerdict(10, "unseen", HASH),
    ]
    assert MARGINAL.charged(outcome(proposals, state)) == {8: 500, 9: 218}
    assert MARGINAL.charged(outcome([scored(8, "accepted", Consensus(900, 67, {}))], state)) == {}
    assert MARGINAL.slashed(outcome(proposals, state), True) == {9: "harmful"}


def members_with(stakes: Sequence[int], owed: Sequence[int]) -> Any:
    state = task()
    return [
        replace(member, stake=stake, noted={FEES_OWED: debt, ACCURACY: 7} if debt else {ACCURACY: 7})
        for member, stake, debt in zip(state.members, stakes, owed, strict=False)
    ]


def test_earnings_pay_fees_first_and_debts_above_a_hundredth_of_the_stake_are_slashed() -> None:
    members = members_with([1_000, 1_000, 1_000, 1_099, 500], [0, 4, 0, 3, 6])
    fees = settle_fees(members, {0: 9, 1: 3, 2: 20}, {2: 8, 3: 8})
    assert fees.rewards == {0: 9, 1: 0, 2: 12}
    assert fees.rows == ((1, 0, 3), (2, 8, 8), (3, 8, 0))
    assert fees.owed == {1: 1, 2: 0, 3: 0, 4: 0}
    assert fees.slashes == (Slash(3, 11, "fees"), Slash(4, 6, "fees"))
    assert fees.withheld == 11
    noted = fees.noted(members, {0: {ACCURACY: 8}, 2: {ACCURACY: 9}})
    assert noted == {
        0: {ACCURACY: 8}, 1: {ACCURACY: 7, FEES_OWED: 1}, 2: {ACCURACY: 9}, 3: {ACCURACY: 7}, 4: {ACCURACY: 7}
    }  # fmt: skip


@given(
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**4)), min_size=5, max_size=5),
    st.dictionaries(st.integers(0, 4), st.integers(0, 10**4)),
    st.dictionaries(st.integers(0, 4), st.integers(1, 10**4)),
)
def test_every_wei_of_a_fee_is_owed_withheld_or_slashed(
    held: list[tuple[int, int]], earned: dict[int, int], charged: dict[int, int]
) -> None:
    members = members_with([stake for stake, _ in held], [owed for _, owed in held])
    fees = settle_fees(members, earned, charged)
    assert sum(earned.values()) == sum(fees.rewards.values()) + fees.withheld
    owed_before = sum(member.noted.get(FEES_OWED, 0) for member in members)
    slashed = sum(slash.amount for slash in fees.slashes)
    assert owed_before + sum(charged.values()) == sum(fees.owed.values()) + fees.withheld + slashed
    for number, owed in fees.owed.items():
        assert 0 <= owed <= members[number].stake // 100
        assert not owed or not fees.rewards.get(number)  # nobody is paid that owes


@settings(max_examples=30)
@given(st.integers(0, 10**6))
def test_whatever_members_do_no_wei_appears_or_vanishes(seed: int) -> None:
    random = Random(seed)
    state = new_task(9, num_voters=4, mechanism="marginal", num_epochs=4, pool=10**21)
    total = total_wei(state)
    while not state.finished:
        record = derive(state, Inbox(mischief(random, state)))
        following = settled(state, record)
        total -= relayer_share(record)
        assert total_wei(following) == total
        assert following.withheld - state.withheld == sum(withheld for _, _, withheld in record.fees)
        assert list(record.voiceless) == sorted(MARGINAL.voiceless(state))
        state = following


# Accuracy.


def fit(own: int | None, other: int, least: int) -> int:
    return 0 if own is None else max(0, 10**6 - floor(Fraction(10**6 * abs(own - other), max(least, abs(other)))))


def written_out(voter: int, tables: Sequence[Mapping[int, int]], lost: frozenset[int]) -> int | None:
    """x of a voter, or None where fewer than two proposals were scored by others."""
    own, others = [], []
    for gains in tables:
        heard = [gains[v] for v in ROLES.voters if v != voter and v in gains and v not in lost]
        heard = heard or [gains[v] for v in ROLES.voters if v != voter and v in gains]
        if heard:
            own.append(gains.get(voter))
            others.append(sorted(heard)[(len(heard) - 1) // 2])
    m = len(own)
    if m < 2:
        return None
    k = [[fit(mine, other, 67) for other in others] for mine in own]
    crossed = sum(k[i][j] for i in range(m) for j in range(m) if i != j)
    return sum(k[i][i] for i in range(m)) // m - crossed // (m * (m - 1))


TABLES = st.lists(st.dictionaries(st.integers(0, 7), st.integers(-3_000, 3_000), min_size=1), max_size=3)


@given(TABLES, st.dictionaries(st.integers(0, 7), st.integers(-(10**6), 10**6)), st.sets(st.integers(0, 7)))
def test_accuracy_and_pay_of_voters_are_as_they_are_written(
    tables: list[dict[int, int]], before: dict[int, int], lost: set[int]
) -> None:
    state = with_noted(replace(task(), pool_left=3 * 10**9), {one: {ACCURACY: value} for one, value in before.items()})
    proposals = [scored(8 + i, "rejected", joint(gains)) for i, gains in enumerate(tables)]
    case = outcome(proposals, state, present=range(1, 8), voiceless=sorted(lost))
    after = dict(before)
    for voter in range(1, 8):
        x = written_out(voter, tables, frozenset(lost))
        if x is not None:
            after[voter] = before.get(voter, 0) + (x - before.get(voter, 0)) // 4
    noted = MARGINAL.noted(case)
    assert {voter: noted[voter][ACCURACY] if voter in noted else before.get(voter) for voter in range(8)} == {
        voter: after.get(voter) for voter in range(8)
    }
    able = {voter: max(0, after.get(voter, 0)) for voter in range(1, 8)}
    weights = {voter: max(0, value - median_high(able.values()) // 4) for voter, value in able.items()}
    total = sum(weights.values())
    expected = {v: 3 * 10**8 * weight // total for v, weight in weights.items() if weight} if total else {}
    assert MARGINAL.rewards(case, False) == expected


def test_only_scores_that_tell_proposals_apart_are_accurate() -> None:
    truth = [9_000, 3_000, -1_000]
    said = {0: truth, 1: truth, 2: [9_100, 2_900, -1_100], 3: [5_000] * 3, 4: [-gain for gain in truth], 5: truth}
    said |= {6: truth, 7: truth}
    proposals = [scored(8 + i, "rejected", joint({v: gains[i] for v, gains in said.items()})) for i in range(3)]
    accuracy = {voter: values[ACCURACY] for voter, values in MARGINAL.noted(outcome(proposals)).items()}
    assert min(accuracy[v] for v in (0, 1, 2, 5, 6, 7)) > 150_000
    assert accuracy[3] <= 0 and accuracy[4] < 0
    paid = MARGINAL.rewards(outcome(proposals), False)
    assert paid.keys() == {0, 1, 2, 5, 6, 7}


# Whole epochs.


def test_a_record_has_both_scores_all_steps_and_the_fees() -> None:
    state = new_task(8, mechanism="marginal")
    *_, last = sorted(set(state.roles.proposers))
    play = Play(
        gain=lambda voter, proposer: -500 if proposer == last else 40_000 * (1 + proposer) + voter,
        entering=lambda voter, proposer: 30_000 * (1 + proposer) + voter,
        step_gain=lambda voter, step: 5_000 - 1_000 * abs(step - 3),
    )
    record = play.record(state)
    assert record.accepted and record.candidate.step == 3
    assert [one.step for one in record.candidate.steps] == [1, 2, 3, 5]
    assert record.adapter == record.candidate.candidate == record.candidate.steps[2].candidate
    assert record.fees == ((last, max(state.members[last].stake * 5 // 10_000, 7 * 10**20 // 3 // 32), 0),)
    assert record.members[last].noted == {FEES_OWED: record.fees[0][1]}
    following = settled(state, record)
    assert following.adapters == (state.adapter, record.adapter) and following.withheld == 0


def test_the_history_holds_the_last_adapters_that_differ() -> None:
    state = new_task(8, mechanism="marginal", num_epochs=9, mechanism_parameters={"history": 2})
    seen = [state.adapter]
    for epoch in range(6):
        gain = (lambda voter, proposer: -900) if epoch == 2 else (lambda voter, proposer: 40_000 * (1 + proposer))
        record = Play(gain=gain).record(state)
        assert record.accepted == (epoch != 2)
        state = settled(state, record)
        if record.accepted:
            seen.append(record.adapter)
        assert state.adapters == tuple(seen[-3:])


def test_a_debt_is_slashed_beside_another_slash_and_later_in_the_list() -> None:
    state = new_task(16, num_voters=8, mechanism="marginal", stake=100 * TOKEN, min_stake=100 * TOKEN)
    first = sorted(set(state.roles.proposers))[0]
    gains = {proposer: -90_000 if proposer == first else -100 for proposer in state.roles.proposers}
    record = Play(gain=lambda voter, proposer: gains[proposer]).record(state)
    reasons = [(slash.member, slash.reason) for slash in record.slashes]
    independent = len(set(state.roles.voters)) >= 7
    fees = [(proposer, "fees") for proposer in sorted(gains)]  # each owes 7.29 tokens
    assert reasons == ([(first, "harmful")] if independent else []) + fees
    assert all(not record.members[proposer].noted for proposer in gains)
    assert median_low([amount for _, amount, _ in record.fees]) == 700 * TOKEN // 3 // 32
