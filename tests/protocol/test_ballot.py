from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flock_ray.protocol.ballot import (
    MAX_SCORE,
    Ballot,
    BallotA,
    BallotB,
    Check,
    ProposalEntry,
    Score,
    ScoreBody,
    ballot_body,
    ballot_commitment,
    read_ballot_a,
    read_ballot_b,
)
from flock_ray.protocol.encoding import canonical_json, to_hex
from flock_ray.protocol.hashing import keccak
from flock_ray.protocol.message import Kind, Message

TASK, SALT = keccak(b"task"), keccak(b"salt")
HASHES = st.binary(min_size=32, max_size=32)
SCORES = st.builds(Score, st.integers(-MAX_SCORE, MAX_SCORE), st.integers(0, MAX_SCORE))
ENTRIES = st.builds(
    lambda member, payload, check, scores: ProposalEntry(member, payload, check, *scores),
    st.integers(0, 20),
    HASHES,
    st.sampled_from(Check),
    st.just((None,)) | st.tuples(SCORES) | st.tuples(SCORES, SCORES),
)
BALLOTS_A = st.lists(ENTRIES, max_size=5, unique_by=lambda entry: entry.member).map(
    lambda entries: BallotA(tuple(sorted(entries, key=lambda entry: entry.member)))
)
WEIGHTS = st.dictionaries(st.integers(0, 20), st.integers(0, 2**63 - 1), max_size=4).map(
    lambda pairs: tuple(sorted(pairs.items()))
)
CANDIDATES = st.lists(st.tuples(HASHES, st.none() | SCORES), max_size=4).map(tuple)
BALLOTS_B = st.builds(BallotB, CANDIDATES, WEIGHTS, HASHES)


def received(kind: Kind, body: dict[str, Any]) -> Message:
    return Message.parse(Message(kind, TASK, 1, 2, body).data)


@given(BALLOTS_A, HASHES)
def test_ballot_a_comes_back_with_its_salt(ballot: BallotA, salt: bytes) -> None:
    assert read_ballot_a(received(Kind.BALLOT_A, ballot_body(ballot, salt))) == (ballot, salt)


@given(BALLOTS_B, HASHES)
def test_ballot_b_comes_back_with_its_salt(ballot: BallotB, salt: bytes) -> None:
    assert read_ballot_b(received(Kind.BALLOT_B, ballot_body(ballot, salt))) == (ballot, salt)


@given(st.integers(), st.integers(0))
def test_a_clamped_score_is_readable_and_the_same_where_it_was_readable(gain: int, error: int) -> None:
    score = Score(gain, error)
    clamped = score.clamped()
    assert msgspec.convert(clamped.json(), ScoreBody).score() == clamped
    assert (clamped == score) is (abs(gain) <= MAX_SCORE and error <= MAX_SCORE)
    assert clamped.gain * gain >= 0


BALLOT_A = BallotA((ProposalEntry(3, keccak(b"payload"), Check.VALID, Score(5, 2)),))
BALLOT_B = BallotB(((keccak(b"candidate"), Score(-5, 2)),), ((3, 1), (5, 2)), keccak(b"reveal"))


def test_a_commitment_binds_task_epoch_member_kind_ballot_and_salt() -> None:
    arguments: tuple[bytes, int, int, Kind, Ballot, bytes] = (TASK, 1, 2, Kind.BALLOT_A, BALLOT_A, SALT)
    changes: list[tuple[int, Any]] = [
        (0, keccak(TASK)),
        (1, 2),
        (2, 1),
        (3, Kind.BALLOT_B),
        (4, BallotA(())),
        (4, BallotA((replace(BALLOT_A.entries[0], score=Score(6, 2)),))),
        (4, BallotA((replace(BALLOT_A.entries[0], check=Check.MALFORMED),))),
        (4, BALLOT_B),
        (5, keccak(SALT)),
    ]
    others = [ballot_commitment(*(*arguments[:place], value, *arguments[place + 1 :])) for place, value in changes]
    assert len({ballot_commitment(*arguments), *others}) == 1 + len(changes)
    assert ballot_commitment(*arguments) == ballot_commitment(*arguments)


