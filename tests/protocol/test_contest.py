from __future__ import annotations

from dataclasses import replace
from functools import cache
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flock_ray.protocol.contest import derive_day, skip_day, spread_by_length, statuses
from flock_ray.protocol.contest_entries import REASONS
from flock_ray.protocol.contest_message import ContestInbox, ContestKind, ContestMessage, Finding
from flock_ray.protocol.contest_record import ContestRecord
from flock_ray.protocol.contest_scores import Row
from flock_ray.protocol.contest_state import ContestState, Window
from flock_ray.protocol.encoding import parse_canonical, to_hex
from flock_ray.protocol.hashing import sha256
from tests.protocol.contest_mischief import contests, mischief
from tests.protocol.contest_players import (
    TOKEN,
    ContestPlay,
    burnt,
    chunk,
    entry_of,
    graded,
    message,
    new_contest,
    payload_of,
    relayer_share,
    settled,
    shuffled_messages,
    total_wei,
)

STATE = new_contest()
NODES = tuple(range(7, 23))


@cache
def honest_messages() -> tuple[ContestMessage, ...]:
    return tuple(ContestPlay().messages(STATE)[::7])


def honest(state: ContestState = STATE) -> ContestRecord:
    return ContestPlay(quality=graded(state)).record(state)


def test_the_best_are_ranked_first_and_only_the_top_are_paid() -> None:
    record = honest()
    assert record.ranking[:4] == NODES[:4]
    paid = [node for node in NODES if record.rewards.get(node)]
    assert paid == list(NODES[:4])
    amounts = [record.rewards[node] for node in paid]
    assert amounts == sorted(amounts, reverse=True)
    assert record.adapter == payload_of(1, NODES[0])
    assert record.final_ranking == ()
    assert all(record.rewards.get(validator) for validator in record.validators)
    assert not record.slashes


def test_the_bytes_of_terms_and_record_change_only_with_the_protocol() -> None:
    assert STATE.terms.digest().hex() == "ac3429dcd138039f2a16ab2e18ad47a5feb0931437a56adc2c3df69a257af4c5"
    assert honest().digest.hex() == "84da47ea9067b5bf9d467c7a5a383bfc3ba4248a053e9d1185c7be2b3e7c7717"


@given(st.lists(st.integers(1, 60), min_size=1, max_size=70), st.binary(min_size=32, max_size=32))
def test_every_beginning_of_the_rows_has_all_lengths(sizes: list[int], shuffle: bytes) -> None:
    rows = [Row(sha256(b"%d" % place), size, 100) for place, size in enumerate(sizes)]
    order = spread_by_length(rows, shuffle)
    assert sorted(order) == list(range(len(rows)))
    ascending = sorted(sizes)
    for number in (2, 4, 8, 16, 32):
        if number <= len(rows):  # one of each of `number` parts of the rows by length, wherever the circle begins
            first = sorted(sizes[row] for row in order[:number])
            width = len(rows) / number
            for i, size in enumerate(first):
                low, high = max(0, int((i - 1) * width)), min(len(rows) - 1, int((i + 1) * width) + 1)
                assert ascending[low] <= size <= ascending[high]


def test_the_order_of_rows_is_drawn_anew_by_each_shuffle() -> None:
    firsts = {spread_by_length(STATE.rows, sha256(b"%d" % number))[0] for number in range(200)}
    assert len(firsts) > 50


def test_rungs_spend_rows_where_they_matter() -> None:
    """Sixteen submissions on 4 rows, then the kept ones on 16 and 64: a third of all rows on all submissions."""
    first, second, third = honest().results
    assert [len(result.rung.rows) for result in (first, second, third)] == [4, 16, 64]
    assert set(first.rung.places) < set(second.rung.places) < set(third.rung.places) == set(range(64))
    assert len(first.rung.contenders) == 16 and len(third.rung.contenders) == 4
    forwards = sum(len(one.rung.contenders) * len(one.rung.rows) for one in (first, second, third))
    assert forwards / (16 * 64) < 0.4


def test_each_rung_draws_its_own_validators_and_nobody_knows_them_before() -> None:
    first, second, third = honest().results
    committees = {result.seats.voters for result in (first, second, third)}
    assert len(committees) == 3
    other = ContestPlay(quality=graded(STATE), silent=[(ContestKind.MANIFEST, 22)]).record(STATE)
    assert other.results[0].rung.seed != first.rung.seed


