"""The voters' ballots: A on every proposal, B on the candidates; each committed as a hash first, then revealed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Annotated

import msgspec

from flock_ray.protocol.encoding import Json, canonical_json, from_hex, to_hex
from flock_ray.protocol.hashing import sha256, tagged
from flock_ray.protocol.message import Body, Count, Digest, Kind, Message, read_once

MAX_SCORE = 10**12


class Check(StrEnum):
    """The result of a voter's check of a proposal's payload."""

    VALID = "valid"
    MALFORMED = "malformed"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True)
class Score:
    """A loss difference on a voter's own held-out part, in integer micro-nats a token.

    Attributes:
        gain: loss of the global adapter minus loss with the adapter in question.
        standard_error: standard error of the paired per-sequence differences.
    """

    gain: int
    standard_error: int

    def clamped(self) -> Score:
        """The same score within the bounds that a reader accepts."""
        return Score(max(-MAX_SCORE, min(MAX_SCORE, self.gain)), min(MAX_SCORE, self.standard_error))

    def json(self) -> Json:
        """`[gain, standard error]`."""
        return [self.gain, self.standard_error]


@dataclass(frozen=True)
class ProposalEntry:
    """A voter's finding on one proposal.

    Attributes:
        score: None where the mechanism asks for none or the check failed.
        entering: score of what enters the candidate, where the mechanism asks for a second one.
    """

    member: int
    payload: bytes
    check: Check
    score: Score | None
    entering: Score | None = None

    def json(self) -> Json:
        """The entry in a ballot's body."""
        scores = [score.json() for score in (self.score, self.entering) if score]
        return [self.member, to_hex(self.payload), str(self.check), scores or None]


class Ballot(ABC):
    """A voter's ballot, without its salt."""

    @abstractmethod
    def json(self) -> Json:
        """The ballot as a JSON value, without its salt."""

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the canonical bytes."""
        return sha256(canonical_json(self.json()))


@dataclass(frozen=True)
class BallotA(Ballot):
    """Findings on all proposals, by ascending member."""

    entries: tuple[ProposalEntry, ...]

    def json(self) -> Json:
        """The ballot without its salt."""
        return {"entries": [entry.json() for entry in self.entries]}


@dataclass(frozen=True)
class BallotB(Ballot):
    """The candidates that a voter computed and its scores of them, with the voter's reveal for the next seed.

    Attributes:
        candidates: (hash of the candidate adapter, score of it) in the order of the mechanism's steps; empty when no
            update was accepted. A score is None where the mechanism asks for none.
        weights: (proposer, integer weight) of every accepted update, by ascending member; one of weight 0 is not in it.
        reveal: preimage number `epoch` of the voter's hash chain.
    """

    candidates: tuple[tuple[bytes, Score | None], ...]
    weights: tuple[tuple[int, int], ...]
    reveal: bytes

    @property
    def hashes(self) -> tuple[bytes, ...]:
        """Of the candidates."""
        return tuple(digest for digest, _ in self.candidates)

    @property
    def scores(self) -> tuple[Score, ...] | None:
        """A score of each candidate; None if one has none."""
        scores = tuple(score for _, score in self.candidates if score)
        return scores if len(scores) == len(self.candidates) else None

    def json(self) -> Json:
        """The ballot without its salt."""
        return {
            "candidates": [[to_hex(digest), score.json() if score else None] for digest, score in self.candidates],
            "weights": [list(pair) for pair in self.weights],
            "reveal": to_hex(self.reveal),
        }


def ballot_commitment(task: bytes, epoch: int, member: int, kind: Kind, ballot: Ballot, salt: bytes) -> bytes:
    """What a voter commits to before anybody reveals: H(task, epoch, member, kind, SHA-256 of the ballot, salt)."""
    return tagged("flock_ray/ballot/2", task, epoch, member, sha256(kind.encode()), ballot.digest, salt)


def ballot_body(ballot: Ballot, salt: bytes) -> dict[str, Json]:
    """Body of the revealing message."""
    return {"ballot": ballot.json(), "salt": to_hex(salt)}


class ScoreBody(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A score as it travels: `[gain, standard error]`."""

    gain: Annotated[int, msgspec.Meta(ge=-MAX_SCORE, le=MAX_SCORE)]
    standard_error: Annotated[int, msgspec.Meta(ge=0, le=MAX_SCORE)]

    def score(self) -> Score:
        """The score."""
        return Score(self.gain, self.standard_error)


class EntryBody(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """An entry of ballot A as it travels: `[member, payload, check, scores]`; scores are null, one or two."""

    member: Count
    payload: Digest
    check: Check
    scores: Annotated[tuple[ScoreBody, ...], msgspec.Meta(min_length=1, max_length=2)] | None

    def entry(self) -> ProposalEntry:
        """The entry; raises ValueError."""
        scores = [score.score() for score in self.scores or ()]
        first, second = (*scores, None, None)[:2]
        return ProposalEntry(self.member, from_hex(self.payload), self.check, first, second)


class EntriesBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Ballot A as it travels."""

    entries: tuple[EntryBody, ...]


class CandidateBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Ballot B as it travels; `candidates` are `[hash, score]`, `weights` are `[member, weight]`."""

    candidates: tuple[tuple[Digest, ScoreBody | None], ...]
    weights: tuple[tuple[Count, Count], ...]
    reveal: Digest


class BallotABody(Body, frozen=True):
    """Of a `ballot_a`."""

    ballot: EntriesBody
    salt: Digest


class BallotBBody(Body, frozen=True):
    """Of a `ballot_b`."""

    ballot: CandidateBody
    salt: Digest


@read_once
def read_ballot_a(message: Message) -> tuple[BallotA, bytes]:
    """Ballot A and its salt (32 bytes) from a revealing message.

    Raises:
        ValueError: the body is malformed.
    """
    body = BallotABody.of(message)
    entries = tuple(one.entry() for one in body.ballot.entries)
    _require_rising([entry.member for entry in entries], "entries")
    return BallotA(entries), from_hex(body.salt)


@read_once
def read_ballot_b(message: Message) -> tuple[BallotB, bytes]:
    """Ballot B and its salt (32 bytes) from a revealing message.

    Raises:
        ValueError: the body is malformed.
    """
    body = BallotBBody.of(message)
    content = body.ballot
    _require_rising([member for member, _ in content.weights], "weights")
    candidates = tuple((from_hex(digest), score.score() if score else None) for digest, score in content.candidates)
    return BallotB(candidates, content.weights, from_hex(content.reveal)), from_hex(body.salt)


def _require_rising(members: list[int], what: str) -> None:
    if members != sorted(set(members)):
        raise ValueError(f"{what} ascend by member")
