"""From ballots to a verdict, over seats: quantile, band, what became of each proposal, and the candidate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from flock_ray.protocol.ballot import BallotA, BallotB, Check, ProposalEntry, Score
from flock_ray.protocol.message import Kind
from flock_ray.protocol.state import TaskState, Terms
from flock_ray.verify.draw import Seats
from flock_ray.verify.message_set import MessageSet

SCORED = {"marginal": (True, True), "flock": (False, True), "open": (False, False)}
"""Mechanism -> whether it asks for scores of proposals (ballot A), of the candidate (ballot B)."""

DECODED = frozenset(("accepted", "rejected", "harmful", "malformed"))
"""What became of proposals whose payload a quorum had: a replay decodes it again."""


@dataclass(frozen=True)
class Consensus:
    """What the seats found together: score and band in micro-nats a token, and each voter's own gain."""

    score: int
    band: int
    gains: dict[int, int]


@dataclass(frozen=True)
class Verdict:
    """What became of a proposal; `consensus` is None where it was not scored, `payload` where nothing was opened."""

    member: int
    status: str
    payload: bytes | None = None
    consensus: Consensus | None = None


@dataclass(frozen=True)
class Candidate:
    """The adapter that a quorum of seats names, with the weights of the updates in it; all empty without one."""

    adapter: bytes | None = None
    weights: tuple[tuple[int, int], ...] = ()
    consensus: Consensus | None = None


def quantile(values: Iterable[int], basis_points: int) -> int:
    """The least value that at least this share of the values does not exceed."""
    ordered = sorted(values)
    return next(v for i, v in enumerate(ordered, start=1) if i * 10_000 >= basis_points * len(ordered))


def consensus_of(scores: Mapping[int, Score], seats: Seats, terms: Terms) -> Consensus:
    """Score and band of {voter: score}, a voter counting once a seat."""
    said = [scores[voter] for voter in seats.voters if voter in scores]
    width = terms.band_z_bp * quantile((one.standard_error for one in said), 5_000) // 10_000
    band = max(terms.band_floor, min(width, terms.band_ceiling))
    score = quantile((one.gain for one in said), terms.quantile_bp)
    return Consensus(score, band, {voter: scores[voter].gain for voter in sorted(scores)})


def judge_proposals(
    state: TaskState, seats: Seats, messages: MessageSet, ballots: Mapping[int, BallotA]
) -> tuple[Verdict, ...]:
    """What became of every proposer's proposal, by ascending member."""
    manifests = messages.manifests(state, seats)
    copies = Counter(manifest.payload for manifest in manifests.values())
    findings: dict[tuple[int, bytes], dict[int, ProposalEntry]] = {}
    for voter, ballot in ballots.items():
        for entry in ballot.entries:
            findings.setdefault((entry.member, entry.payload), {})[voter] = entry
    judged = []
    for member in sorted(set(seats.proposers)):
        if member not in manifests:
            said = messages.only(Kind.MANIFEST, member)
            judged.append(Verdict(member, "refused" if said else "missing"))
        elif copies[manifests[member].payload] > 1:
            judged.append(Verdict(member, "copied", manifests[member].payload))
        else:
            payload = manifests[member].payload
            judged.append(_judge(member, payload, state.terms, seats, findings.get((member, payload), {})))
    return tuple(judged)


def _judge(member: int, payload: bytes, terms: Terms, seats: Seats, entries: Mapping[int, ProposalEntry]) -> Verdict:
    scored, _ = SCORED[terms.mechanism]
    malformed = {voter for voter, entry in entries.items() if entry.check is Check.MALFORMED}
    valid = {voter: entry.score for voter, entry in entries.items() if entry.check is Check.VALID}
    scores = {voter: score for voter, score in valid.items() if score is not None}
    if seats.held_by(malformed) >= seats.quorum:
        return Verdict(member, "malformed", payload)
    if seats.held_by(scores if scored else valid) < seats.quorum:
        return Verdict(member, "unseen", payload)
    if not scored:
        return Verdict(member, "accepted", payload)
    found = consensus_of(scores, seats, terms)
    if found.score > found.band:
        return Verdict(member, "accepted", payload, found)
    status = "harmful" if found.score < -terms.harmful_factor * found.band else "rejected"
    return Verdict(member, status, payload, found)


def judge_candidate(
    state: TaskState, seats: Seats, proposals: Iterable[Verdict], ballots: Mapping[int, BallotB]
) -> Candidate:
    """The candidate that at least q seats name, with one set of weights over exactly the accepted updates."""
    accepted = [one.member for one in proposals if one.status == "accepted"]
    _, scored = SCORED[state.terms.mechanism]
    for ballot in ballots.values():
        agreeing = {
            voter: other.score
            for voter, other in ballots.items()
            if (other.candidate, other.weights) == (ballot.candidate, ballot.weights)
        }
        if not accepted or ballot.candidate is None or [member for member, _ in ballot.weights] != accepted:
            continue
        scores = {voter: score for voter, score in agreeing.items() if score is not None}
        if seats.held_by(scores if scored else agreeing) >= seats.quorum:
            found = consensus_of(scores, seats, state.terms) if scored else None
            return Candidate(ballot.candidate, ballot.weights, found)
    return Candidate()