def test_the_days_pay_and_the_end_share_spend_the_pool_to_the_wei() -> None:
    state, total = STATE, total_wei(STATE)
    for day in (1, 2, 3):
        record = honest(state)
        assert record.epoch == day and bool(record.final_ranking) == (day == 3)
        state = settled(state, record)
        assert total_wei(state) == total
        assert state.held == sum(member.noted.get("vested", 0) for member in state.members)
        if day < 3:
            assert state.held > 0 and state.pool_left >= state.terms.end_share
    assert state.finished and state.held == 0 and state.pool_left < 1_000
    assert state.phase(0) == ("finished", None)


def test_a_tenth_of_a_nodes_income_waits_until_the_end_and_is_lost_by_whoever_is_slashed() -> None:
    record = honest()
    best = NODES[0]
    after = settled(STATE, record)
    held = after.members[best].noted["vested"]
    assert held == (record.rewards[best] + held) // 10
    bad = ContestPlay(
        quality=graded(after),
        gates=lambda _, payload: Finding("malformed" if payload == payload_of(2, best) else "valid"),
    ).record(after)
    assert [slash.reason for slash in bad.slashes] == ["malformed"]
    assert bad.members[best].noted == {} and bad.held == settled(after, bad).held
    assert total_wei(settled(after, bad)) + relayer_share(bad) == total_wei(after)


@settings(max_examples=25)
@given(contests(), st.randoms(use_true_random=False))
def test_whatever_happens_no_wei_appears_or_goes_and_the_order_of_arrival_does_not_matter(
    state: ContestState, random: Random
) -> None:
    while not state.finished:
        sent = mischief(random, state)
        record = derive_day(state, sent)
        assert derive_day(state, shuffled_messages(random, sent)).data == record.data
        assert parse_canonical(record.data, 1 << 24)["epoch"] == state.epoch
        assert all(wei >= 0 for wei in (record.pool_left, record.escrow, record.held))
        assert all(entry.step.state in ("ranked", "eliminated", "refused") for entry in record.entries)
        assert all(step.reason in REASONS for entry in record.entries for step in entry.steps if step.reason)
        new = [*record.slashes, *record.carried][len(state.carried) :]
        assert len({slash.member for slash in new}) == len(new)
        following = settled(state, record)
        assert total_wei(following) + relayer_share(record) + burnt(record) == total_wei(state)
        assert following.held == sum(member.noted.get("vested", 0) for member in following.members)
        state = following


def refusal(play: ContestPlay, state: ContestState = STATE, node: int = 8) -> str:
    record = play.record(state)
    entry = entry_of(record, node)
    assert entry.step.state == "refused" and not record.rewards.get(node) and node not in record.ranking
    return entry.step.reason


def test_every_refusal_has_its_reason() -> None:
    zero = to_hex(bytes(32))
    assert refusal(ContestPlay(lists=lambda _, node: node != 8)) == "not_acknowledged"
    assert refusal(ContestPlay(silent=[(ContestKind.MANIFEST, 8)])) == "not_revealed"
    assert refusal(ContestPlay(manifests={8: {"salt": zero}})) == "not_opened"
    assert refusal(ContestPlay(manifests={8: {"base_model": zero}})) == "wrong_base"
    for finding in Finding:
        if finding is not Finding.VALID:
            play = ContestPlay(gates=lambda _, one, f=finding: f if one == payload_of(1, 8) else Finding.VALID)  # type: ignore[misc]
            assert refusal(play) == str(finding)
    gate, rung = (set(seats.voters[:2]) for seats in (STATE.roles, honest().results[0].seats))
    split = ContestPlay(
        gates=lambda v, one: Finding("wrong_keys" if v in gate and one == payload_of(1, 8) else "valid")
    )
    assert refusal(split) == "ungated"
    unseen = ContestPlay(measures=lambda v, one, r, i, loss: None if v in rung and one == payload_of(1, 8) else loss)
    assert refusal(unseen) == "unscored"
    poor = replace(STATE, members=tuple(replace(m, stake=TOKEN) if i == 8 else m for i, m in enumerate(STATE.members)))
    assert refusal(ContestPlay(), poor) == "stake_too_small"
    few = new_contest(parameters={"max_submissions": 15}, stakes={8: 999 * TOKEN})
    assert refusal(ContestPlay(), few) == "over_limit"
    votes = [kind for kind in ContestKind if kind.startswith("rung_1")]
    silent = [(kind, v) for kind in votes for v in range(7)]
    assert refusal(ContestPlay(silent=silent)) == "no_quorum"
    twins = ContestPlay(silent=silent, payloads={8: payload_of(1, 9)})
    assert {refusal(twins, node=node) for node in (8, 9)} == {"no_quorum"}


