from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flock_ray.protocol.ballot import Check, ballot_body, read_ballot_b
from flock_ray.protocol.encoding import canonical_json, to_hex
from flock_ray.protocol.epoch import decide, derive, listed_commitments, opened_manifests, skip
from flock_ray.protocol.hashing import keccak, sha256
from flock_ray.protocol.inbox import Inbox, parse_message
from flock_ray.protocol.mechanisms import MECHANISMS
from flock_ray.protocol.message import Kind, Message
from flock_ray.protocol.record import Record
from flock_ray.protocol.seed import next_seed, reveals_digest, skip_seed
from flock_ray.protocol.state import MAX_SLASHES, TaskState
from tests.protocol.players import (
    STAKE,
    Play,
    accepted,
    chain_of,
    message,
    new_task,
    payload_of,
    relayer_share,
    settled,
    statuses,
    total_wei,
)

STATE = new_task()
VOTERS, PROPOSERS = STATE.roles.voters, STATE.roles.proposers
HONEST = Play().record(STATE)


def derived(messages: Iterable[Message], state: TaskState = STATE) -> Record:
    return derive(state, Inbox(messages))


def without(messages: Iterable[Message], *dropped: tuple[Kind, int]) -> list[Message]:
    return [message for message in messages if (message.kind, message.member) not in dropped]


def contradiction(kind: Kind, member: int, state: TaskState = STATE, mark: int = 0) -> Message:
    """A second commitment of a member, unlike any that it makes honestly."""
    return message(state, kind, member, {"commitment": to_hex(sha256(b"contradiction %d" % mark))})


