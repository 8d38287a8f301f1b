"""What attacks on a contest bring, in process: each test states the effect on ranks and rewards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest

from flock_ray.protocol.contest import derive_day
from flock_ray.protocol.contest_message import ContestKind
from flock_ray.protocol.contest_race import Rung
from flock_ray.protocol.contest_record import ContestRecord
from flock_ray.protocol.contest_scores import paired_difference
from flock_ray.protocol.contest_state import ContestState
from flock_ray.protocol.encoding import to_hex
from flock_ray.protocol.hashing import sha256
from flock_ray.verify.contest import replay_day
from tests.protocol.contest_players import (
    NODE_STAKE,
    SPREAD,
    TOKEN,
    ContestPlay,
    entry_of,
    graded,
    message,
    new_contest,
    payload_of,
    settled,
    total_wei,
)

STATE = new_contest()
NODES = tuple(range(7, 23))
LEADER, THIEF = NODES[0], NODES[-1]


@cache
def honest() -> ContestRecord:
    return ContestPlay(quality=graded(STATE)).record(STATE)


@cache
def second_day() -> ContestState:
    return settled(STATE, honest())


def income(record: ContestRecord, member: int) -> int:
    """What a member earned on a day, with what is held of it."""
    before = record.state.members[member]
    held = record.members[member].noted.get("vested", 0) - before.noted.get("vested", 0)
    return record.rewards.get(member, 0) + held


def shares_of_nodes(record: ContestRecord) -> dict[int, float]:
    nodes = {node: income(record, node) for node in NODES if income(record, node)}
    return {node: wei / sum(nodes.values()) for node, wei in nodes.items()}


def test_byte_copy_of_yesterdays_leader_earns_nothing_and_costs_the_others_nothing() -> None:
    """The copy is as good as the leader's adapter of the day before, which still beats all new ones."""
    state, stolen = second_day(), payload_of(1, LEADER)
    quality = graded(state, {stolen: -10 * SPREAD})
    copied = ContestPlay(quality=quality, payloads={THIEF: stolen}).record(state)
    without = ContestPlay(quality=quality, silent=[(ContestKind.COMMITMENT, THIEF)]).record(state)
    entry = entry_of(copied, THIEF)
    assert (entry.step.state, entry.step.reason, entry.unpaid) == ("ranked", "copy", True)
    assert income(copied, THIEF) == 0 and THIEF not in copied.ranking
    assert [income(copied, node) for node in NODES[:4]] == [income(without, node) for node in NODES[:4]]
    assert not copied.slashes


def test_who_submits_its_own_adapter_again_is_no_copy() -> None:
    state, own = second_day(), payload_of(1, LEADER)
    record = ContestPlay(quality=graded(state, {own: -SPREAD}), payloads={LEADER: own}).record(state)
    assert record.ranking[0] == LEADER and income(record, LEADER) > 0


def test_of_two_accounts_with_the_same_bytes_on_one_day_one_is_paid() -> None:
    """Two accounts of one owner: the seed decides whose it is; both together earn what one would."""
    record = ContestPlay(quality=graded(STATE), payloads={THIEF: payload_of(1, LEADER)}).record(STATE)
    paid = [node for node in (LEADER, THIEF) if income(record, node)]
    assert len(paid) == 1 and record.ranking[0] == paid[0]
    assert income(record, paid[0]) == income(honest(), LEADER)


def near(copy: bytes, original: bytes) -> Callable[[bytes], bytes | None]:
    return {copy: original}.get


@pytest.mark.parametrize(("gain", "unpaid"), [(1, True), (500, True), (5_000, False)])
def test_a_copy_that_is_a_little_better_on_every_row_is_unpaid(gain: int, unpaid: bool) -> None:
    """What rounding does to equal products, and a little noise, is alike on all rows: the copy's own error is tiny.

    So it must be better by three of the errors that other adapters have beside the original, about 800 micro-nats each.
    """
    state, original, copy = second_day(), payload_of(1, LEADER), payload_of(2, THIEF)
    play = ContestPlay(quality=graded(state), copy_of=near(copy, original))

    def rounded(validator: int, payload: bytes, rung: Rung, position: int, loss: int) -> int:
        of_original = play.honest_loss(original, rung, position)
        return max(0, of_original - gain * rung.rows[position].num_tokens) if payload == copy else loss

    play.measures = rounded
    record = play.record(state)
    entry = entry_of(record, THIEF)
    assert (entry.copy_of, entry.unpaid) == (original, unpaid)
    assert (income(record, THIEF) == 0) == unpaid
    assert replay_day(state, play.messages(state)).record == record.data