def test_every_step_has_a_deadline_and_a_line_for_its_owner() -> None:
    ends = STATE.schedule
    assert list(ends)[:5] == ["commit", "acknowledge", "reveal", "gate", "rung_1_score"]
    assert ends["rung_3_audit"] == (4 + 9) * 60 and "final_audit" not in ends
    sent = ContestPlay(quality=graded(STATE), silent=[(ContestKind.MANIFEST, 8)]).messages(STATE)
    seen = [(elapsed, statuses(STATE, sent, elapsed)) for elapsed in (0, 125, 185, 245, 425, 10_000)]
    assert [(one[7].state, one[7].due) for _, one in seen] == [
        ("committed", ends["acknowledge"]),
        ("committed", ends["reveal"]),
        ("revealed", ends["gate"]),
        ("gated", ends["rung_1_audit"]),
        ("scored", ends["rung_2_audit"]),
        ("ranked", None),
    ]
    assert [one[8].state for _, one in seen] == ["committed", "committed", *["refused"] * 4]
    assert seen[2][1][8].text() == "refused: it was not revealed in time"
    assert seen[4][1][22].text() == "eliminated in rung_1: it was worse than the last one kept, beyond the band"
    before_rows = replace(STATE, rows=())
    assert statuses(before_rows, sent, 245)[7].state == "gated"
    assert STATE.phase(0) == ("commit", 60) and STATE.phase(10_000) == ("settling", None)


def test_a_day_without_submissions_pays_nobody_but_is_settled() -> None:
    record = ContestPlay(silent=[(ContestKind.COMMITMENT, node) for node in NODES]).record(STATE)
    assert (record.ranking, record.rewards, record.results, record.adapter) == ((), {}, (), STATE.adapter)
    assert settled(STATE, record).pool_left == STATE.pool_left


def test_a_day_whose_first_rung_fails_slashes_nobody_and_one_that_fails_later_ranks_by_what_is_known() -> None:
    absent = [(ContestKind.RUNG_1_BALLOT, v) for v in range(7)]
    record = ContestPlay(silent=absent).record(STATE)
    assert not record.slashes and not record.rewards
    late = ContestPlay(quality=graded(STATE), silent=[(ContestKind.RUNG_2_BALLOT, v) for v in range(7)]).record(STATE)
    assert late.ranking[0] == NODES[0] and late.rewards and not late.slashes


def test_absence_and_equivocation_of_validators_are_slashed() -> None:
    third = honest().results[2].seats
    absent = third.voters[0]
    silent = [(ContestKind.RUNG_3_BALLOT, absent)]
    record = ContestPlay(quality=graded(STATE), silent=silent).record(STATE)
    assert [(slash.member, slash.reason) for slash in record.slashes] == [(absent, "absent")]
    assert record.slashes[0].amount == STATE.members[absent].stake // 100
    sent = ContestPlay(quality=graded(STATE)).messages(STATE)
    gate = STATE.roles.voters[0]
    twice = derive_day(STATE, [*sent, message(STATE, ContestKind.GATE, gate, {"findings": []})])
    assert [(slash.member, slash.reason) for slash in twice.slashes] == [(gate, "equivocated")]
    assert twice.slashes[0].amount == STATE.members[gate].stake // 10


def test_a_poor_score_is_never_slashed() -> None:
    record = ContestPlay(quality=lambda payload: 10**8 if payload == payload_of(1, 8) else 0).record(STATE)
    assert not record.slashes and entry_of(record, 8).step.state == "eliminated"