def slashed(record: Record) -> dict[int, str]:
    assert len({slash.member for slash in record.slashes}) == len(record.slashes)
    assert all(slash.amount == STAKE // 10 for slash in record.slashes)
    return {slash.member: slash.reason for slash in record.slashes}


# An epoch as it should be.


def test_an_honest_epoch_accepts_every_proposal_and_moves_on() -> None:
    assert statuses(HONEST) == dict.fromkeys(sorted(PROPOSERS), "accepted")
    assert HONEST.accepted
    assert HONEST.adapter == HONEST.candidate.candidate != STATE.adapter
    assert HONEST.candidate.weights == tuple((member, 1) for member in sorted(PROPOSERS))
    assert set(HONEST.rewards) == {*VOTERS, *PROPOSERS}
    assert all(HONEST.rewards.values())
    assert HONEST.slashes == HONEST.carried == ()
    assert (HONEST.roles, HONEST.seed, HONEST.task) == (STATE.roles, STATE.seed, STATE.scope.task)


def test_the_next_seed_is_made_of_the_voters_reveals() -> None:
    reveals = {voter: chain_of(voter).preimage(1) for voter in VOTERS}
    assert HONEST.reveals == reveals
    assert HONEST.reveals_digest == reveals_digest(reveals)
    assert HONEST.next_seed == next_seed(STATE.seed, HONEST.reveals_digest)


def test_advance_carries_the_record_into_the_next_state() -> None:
    after = settled(STATE, HONEST)
    assert (after.epoch, after.seed, after.adapter) == (2, HONEST.next_seed, HONEST.adapter)
    assert (after.members, after.pool_left) == (HONEST.members, HONEST.pool_left)
    assert (after.previous_record, after.previous_report) == (HONEST.digest, keccak(b"report" + HONEST.digest))
    assert (after.terms, after.scope) == (STATE.terms, STATE.scope)
    with pytest.raises(AssertionError):
        settled(after, HONEST)


def test_an_abandoned_epoch_changes_the_seed_and_nothing_else() -> None:
    before = replace(settled(STATE, HONEST), carried=HONEST.carried)
    after = skip(before)
    assert after == replace(before, epoch=3, seed=skip_seed(before.seed))
    assert Play().record(after).previous_report == before.previous_report


def test_a_rejected_epoch_keeps_the_adapter_and_is_settled() -> None:
    record = Play(candidate_gain=lambda voter: -20_001).record(STATE)
    assert not record.accepted
    assert accepted(record) == sorted(PROPOSERS)
    assert record.candidate.candidate is not None
    assert record.adapter == STATE.adapter
    assert set(record.rewards) == set(VOTERS)
    assert record.slashes == ()
    assert settled(STATE, record).seed != STATE.seed


def test_a_score_within_the_band_still_becomes_global() -> None:
    assert Play(candidate_gain=lambda voter: -4_000).record(STATE).accepted
    assert not Play(candidate_gain=lambda voter: -4_001).record(STATE).accepted


def test_an_epoch_without_any_accepted_update_pays_the_voters() -> None:
    record = Play(gain=lambda voter, proposer: 0).record(STATE)
    assert statuses(record) == dict.fromkeys(sorted(PROPOSERS), "rejected")
    assert record.candidate.candidate is None
    assert not record.accepted
    assert set(record.rewards) == set(VOTERS)
    assert record.slashes == ()


# Proposers that cheat.


def test_a_harmful_proposer_is_slashed_and_the_others_go_on() -> None:
    cheat = PROPOSERS[0]
    record = Play(gain=lambda voter, proposer: -90_000 if proposer == cheat else 50_000).record(STATE)
    assert statuses(record)[cheat] == "harmful"
    assert accepted(record) == sorted(set(PROPOSERS) - {cheat})
    assert record.accepted
    assert cheat not in record.rewards
    assert slashed(record) == {cheat: "harmful"}
    assert record.members[cheat].stake == STAKE - STAKE // 10
    assert record.members[cheat].slashed == STAKE // 10


@pytest.mark.parametrize("mechanism", sorted(MECHANISMS))
def test_a_malformed_payload_is_slashed_by_a_quorum(mechanism: str) -> None:
    state = new_task(mechanism=mechanism)
    cheat, liar = state.roles.proposers[1], state.roles.voters[0]

    def play(*callers: int) -> Play:
        return Play(check=lambda v, p: Check.MALFORMED if p == cheat and v in callers else Check.VALID)

    record = play(*state.roles.voters[:3]).record(state)
    assert statuses(record)[cheat] == "malformed"
    assert slashed(record) == {cheat: "malformed"}
    assert cheat not in record.rewards
    assert record.accepted
    below = play(liar).record(state)
    assert statuses(below)[cheat] == "accepted"
    assert below.slashes == ()


def test_a_payload_that_no_quorum_could_fetch_does_not_count_and_nobody_is_slashed() -> None:
    gone = PROPOSERS[2]
    record = Play(check=lambda v, p: Check.UNAVAILABLE if p == gone and v in VOTERS[:2] else Check.VALID).record(STATE)
    assert statuses(record)[gone] == "unseen"
    assert accepted(record) == sorted(set(PROPOSERS) - {gone})
    assert record.slashes == ()


@pytest.mark.parametrize("mechanism", sorted(MECHANISMS))
def test_exact_copies_are_slashed(mechanism: str) -> None:
    state = new_task(mechanism=mechanism)
    first, second, *others = state.roles.proposers
    record = Play(payloads={second: payload_of(state, first)}).record(state)
    assert statuses(record) == {first: "copied", second: "copied"} | dict.fromkeys(others, "accepted")
    assert slashed(record) == {first: "copied", second: "copied"}
    assert record.accepted


def test_a_copy_committed_too_late_is_excluded_and_the_original_is_paid() -> None:
    original, copier, *_ = PROPOSERS
    play = Play(payloads={copier: payload_of(STATE, original)}, lists=lambda voter, proposer: proposer != copier)
    record = play.record(STATE)
    assert statuses(record)[copier] == "refused"
    assert statuses(record)[original] == "accepted"
    assert record.rewards[original] > 0
    assert record.slashes == ()


@pytest.mark.parametrize(("listing", "counts"), [(2, False), (3, True)])
def test_a_commitment_counts_when_a_quorum_of_seats_lists_it(listing: int, counts: bool) -> None:
    late = PROPOSERS[0]
    record = Play(lists=lambda voter, proposer: proposer != late or voter in VOTERS[:listing]).record(STATE)
    assert (late in accepted(record)) is counts
    assert record.slashes == ()


def test_lists_of_observers_and_proposers_do_not_count() -> None:
    state = new_task(12)
    outsiders = [member for member in range(12) if member not in state.roles.voters]
    late = state.roles.proposers[0]
    sent = Play(lists=lambda voter, proposer: proposer != late).messages(state)
    held = [to_hex(message.digest) for message in sent if (message.kind, message.member) == (Kind.COMMITMENT, late)]
    sent += [message(state, Kind.ACKNOWLEDGEMENT, member, {"commitments": held}) for member in outsiders]
    assert late not in listed_commitments(state, Inbox(sent))


@pytest.mark.parametrize(
    "fields",
    [
        {"base_model": keccak(b"other")},
        {"global_adapter": keccak(b"stale")},
        {"configuration": keccak(b"other")},
        {"payload": keccak(b"another update")},
        {"salt": keccak(b"another salt")},
    ],
)
def test_a_manifest_that_does_not_fit_is_refused_without_a_slash(fields: dict[str, bytes]) -> None:
    odd = PROPOSERS[1]
    record = Play(manifests={odd: fields}).record(STATE)
    assert statuses(record)[odd] == "refused"
    assert accepted(record) == sorted(set(PROPOSERS) - {odd})
    assert record.slashes == ()


def test_a_commitment_from_another_chain_or_contract_does_not_open() -> None:
    sent = Play().messages(STATE)
    for scope in (replace(STATE.scope, chain_id=1), replace(STATE.scope, contract=bytes(20))):
        assert opened_manifests(replace(STATE, scope=scope), Inbox(sent)) == {}


def test_a_proposer_that_opens_nothing_is_missing() -> None:
    silent = PROPOSERS[3]
    record = Play(silent=[(Kind.MANIFEST, silent)]).record(STATE)
    assert statuses(record)[silent] == "missing"
    assert record.slashes == ()
    assert record.accepted


# Voters that cheat or fail.


def test_a_missing_voter_is_tolerated_and_unpaid() -> None:
    absent = VOTERS[0]
    record = Play(silent=[(kind, absent) for kind in Kind]).record(STATE)
    assert accepted(record) == sorted(PROPOSERS)
    assert record.accepted
    assert absent not in record.rewards
    assert absent not in record.reveals
    assert record.slashes == ()


def test_below_the_quorum_the_epoch_is_rejected_and_nobody_is_slashed() -> None:
    absent = VOTERS[:2]
    record = Play(silent=[(kind, voter) for kind in Kind for voter in absent if "ballot" in kind]).record(STATE)
    assert statuses(record) == dict.fromkeys(sorted(PROPOSERS), "unseen")
    assert not record.accepted
    assert record.adapter == STATE.adapter
    assert set(record.rewards) == set(VOTERS[2:])
    assert record.slashes == ()


@pytest.mark.parametrize("kind", [Kind.BALLOT_A, Kind.BALLOT_B])
def test_where_nothing_was_scored_voters_are_paid_for_both_ballots(kind: Kind) -> None:
    silent = [(Kind.MANIFEST, proposer) for proposer in PROPOSERS]
    assert set(Play(silent=silent).record(STATE).rewards) == set(VOTERS)
    assert set(Play(silent=[*silent, (kind, VOTERS[0])]).record(STATE).rewards) == set(VOTERS[1:])


@pytest.mark.parametrize("mechanism", sorted(MECHANISMS))
def test_an_epoch_in_which_nobody_says_a_word_still_has_a_record(mechanism: str) -> None:
    state = new_task(mechanism=mechanism)
    record = derived([], state)
    assert not record.accepted
    assert record.rewards == {}
    assert record.slashes == ()
    assert (record.adapter, record.pool_left) == (state.adapter, state.pool_left)
    assert record.next_seed != state.seed


def test_a_candidate_that_no_quorum_names_is_rejected() -> None:
    record = Play(names=lambda v, candidate: candidate if v in VOTERS[:2] else keccak(candidate)).record(STATE)
    assert not record.accepted
    assert record.candidate.candidate is None
    assert Play(names=lambda v, candidate: keccak(candidate) if v == VOTERS[0] else candidate).record(STATE).accepted


def test_weights_that_no_quorum_states_reject_the_candidate() -> None:
    assert not Play(weight=lambda voter: 1 if voter in VOTERS[:2] else 2).record(STATE).accepted


def test_a_wrong_reveal_excludes_the_ballot() -> None:
    liar = VOTERS[1]
    for reveal in (keccak(b"made up"), chain_of(liar).preimage(2), chain_of(liar).tip, chain_of(VOTERS[0]).preimage(1)):
        record = Play(reveals={liar: reveal}).record(STATE)
        assert set(record.reveals) == set(VOTERS) - {liar}
        assert record.candidate.consensus is not None
        assert liar not in record.candidate.consensus.gains
        assert liar not in record.rewards
        assert record.accepted


@pytest.mark.parametrize("kind", [Kind.BALLOT_A_COMMITMENT, Kind.BALLOT_B_COMMITMENT])
def test_a_ballot_that_does_not_open_its_commitment_is_excluded(kind: Kind) -> None:
    liar = VOTERS[2]
    honest = Play().messages(STATE)
    for sent in (without(honest, (kind, liar)), [*without(honest, (kind, liar)), contradiction(kind, liar)]):
        record = derived(sent)
        gains = record.proposals[0].consensus if kind is Kind.BALLOT_A_COMMITMENT else record.candidate.consensus
        assert gains is not None
        assert set(gains.gains) == set(VOTERS) - {liar}
        assert liar not in record.rewards
        assert record.accepted


def test_a_ballot_with_another_salt_does_not_open() -> None:
    honest = Play().messages(STATE)
    liar = VOTERS[2]
    (revealed,) = (message for message in honest if (message.kind, message.member) == (Kind.BALLOT_B, liar))
    ballot, salt = read_ballot_b(revealed)
    other = message(STATE, Kind.BALLOT_B, liar, ballot_body(ballot, keccak(salt)))
    assert liar not in derived([*without(honest, (Kind.BALLOT_B, liar)), other]).reveals


def test_ballots_of_members_without_a_seat_do_not_count() -> None:
    outsider = PROPOSERS[0]
    sent = Play().messages(STATE)
    for vote in [vote for vote in sent if vote.member == VOTERS[0] and "ballot" in vote.kind]:
        sent.append(message(STATE, vote.kind, outsider, vote.body))
    record = derived(sent)
    assert record.reveals == HONEST.reveals
    assert record.rewards == HONEST.rewards


def test_a_vote_counts_once_a_seat() -> None:
    """One member with most seats decides alone; without its ballots nothing is decided."""
    start = new_task(5)
    members = tuple(replace(member, slots=12 if number == 0 else 1) for number, member in enumerate(start.members))
    state = TaskState.first(start.terms, start.scope, members, start.seed)
    seeds = (replace(state, seed=keccak(bytes([i]))) for i in range(99))
    state = next(one for one in seeds if one.roles.voter_seats[0] == 3 and one.roles.proposers)
    (other,) = set(state.roles.voters) - {0}
    assert Play(silent=[(kind, other) for kind in Kind]).record(state).accepted
    assert not Play(silent=[(kind, 0) for kind in Kind]).record(state).accepted


# Equivocation.


@pytest.mark.parametrize("mechanism", sorted(MECHANISMS))
def test_equivocation_is_slashed_once_and_what_contradicts_itself_does_not_count(mechanism: str) -> None:
    state = new_task(mechanism=mechanism)
    proposer, voter = state.roles.proposers[0], state.roles.voters[0]
    sent = Play().messages(state)
    sent += [contradiction(Kind.COMMITMENT, proposer, state, mark) for mark in range(3)]
    sent += [
        contradiction(Kind.BALLOT_A_COMMITMENT, voter, state),
        contradiction(Kind.BALLOT_B_COMMITMENT, voter, state),
    ]
    record = derived(sent, state)
    assert slashed(record) == {proposer: "equivocated", voter: "equivocated"}
    assert statuses(record)[proposer] == "refused"
    assert voter not in record.reveals


def test_one_member_is_slashed_once_for_its_gravest_offence() -> None:
    cheat = PROPOSERS[0]
    play = Play(gain=lambda voter, proposer: -90_000 if proposer == cheat else 50_000)
    sent = play.messages(STATE)
    assert slashed(derived(sent)) == {cheat: "harmful"}
    record = derived(sent + [contradiction(Kind.BALLOT_A_COMMITMENT, cheat, mark=mark) for mark in (0, 1)])
    assert statuses(record)[cheat] == "harmful"
    assert slashed(record) == {cheat: "equivocated"}


def test_an_observer_that_equivocates_is_slashed_too() -> None:
    state = new_task(12)
    observer = next(member for member in range(12) if state.roles.role(member) == "observer")
    sent = Play().messages(state)
    sent += [contradiction(Kind.COMMITMENT, observer, state, mark) for mark in range(2)]
    assert slashed(derived(sent, state)) == {observer: "equivocated"}


# Slashes that do not fit.


def test_more_slashes_than_a_report_holds_are_carried_over_and_taken_first() -> None:
    state = new_task(24, num_epochs=4)
    honest = [*state.roles.voters, *state.roles.proposers[:2]]
    cheats = [member for member in range(24) if member not in honest]
    sent = Play().messages(state) + [
        contradiction(Kind.BALLOT_A_COMMITMENT, member, state, mark) for member in cheats for mark in range(2)
    ]
    first = derived(sent, state)
    assert [slash.member for slash in first.slashes] == cheats[:MAX_SLASHES]
    assert [slash.member for slash in first.carried] == cheats[MAX_SLASHES:]
    assert [member.stake for member in first.members] == [
        STAKE - (STAKE // 10 if number in cheats[:MAX_SLASHES] else 0) for number in range(24)
    ]
    after = settled(state, first)
    assert after.carried == first.carried

    guilty = after.roles.proposers[0]
    second = derived(
        [*Play().messages(after), *(contradiction(Kind.BALLOT_A_COMMITMENT, guilty, after, i) for i in (0, 1))], after
    )
    assert second.slashes[:2] == first.carried
    assert [slash.member for slash in second.slashes[2:]] == [guilty]
    assert second.carried == ()
    assert total_wei(settled(after, second)) + relayer_share(first) + relayer_share(second) == total_wei(state)


def test_a_carried_slash_takes_no_more_than_the_stake_that_is_left() -> None:
    poor = replace(STATE.members[0], stake=5)
    carried = Play(gain=lambda v, p: -90_000).record(STATE).slashes
    slash = replace(carried[0], member=0)
    state = replace(STATE, members=(poor, *STATE.members[1:]), carried=(slash, slash))
    record = Play().record(state)
    assert [slash.amount for slash in record.slashes] == [5, 0]
    assert record.members[0].stake == 0
    assert record.members[0].slashed == 5
    assert record.pool_left == state.pool_left - sum(record.rewards.values())
    assert record.escrow == 5


# The record is a function of the set of messages.


@settings(max_examples=30)
@given(st.randoms(use_true_random=False), st.integers(0, 20))
def test_arrival_order_and_repeats_do_not_change_a_byte(random: Random, repeats: int) -> None:
    sent = [*Play().messages(STATE), contradiction(Kind.COMMITMENT, PROPOSERS[0])]
    expected = derived(sent)
    arrived = sent + random.choices(sent, k=repeats)
    random.shuffle(arrived)
    assert derived(arrived).data == expected.data


MESSAGES = Play().messages(STATE)
BALLOTS = [message for message in MESSAGES if message.kind in (Kind.BALLOT_A, Kind.BALLOT_B)]


@settings(max_examples=60)
@given(st.sampled_from(BALLOTS), st.data())
def test_one_changed_byte_of_a_ballot_changes_the_record_or_is_no_message(ballot: Message, draw: st.DataObject) -> None:
    data = bytearray(ballot.data)
    data[draw.draw(st.integers(0, len(data) - 1))] ^= draw.draw(st.integers(1, 127))
    try:
        changed = parse_message(bytes(data))
    except ValueError:
        return
    if not STATE.concerns(changed):
        return
    record = derived([changed if other == ballot else other for other in MESSAGES])
    assert record.digest != HONEST.digest
    assert changed.digest in {digest for _, _, digest in record.messages}


def test_a_changed_gain_in_a_ballot_excludes_it() -> None:
    liar = VOTERS[0]
    (revealed,) = (ballot for ballot in BALLOTS if (ballot.kind, ballot.member) == (Kind.BALLOT_A, liar))
    body = json.loads(canonical_json(revealed.body))
    body["ballot"]["entries"][0][3][0][0] += 1
    changed = message(STATE, Kind.BALLOT_A, liar, body)
    record = derived([*without(MESSAGES, (Kind.BALLOT_A, liar)), changed])
    assert record.digest != HONEST.digest
    assert liar not in record.rewards


@settings(max_examples=30)
@given(st.sampled_from(MESSAGES))
def test_every_message_left_out_changes_the_record(dropped: Message) -> None:
    assert derived([other for other in MESSAGES if other != dropped]).digest != HONEST.digest


@pytest.mark.parametrize("values", [{"epoch": 2}, {"task": keccak(b"other")}, {"member": 8}])
def test_messages_of_another_task_or_epoch_or_of_a_stranger_never_make_a_record(values: dict[str, Any]) -> None:
    with pytest.raises(AssertionError):
        derived([*MESSAGES, replace(MESSAGES[0], **values)])


HOSTILE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**64), 2**64),
    st.sampled_from(["", "0x", "0x" + "ab" * 31 + "  ", "0x" + "00" * 32, "0x" + "ff" * 32, "valid", "malformed"]),
    st.just([]),
    st.just({}),
    st.lists(st.integers(-1, 9), max_size=4),
)