@pytest.mark.parametrize("worse", [0, SPREAD])
def test_gauge_copy_or_leader_plus_noise_is_unpaid_unless_it_is_really_better(worse: int) -> None:
    """What lies within the sketch's distance is scored beside its original, which is a mere reference."""
    state, original, copy = second_day(), payload_of(1, LEADER), payload_of(2, THIEF)
    quality = graded(state, {original: -SPREAD, copy: -SPREAD + worse})
    record = ContestPlay(quality=quality, copy_of=near(copy, original)).record(state)
    assert record.results[-1].scores.keys() >= {original, copy}
    assert original not in {entry.payload for entry in record.entries} and record.adapter == payload_of(2, LEADER)
    assert entry_of(record, THIEF).unpaid and income(record, THIEF) == 0


def test_luck_pays_few_copies() -> None:
    """Of 2,000 pairs that differ by noise alone, three standard errors let 3 pass; two would let 57 pass."""
    play, rung = ContestPlay(), honest().results[-1].rung

    def losses(name: bytes) -> list[int]:
        return [play.honest_loss(sha256(name), rung, position) for position in range(len(rung.rows))]

    pairs = [
        paired_difference(losses(b"copy %d" % number), losses(b"original %d" % number), rung.rows)
        for number in range(2_000)
    ]
    passing = [sum(pair.value < -z * pair.standard_error for pair in pairs) for z in (2, 3)]
    assert passing == [57, 3]


def test_a_crowd_of_copies_takes_nobodys_place() -> None:
    """Twelve of sixteen nodes send copies of yesterday's leader that beat all others: the four honest ones stay."""
    state, original = second_day(), payload_of(1, LEADER)
    crowd, few = NODES[4:], NODES[:4]
    copies = {payload_of(2, node): original for node in crowd}
    quality = graded(state, {original: -SPREAD} | dict.fromkeys(copies, -SPREAD))
    record = ContestPlay(quality=quality, copy_of=copies.get).record(state)
    assert {payload_of(2, node) for node in few} <= set(record.results[-1].rung.contenders)
    paid = [node for node in NODES if income(record, node)]
    assert set(few[:3]) <= set(paid) and len(set(paid) & set(crowd)) <= 1  # of one original's copies one at most


def test_a_copy_that_was_improved_beyond_the_error_is_paid() -> None:
    state, original, copy = second_day(), payload_of(1, LEADER), payload_of(2, THIEF)
    quality = graded(state, {original: -SPREAD, copy: -4 * SPREAD})
    record = ContestPlay(quality=quality, copy_of=near(copy, original)).record(state)
    assert record.ranking[0] == THIEF and income(record, THIEF) > 0 and record.adapter == copy


def test_a_minority_of_the_gate_makes_nobody_a_copy() -> None:
    state, original = second_day(), payload_of(1, LEADER)
    liars = list(state.roles.voters)[: len(state.roles.voters) - state.roles.quorum + 1][:1]
    honest_play = ContestPlay(quality=graded(state))
    sent = [one for one in honest_play.messages(state) if not (one.kind is ContestKind.GATE and one.member in liars)]
    for liar in liars:
        findings = sorted([to_hex(payload_of(2, node)), "valid", to_hex(original)] for node in NODES)
        sent.append(message(state, ContestKind.GATE, liar, {"findings": findings}))
    record = derive_day(state, sent)
    assert not any(entry.copy_of for entry in record.entries)
    assert record.ranking == honest_play.record(state).ranking


def test_a_copied_commitment_cannot_be_opened() -> None:
    """The commitment is bound to its account: the thief's reveal of the leader's payload and salt opens nothing."""
    sent = ContestPlay(quality=graded(STATE)).messages(STATE)
    theirs = {one.kind: one for one in sent if one.member == LEADER and one.epoch == 1}
    stolen = [message(STATE, kind, THIEF, theirs[kind].body) for kind in (ContestKind.COMMITMENT, ContestKind.MANIFEST)]
    others = [one for one in sent if one.member != THIEF and one.kind is not ContestKind.ACKNOWLEDGEMENT]
    listed = sorted(to_hex(one.digest) for one in [*others, *stolen] if one.kind is ContestKind.COMMITMENT)
    acknowledged = [
        message(STATE, ContestKind.ACKNOWLEDGEMENT, voter, {"commitments": listed})
        for voter in sorted(set(STATE.roles.voters))
    ]
    record = derive_day(STATE, [*others, *stolen, *acknowledged])
    assert (entry_of(record, THIEF).step.reason, income(record, THIEF)) == ("not_opened", 0)