def replaced(body: Any, path: tuple[str | int, ...], value: Any) -> Any:
    changed = json.loads(canonical_json(body))
    owner = changed
    for step in path[:-1]:
        owner = owner[step]
    owner[path[-1]] = value
    return changed


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("salt",), "0x"),
        (("salt",), None),
        (("more",), 1),
        (("ballot",), []),
        (("ballot",), None),
        (("ballot", "more"), 1),
        (("ballot", "entries"), {}),
        (("ballot", "entries", 0), {}),
        (("ballot", "entries", 0), [3]),
        (("ballot", "entries", 0, 0), -1),
        (("ballot", "entries", 0, 0), True),
        (("ballot", "entries", 0, 1), None),
        (("ballot", "entries", 0, 2), "fine"),
        (("ballot", "entries", 0, 2), []),
        (("ballot", "entries", 0, 3), 5),
        (("ballot", "entries", 0, 3), [5, 2]),
        (("ballot", "entries", 0, 3), []),
        (("ballot", "entries", 0, 3), [None]),
        (("ballot", "entries", 0, 3), [[5, 2], None]),
        (("ballot", "entries", 0, 3), [[5, 2]] * 3),
        (("ballot", "entries", 0, 3, 0), [5]),
        (("ballot", "entries", 0, 3, 0), [5, 2, 1]),
        (("ballot", "entries", 0, 3, 0), ["5", 2]),
        (("ballot", "entries", 0, 3, 0), [True, 2]),
        (("ballot", "entries", 0, 3, 0), [5, -1]),
        (("ballot", "entries", 0, 3, 0), [5, None]),
        (("ballot", "entries", 0, 3, 0), [MAX_SCORE + 1, 2]),
        (("ballot", "entries", 0, 3, 0), [-MAX_SCORE - 1, 2]),
        (("ballot", "entries", 0, 3, 0), [5, MAX_SCORE + 1]),
    ],
)
def test_a_ballot_a_of_another_form_is_refused(path: tuple[str | int, ...], value: Any) -> None:
    body = replaced(ballot_body(BALLOT_A, SALT), path, value)
    with pytest.raises(ValueError):
        read_ballot_a(received(Kind.BALLOT_A, body))


@pytest.mark.parametrize("members", [[3, 3], [5, 3]])
def test_entries_ascend_by_member(members: list[int]) -> None:
    entries = tuple(replace(BALLOT_A.entries[0], member=member) for member in members)
    with pytest.raises(ValueError, match="entries ascend"):
        read_ballot_a(received(Kind.BALLOT_A, ballot_body(BallotA(entries), SALT)))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("salt",), to_hex(SALT).upper()),
        (("ballot",), None),
        (("ballot", "more"), 1),
        (("ballot", "candidates"), None),
        (("ballot", "candidates"), [0]),
        (("ballot", "candidates", 0), []),
        (("ballot", "candidates", 0, 0), "0x"),
        (("ballot", "candidates", 0, 0), None),
        (("ballot", "candidates", 0, 1), []),
        (("ballot", "candidates", 0, 1), 5),
        (("ballot", "candidate"), to_hex(SALT)),
        (("ballot", "weights"), {}),
        (("ballot", "weights"), None),
        (("ballot", "weights"), [3]),
        (("ballot", "weights"), [[3]]),
        (("ballot", "weights"), [[3, 1, 1]]),
        (("ballot", "weights"), [[3, -1]]),
        (("ballot", "weights"), [[3, True]]),
        (("ballot", "weights"), [[-3, 1]]),
        (("ballot", "weights"), [[3, 1], [3, 1]]),
        (("ballot", "weights"), [[5, 1], [3, 1]]),
        (("ballot", "reveal"), None),
        (("ballot", "reveal"), "0x" + "ab" * 31 + "  "),
    ],
)
def test_a_ballot_b_of_another_form_is_refused(path: tuple[str | int, ...], value: Any) -> None:
    body = replaced(ballot_body(BALLOT_B, SALT), path, value)
    with pytest.raises(ValueError):
        read_ballot_b(received(Kind.BALLOT_B, body))
