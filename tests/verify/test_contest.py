"""Two implementations of a contest's day: whatever the members do, both come to the same bytes."""

from __future__ import annotations

import inspect
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flock_ray.chain.eip712 import Domain, report_hash
from flock_ray.cluster.attestation import report_of
from flock_ray.protocol import (
    contest,
    contest_consensus,
    contest_entries,
    contest_race,
    contest_rewards,
    contest_scores,
)
from flock_ray.protocol.contest import advance_day, derive_day, skip_day
from flock_ray.protocol.contest_record import ContestRecord
from flock_ray.protocol.contest_state import ContestState
from flock_ray.verify import contest as second
from flock_ray.verify import contest_entries as second_entries
from flock_ray.verify import contest_numbers as second_numbers
from flock_ray.verify import contest_race as second_race
from flock_ray.verify.contest import DayReplay, replay_day, skipped_day
from flock_ray.verify.report import SigningDomain
from tests.protocol.contest_mischief import contests, mischief
from tests.protocol.contest_players import ContestPlay, graded, new_contest, opened

RELAYER = "0x" + "11" * 20


def agree(state: ContestState, theirs: ContestRecord, ours: DayReplay) -> ContestState:
    """Compare everything that is signed; returns the state that both go on from."""
    assert ours.record == theirs.data
    assert [(account, wei) for account, wei in theirs.leaves] == [
        (member.account, member.earned) for member in ours.accounting.members if member.earned
    ]
    domain = Domain(state.scope.chain_id, "0x" + state.scope.contract.hex(), RELAYER)
    signing_domain = SigningDomain(state.scope.chain_id, state.scope.contract, bytes.fromhex(RELAYER[2:]))
    report = ours.report(signing_domain, bytes.fromhex(RELAYER[2:]))
    assert report.hash == report_hash(report_of(theirs, domain, RELAYER))  # type: ignore[arg-type]
    following = ours.following(report.hash)
    assert following == advance_day(state, theirs, report.hash)
    return opened(following)


@settings(max_examples=60)
@given(contests(), st.randoms(use_true_random=False))
def test_both_implementations_give_the_same_records_and_states(state: ContestState, random: Random) -> None:
    while not state.finished:
        if random.random() < 0.1:
            assert skipped_day(state) == skip_day(state)
            state = opened(skip_day(state))
            continue
        sent = mischief(random, state)
        mixed = random.sample(sent, len(sent))
        state = agree(state, derive_day(state, sent), replay_day(state, mixed))


@pytest.mark.parametrize("rule", ["median", "trimmed", "mean"])
@pytest.mark.parametrize("scorer", ["strict", "flock"])
def test_honest_contests_agree_under_every_rule_and_scorer(rule: str, scorer: str) -> None:
    state = new_contest(rule=rule, scorer=scorer, parameters={"top_nodes": 2, "node_exponent_bp": 7_000})
    while not state.finished:
        play = ContestPlay(quality=graded(state), rescores=range(4))
        sent = play.messages(state)
        state = agree(state, derive_day(state, sent), replay_day(state, sent))


def test_no_function_is_written_once_and_copied() -> None:
    """Bodies of more than three lines that both sides share word by word would check nothing."""
    first_side = (contest, contest_entries, contest_race, contest_rewards, contest_consensus, contest_scores)
    second_side = (second, second_entries, second_numbers, second_race)

    def bodies(modules: tuple[object, ...]) -> set[str]:
        found = set()
        for module in modules:
            for _, function in inspect.getmembers(module, inspect.isfunction):
                if function.__module__ == module.__name__:  # type: ignore[attr-defined]
                    lines = [line.strip() for line in inspect.getsource(function).splitlines()][1:]
                    body = [line for line in lines if line and not line.startswith(('"""', "#"))]
                    if len(body) > 3:
                        found.add("\n".join(body))
        return found

    assert not bodies(first_side) & bodies(second_side)