@pytest.mark.parametrize("sign", [-1, 1])
def test_a_lying_minority_moves_no_rank_and_is_not_paid(sign: int) -> None:
    """Two of seven validators push one node up or down by far: same ranks and node pay; their own pay is 0."""
    liars, target = {0, 3}, NODES[-1] if sign < 0 else NODES[0]

    def lie(validator: int, payload: bytes, rung: Rung, position: int, loss: int) -> int:
        return max(0, loss + sign * 40_000_000) if validator in liars and payload == payload_of(1, target) else loss

    moved = 0
    for seed in range(1, 5):
        state, plain = new_contest(seed=seed), new_contest(seed=seed, rule="mean")
        truth = ContestPlay(quality=graded(state)).record(state)
        record = ContestPlay(quality=graded(state), measures=lie).record(state)
        assert record.ranking == truth.ranking and shares_of_nodes(record) == shares_of_nodes(truth)
        asked = [result for result in record.results if payload_of(1, target) in result.rung.contenders]
        sat = liars & {validator for result in asked for validator in result.ballots}
        assert all(record.validators[liar][2] and not income(record, liar) for liar in sat)
        assert not record.slashes  # nobody scored again: unpaid, not slashed
        mean = ContestPlay(quality=graded(plain), measures=lie).record(plain)
        moved += mean.ranking != ContestPlay(quality=graded(plain)).record(plain).ranking
    assert moved >= 3  # FLock's documented rule follows the lie


def test_a_quorum_that_scores_again_has_the_liar_slashed() -> None:
    liars = {0, 3}

    def lie(validator: int, payload: bytes, rung: Rung, position: int, loss: int) -> int:
        return loss + 40_000_000 if validator in liars else loss

    record = ContestPlay(quality=graded(STATE), measures=lie, rescores=range(7)).record(STATE)
    assert {(slash.member, slash.reason) for slash in record.slashes} == {
        (liar, "audited") for liar in liars & set(record.validators)
    }
    few = ContestPlay(quality=graded(STATE), measures=lie, rescores=[STATE.roles.voters[0]]).record(STATE)
    assert not few.slashes
    framed = ContestPlay(quality=graded(STATE), rescores=range(7)).record(STATE)
    assert not framed.slashes and framed.rewards == honest().rewards


@pytest.mark.parametrize("knows_the_rows", [False, True])
def test_a_lazy_validator_that_scores_a_tenth_of_the_rows_is_not_paid(knows_the_rows: bool) -> None:
    """It guesses the rest, an adaptive one with each row's public difficulty under the base model: paid nothing."""
    lazy = 2
    play = ContestPlay(quality=graded(STATE))

    def guess(validator: int, payload: bytes, rung: Rung, position: int, loss: int) -> int:
        if validator != lazy or position % 10 == 0:
            return loss
        if knows_the_rows:
            return ContestPlay().honest_loss(b"base".ljust(32), rung, position)
        return rung.rows[position].num_tokens * 2_000_000

    total = 0
    for seed in range(8):
        state = new_contest(seed=seed)
        record = replace(play, measures=guess).record(state)
        if lazy in record.validators:
            total += income(record, lazy)
            assert record.ranking[:4] == NODES[:4]
    assert total == 0


def test_a_validator_is_paid_for_the_losses_that_it_measured() -> None:
    """It says that it could not get most payloads: it earns about that part of what it would have earned."""
    sloth = honest().results[0].seats.voters[0]

    def idle(validator: int, payload: bytes, rung: Rung, position: int, loss: int) -> int | None:
        return None if validator == sloth and payload[0] % 4 else loss

    record = ContestPlay(quality=graded(STATE), measures=idle).record(STATE)
    assert record.validators[sloth][0] < 0.6 * honest().validators[sloth][0]
    assert income(record, sloth) < 0.7 * income(honest(), sloth)
    assert record.ranking == honest().ranking


def test_an_adapter_without_a_finite_loss_is_refused_in_the_first_rung_and_spoils_nothing() -> None:
    def blown(validator: int, payload: bytes, rung: Rung, position: int, loss: int) -> int:
        return 10**12 if payload == payload_of(1, LEADER) and position == 1 else loss

    record = ContestPlay(quality=graded(STATE), measures=blown).record(STATE)
    assert (entry_of(record, LEADER).step.reason, income(record, LEADER)) == ("no_loss", 0)
    assert record.ranking[:3] == NODES[1:4] and len(record.results[1].rung.contenders) < 9
    liar = ContestPlay(
        quality=graded(STATE),
        measures=lambda v, payload, r, i, loss: 10**12 if v == 1 and payload == payload_of(1, LEADER) else loss,
    ).record(new_contest(rule="mean"))
    assert liar.ranking[0] == LEADER and not entry_of(liar, LEADER).step.reason