def test_next_seed_follows_from_the_last_rungs_reveals() -> None:
    record = honest()
    assert set(record.reveals) == set(record.results[-1].seats.voters)
    assert record.next_seed not in (STATE.seed, ContestPlay().record(replace(STATE, seed=sha256(b"x"))).next_seed)
    assert skip_day(STATE).epoch == 2 and skip_day(STATE).seed != STATE.seed and skip_day(STATE).rows == ()


def test_compat_has_no_race_and_orders_by_flocks_figure() -> None:
    state = new_contest(rung_rows=(64,), scorer="flock", rule="mean")
    record = honest(state)
    assert len(record.results) == 1 and record.ranking == NODES
    assert record.results[0].scores[payload_of(1, 7)] < 10**6  # micro-bits a byte
    stakes = {validator: work for validator, (work, _, _) in record.validators.items()}
    assert set(stakes.values()) == {3_000 * TOKEN}


def test_rows_are_those_that_the_terms_commit_to() -> None:
    bare = replace(STATE, rows=())
    with pytest.raises(ValueError, match="rows of day 1"):
        bare.opened(chunk(2))
    with pytest.raises(ValueError, match="opened on day 3"):
        bare.opened(chunk(1), chunk(0))
    last = replace(bare, epoch=3)
    with pytest.raises(ValueError, match="set B"):
        last.opened(chunk(3), chunk(1))
    assert last.opened(chunk(3), chunk(0)).final_rows == chunk(0)
    with pytest.raises(ValueError, match="no targets"):
        Row(sha256(b"row"), 0, 5)


@pytest.mark.parametrize(
    ("terms", "said"),
    [
        ({"rule": "krum"}, "median, trimmed, mean"),
        ({"metric": "bleu"}, "text, sql"),
        ({"scorer": "loose"}, "strict, flock"),
        ({"rung_rows": (16, 4)}, "ascending"),
        ({"rung_rows": (1, 2, 3, 4)}, "one to 3"),
        ({"chunks": ()}, "chunks"),
        ({"windows": {"commit": 1}}, "audit"),
        ({"windows": dict.fromkeys(Window, 0)}, "seconds"),
        ({"mechanism_parameters": {}}, "parameters"),
    ],
)
def test_terms_that_do_not_fit_are_refused(terms: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        new_contest(**terms)  # type: ignore[arg-type]


def test_messages_are_read_once_and_strictly() -> None:
    sent = ContestPlay().messages(STATE)
    assert {one.kind for one in sent} == {kind for kind in ContestKind if "final" not in kind and "rescore" not in kind}
    inbox = ContestInbox([*sent, *sent])
    assert len(inbox.messages) == len(sent) and not inbox.equivocators
    bad = [
        (ContestKind.COMMITMENT, {"commitment": "0x00"}),
        (ContestKind.COMMITMENT, {"commitment": "0x" + "G" * 64}),
        (ContestKind.GATE, {"findings": [["0x" + "00" * 32, "fine", None]]}),
        (ContestKind.GATE, {"findings": [["0x" + "00" * 32, "valid", None]] * 2}),
        (ContestKind.ACKNOWLEDGEMENT, {"commitments": ["0x" + "01" * 32, "0x" + "00" * 32]}),
        (ContestKind.RUNG_1_RESCORE, {"cells": [[0, 1, 5], [0, 0, 5]]}),
        (ContestKind.RUNG_1_RESCORE, {"cells": [[0, 1, -5]]}),
        (ContestKind.RUNG_1_BALLOT, {"contenders": "0x" + "00" * 32}),
    ]
    for kind, body in bad:
        with pytest.raises(ValueError):
            message(STATE, kind, 0, body)


@given(st.data())
def test_hostile_bytes_are_refused_with_a_value_error_or_are_canonical(data: st.DataObject) -> None:
    good = data.draw(st.sampled_from(honest_messages())).data
    place = data.draw(st.integers(0, len(good) - 1))
    cut = data.draw(st.binary(max_size=6))
    for hostile in (data.draw(st.binary(max_size=40)), good[:place] + cut + good[place + len(cut) :], good[:place]):
        try:
            read = ContestMessage.parse(hostile)
        except ValueError:
            continue
        assert ContestMessage(read.kind, read.task, read.epoch, read.member, read.body).data == hostile