@settings(max_examples=150)
@given(st.sampled_from(MESSAGES), st.data(), HOSTILE)
def test_whatever_parses_never_breaks_an_epoch(original: Message, draw: st.DataObject, value: Any) -> None:
    """Any field of a message replaced by hostile content: it is refused when read, or the epoch has a record."""
    whole: Any = json.loads(original.data)
    owner, key = {"body": whole["body"]}, "body"
    while isinstance(owner[key], dict | list) and owner[key] and draw.draw(st.booleans() | st.just(True)):
        owner = owner[key]
        places = list(owner) if isinstance(owner, dict) else list(range(len(owner)))
        key = draw.draw(st.sampled_from(places))
    owner[key] = value
    try:
        hostile = parse_message(canonical_json(whole))
    except ValueError:
        return
    for sent in ([*without(MESSAGES, (original.kind, original.member)), hostile], [*MESSAGES, hostile]):
        record = derived(sent)
        assert {slash.member for slash in record.slashes} <= {original.member}


# Money, over several epochs.


@st.composite
def plays(draw: st.DrawFn, state: TaskState) -> tuple[Play, list[Message]]:
    """An epoch of members that do anything, and messages that contradict what they say elsewhere."""
    random = draw(st.randoms(use_true_random=False))
    gains = {
        (v, p): random.choice([-100_000, -5_000, 0, 30_000, 90_000]) + random.randrange(1_000)
        for v in state.roles.voters
        for p in state.roles.proposers
    }
    votes = {v: random.choice([-90_000, -1, 0, 50_000]) for v in state.roles.voters}
    checks = {pair: random.choices(list(Check), [8, 1, 1])[0] for pair in gains}
    proposers = sorted(set(state.roles.proposers))
    copies = {p: payload_of(state, random.choice(proposers)) for p in proposers if random.random() < 0.2}
    silent = {(kind, m) for kind in Kind for m in range(len(state.members)) if random.random() < 0.03}
    cheats = [member for member in range(len(state.members)) if random.random() < 0.1]
    play = Play(
        gain=lambda v, p: gains[v, p],
        candidate_gain=lambda v: votes[v],
        error=random.choice([0, 1_000, 50_000]),
        check=lambda v, p: checks[v, p],
        payloads=copies,
        silent=silent,
    )
    return play, [contradiction(Kind.BALLOT_B_COMMITMENT, cheat, state, mark) for cheat in cheats for mark in (0, 1)]


