"""The voters' ballots: A on every proposal, B on the candidate; each committed as a hash first, then revealed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from flock_ray.protocol.encoding import Json, canonical_json, from_hex, to_hex
from flock_ray.protocol.hashing import sha256, tagged
from flock_ray.protocol.message import Kind, Message, body_fields, is_count, read_once

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

    @classmethod
    def read(cls, value: object) -> Score | None:
        """A score of a peer, or None for null.

        Raises:
            ValueError: not a pair of integers within bounds.
        """
        if value is None:
            return None
        if not isinstance(value, list) or len(value) != 2:
            raise ValueError("a score is a pair")
        gain, error = value
        if not isinstance(gain, int) or isinstance(gain, bool) or abs(gain) > MAX_SCORE:
            raise ValueError("a gain is a bounded integer")
        if not is_count(error) or error > MAX_SCORE:
            raise ValueError("a standard error is a bounded count")
        return cls(gain, error)


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


@read_once
def read_ballot_a(message: Message) -> tuple[BallotA, bytes]:
    """Ballot A and its salt (32 bytes) from a revealing message.

    Raises:
        ValueError: the body is malformed.
    """
    content, salt = body_fields(message, "ballot", "salt")
    if not isinstance(content, dict) or set(content) != {"entries"} or not isinstance(content["entries"], list):
        raise ValueError("ballot A is a list of entries")
    entries = []
    for item in content["entries"]:
        if not isinstance(item, list) or len(item) != 4 or not is_count(item[0]):
            raise ValueError("an entry is [member, payload, check, score]")
        entries.append(ProposalEntry(item[0], from_hex(item[1]), Check(item[2]), Score.read(item[3])))
    members = [entry.member for entry in entries]
    if members != sorted(set(members)):
        raise ValueError("entries ascend by member")
    return BallotA(tuple(entries)), from_hex(salt)


@read_once
def read_ballot_b(message: Message) -> tuple[BallotB, bytes]:
    """Ballot B and its salt (32 bytes) from a revealing message.

    Raises:
        ValueError: the body is malformed.
    """
    content, salt = body_fields(message, "ballot", "salt")
    if not isinstance(content, dict) or set(content) != {"candidate", "weights", "score", "reveal"}:
        raise ValueError("ballot B has the fields candidate, weights, score, reveal")
    candidate = content["candidate"]
    ballot = BallotB(
        None if candidate is None else from_hex(candidate),
        _read_weights(content["weights"]),
        Score.read(content["score"]),
        from_hex(content["reveal"]),
    )
    return ballot, from_hex(salt)


def _read_weights(value: object) -> tuple[tuple[int, int], ...]:
    if not isinstance(value, list):
        raise ValueError("weights is a list")
    pairs = []
    for pair in value:
        if not isinstance(pair, list) or len(pair) != 2 or not is_count(pair[0]) or not is_count(pair[1]):
            raise ValueError("a weight is [member, count]")
        pairs.append((pair[0], pair[1]))
    members = [member for member, _ in pairs]
    if members != sorted(set(members)):
        raise ValueError("weights ascend by member")
    return tuple(pairs)
