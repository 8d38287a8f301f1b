"""The voters' ballots: A on every proposal, B on the candidate; each committed as a hash first, then revealed."""

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
    """A voter's finding on one proposal; `score` is None where the mechanism asks for none or the check failed."""

    member: int
    payload: bytes
    check: Check
    score: Score | None

    def json(self) -> Json:
        """The entry in a ballot's body."""
        return [self.member, to_hex(self.payload), str(self.check), self.score.json() if self.score else None]


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
    """The candidate that a voter computed and its score of it, with the voter's reveal for the next seed.

    Attributes:
        candidate: hash of the candidate adapter, None when no update was accepted.
        weights: (proposer, integer weight) of every accepted update, by ascending member; one of weight 0 is not in it.
        score: None where there is no candidate or the mechanism asks for none.
        reveal: preimage number `epoch` of the voter's hash chain.
    """

    candidate: bytes | None
    weights: tuple[tuple[int, int], ...]
    score: Score | None
    reveal: bytes

    def json(self) -> Json:
        """The ballot without its salt."""
        return {
            "candidate": to_hex(self.candidate) if self.candidate else None,
            "weights": [list(pair) for pair in self.weights],
            "score": self.score.json() if self.score else None,
            "reveal": to_hex(self.reveal),
        }


def ballot_commitment(task: bytes, epoch: int, member: int, kind: Kind, ballot: Ballot, salt: bytes) -> bytes:
    """What a voter commits to before anybody reveals: H(task, epoch, member, kind, SHA-256 of the ballot, salt)."""
    return tagged("flock_ray/ballot/1", task, epoch, member, sha256(kind.encode()), ballot.digest, salt)


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
    """An entry of ballot A as it travels: `[member, payload, check, score]`."""

    member: Count
    payload: Digest
    check: Check
    score: ScoreBody | None


class EntriesBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Ballot A as it travels."""

    entries: tuple[EntryBody, ...]


class CandidateBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Ballot B as it travels; `weights` are `[member, weight]`."""

    candidate: Digest | None
    weights: tuple[tuple[Count, Count], ...]
    score: ScoreBody | None
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
    entries = tuple(
        ProposalEntry(one.member, from_hex(one.payload), one.check, one.score.score() if one.score else None)
        for one in body.ballot.entries
    )
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
    ballot = BallotB(
        None if content.candidate is None else from_hex(content.candidate),
        content.weights,
        content.score.score() if content.score else None,
        from_hex(content.reveal),
    )
    return ballot, from_hex(body.salt)


def _require_rising(members: list[int], what: str) -> None:
    if members != sorted(set(members)):
        raise ValueError(f"{what} ascend by member")