@settings(max_examples=30)
@given(st.sampled_from(sorted(MECHANISMS)), st.integers(1, 9), st.integers(1, 2), st.data())
def test_not_a_wei_is_made_or_lost(mechanism: str, seed: int, slots: int, draw: st.DataObject) -> None:
    """Stakes + rewards + pool + escrow + relayer are constant; no slash comes back as a reward."""
    start = state = new_task(9, slots, seed=seed, mechanism=mechanism, num_epochs=4, slash_fraction_bp=3_333)
    relayed = 0
    previous = None
    while not state.finished:
        play, extra = draw.draw(plays(state))
        record = derived(play.messages(state) + extra, state)
        assert sum(record.rewards.values()) <= state.pool_left // state.epochs_left
        assert len(record.slashes) <= MAX_SLASHES
        for before, after in zip(state.members, record.members, strict=True):
            assert after.earned >= before.earned
            assert 0 <= after.stake <= before.stake
            assert before.stake - after.stake == after.slashed - before.slashed
        assert record.rewards_total == sum(wei for _, wei in record.leaves)
        assert record.rewards_total == (previous.rewards_total if previous else 0) + sum(record.rewards.values())
        relayed += relayer_share(record)
        state, previous = settled(state, record), record
        assert total_wei(state) + relayed == total_wei(start)
    earned = sum(member.earned for member in state.members)
    assert earned + state.pool_left == start.pool_left