def test_a_validator_that_seals_a_ballot_before_it_sees_another_cannot_copy_it() -> None:
    """The copied ballot opens the copier's commitment only if it was known then: an opened copy does not count."""
    sent = ContestPlay(quality=graded(STATE)).messages(STATE)
    ballots = {one.member: one for one in sent if one.kind is ContestKind.RUNG_1_BALLOT}
    copier, victim = sorted(ballots)[:2]
    others = [one for one in sent if one is not ballots[copier]]
    copy = message(STATE, ContestKind.RUNG_1_BALLOT, copier, ballots[victim].body)
    record = derive_day(STATE, [*others, copy])
    assert copier not in record.results[0].ballots
    assert [slash.reason for slash in record.slashes if slash.member == copier] == ["absent"]


def test_withheld_reveals_cost_their_owners_only() -> None:
    node = ContestPlay(quality=graded(STATE), silent=[(ContestKind.MANIFEST, NODES[3])]).record(STATE)
    assert entry_of(node, NODES[3]).step.reason == "not_revealed" and income(node, NODES[3]) == 0
    assert node.ranking[:3] == NODES[:3] and not node.slashes
    absent = honest().results[0].seats.voters[0]
    validator = ContestPlay(quality=graded(STATE), silent=[(ContestKind.RUNG_1_BALLOT, absent)]).record(STATE)
    assert validator.ranking[:4] == NODES[:4]
    assert [(slash.member, slash.reason) for slash in validator.slashes] == [(absent, "absent")]


def test_a_flood_of_submissions_is_cut_by_stake_and_costs_few_rows() -> None:
    """60 worthless accounts at the minimum stake against 16 nodes with more: most are not scored at all."""
    stakes = {node: 2 * NODE_STAKE for node in NODES}
    state = new_contest(76, stakes=stakes, parameters={"max_submissions": 24, "top_nodes": 4})
    flood = set(range(23, 83))
    worst = {payload_of(1, node): 40 * SPREAD for node in flood}
    record = ContestPlay(quality=graded(state, worst)).record(state)
    assert record.ranking[:4] == NODES[:4]
    refused = [node for node in flood if entry_of(record, node).step.reason == "over_limit"]
    assert len(refused) == 52 and not any(income(record, node) for node in flood)
    forwards = sum(len(one.rung.contenders) * len(one.rung.rows) for one in record.results)
    assert forwards < 0.3 * 24 * 64


def test_sybil_validators_win_no_seats_by_splitting_their_stake() -> None:
    """Two slots of one account or one of each of two: the same seats, so the same expected pay; over 300 draws."""
    whole, halves = new_contest(0, 8, slots=1), new_contest(0, 8, slots=1)
    members = whole.members
    doubled = (replace(members[0], slots=2, stake=2 * members[0].stake), *members[2:])
    whole = type(whole).first(whole.terms, whole.scope, doubled, whole.seed)
    seats = [0, 0]
    for day in range(1, 301):
        one, two = replace(whole, epoch=day), replace(halves, epoch=day)
        seats[0] += one.roles.voter_seats[0]
        seats[1] += two.roles.voter_seats[0] + two.roles.voter_seats[1]
    assert len(whole.slot_owners) == len(halves.slot_owners) == 8
    assert seats[0] == seats[1]


def test_sybil_nodes_of_one_recipe_are_paid_for_each_rank_which_the_design_reports_and_does_not_solve() -> None:
    """Four accounts with different adapters of nearly the leader's quality: their share of the nodes' pay grows."""
    one = shares_of_nodes(honest()).get(LEADER, 0.0)
    close = {payload_of(1, node): i for i, node in enumerate(NODES[-3:], 1)}
    sybils = ContestPlay(quality=graded(STATE, close)).record(STATE)
    many = sum(shares_of_nodes(sybils).get(node, 0.0) for node in (LEADER, *NODES[-3:]))
    assert 0.29 < one < 0.33 and many > 0.9
    own = sum(STATE.members[node].stake for node in (LEADER, *NODES[-3:]))
    assert own == 4 * NODE_STAKE >= 4_000 * TOKEN


def test_nothing_is_lost_under_any_of_these() -> None:
    for record in (honest(), ContestPlay(payloads={THIEF: payload_of(1, LEADER)}).record(STATE)):
        assert total_wei(settled(STATE, record)) == total_wei(STATE)