@pytest.mark.parametrize("mechanism", sorted(MECHANISMS))
def test_over_all_epochs_no_more_than_the_pool_is_paid_and_the_rest_is_dust(mechanism: str) -> None:
    state = new_task(mechanism=mechanism, num_epochs=7, pool=10**18 + 7)
    states = [state]
    while not state.finished:
        record = Play(gain=lambda v, p: 50_000 * (1 + p)).record(state)
        assert record.accepted
        state = settled(state, record)
        states.append(state)
    paid = [before.pool_left - after.pool_left for before, after in pairwise(states)]
    assert sum(paid) + state.pool_left == 10**18 + 7
    assert 0 <= state.pool_left < 100
    assert sum(paid) == sum(member.earned for member in state.members)


def test_unpaid_budgets_stay_for_later_epochs() -> None:
    rejected = settled(STATE, Play(gain=lambda v, p: 0).record(STATE))
    record = Play().record(rejected)
    outcome, _ = decide(rejected, Inbox(Play().messages(rejected)))
    assert outcome.budget == rejected.pool_left // 2 > STATE.pool_left // 3
    assert sum(record.rewards.values()) > sum(HONEST.rewards.values())


# Several epochs.


def test_epochs_chain_by_their_records_and_each_draws_other_roles() -> None:
    state = new_task(num_epochs=6)
    records = []
    while not state.finished:
        records.append(Play().record(state))
        state = settled(state, records[-1])
    assert [record.epoch for record in records] == [1, 2, 3, 4, 5, 6]
    for before, after in pairwise(records):
        assert after.previous_record == before.digest
        assert after.previous_report == keccak(b"report" + before.digest)
        assert after.seed == before.next_seed
        assert after.adapter != before.adapter
    assert len({record.roles for record in records}) == 6


def test_two_runs_of_the_same_messages_are_the_same_bytes_and_another_seed_is_another_run() -> None:
    def run(seed: int) -> list[bytes]:
        state = new_task(seed=seed)
        data = []
        while not state.finished:
            record = Play().record(state)
            data.append(record.data)
            state = settled(state, record)
        return data

    assert run(1) == run(1)
    assert not set(run(1)) & set(run(2))


def test_a_withheld_reveal_leads_to_another_seed() -> None:
    absent = VOTERS[3]
    assert Play(silent=[(Kind.BALLOT_B, absent)]).record(STATE).next_seed != HONEST.next_seed
