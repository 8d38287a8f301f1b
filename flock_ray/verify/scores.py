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

DECODED = frozenset(("accepted", "rejected", "harmful", "malformed"))
"""What became of proposals whose payload a quorum had: a replay decodes it again."""


@dataclass(frozen=True)
class Consensus:
    """The seats' joint score and band, and each voter's own gain; all in micro-nats a token."""

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
    """The adapter named by a quorum of seats, with the accepted updates' weights in it; all empty without a quorum."""

    adapter: bytes | None = None
    weights: tuple[tuple[int, int], ...] = ()
    consensus: Consensus | None = None


def quantile(values: Iterable[int], basis_points: int) -> int:
    """The least value that at least this share of the values does not exceed."""
    ordered = sorted(values)
    return next(v for i, v in enumerate(ordered, start=1) if i * 10_000 >= basis_points * len(ordered))


def consensus_of(scores: Mapping[int, Score], seats: Seats, terms: Terms) -> Consensus:
    """Score and band of {voter: score}; a voter counts once per seat."""
    counted = [scores[voter] for voter in seats.voters if voter in scores]
    width = terms.band_z_bp * quantile((vote.standard_error for vote in counted), 5_000) // 10_000
    band = max(terms.band_floor, min(width, terms.band_ceiling))
    score = quantile((vote.gain for vote in counted), terms.quantile_bp)
    return Consensus(score, band, {voter: scores[voter].gain for voter in sorted(scores)})


def judge_proposals(
    state: TaskState, seats: Seats, messages: MessageSet, ballots: Mapping[int, BallotA], scored: bool
) -> tuple[Verdict, ...]:
    """What became of every proposer's proposal, by ascending member; `scored`: whether the mechanism wants scores."""
    manifests = messages.manifests(state, seats)
    copies = Counter(manifest.payload for manifest in manifests.values())
    findings: dict[tuple[int, bytes], dict[int, ProposalEntry]] = {}
    for voter, ballot in ballots.items():
        for entry in ballot.entries:
            findings.setdefault((entry.member, entry.payload), {})[voter] = entry
    judged = []
    for member in sorted(set(seats.proposers)):
        if member not in manifests:
            sent = messages.single(Kind.MANIFEST, member)
            judged.append(Verdict(member, "refused" if sent else "missing"))
        elif copies[manifests[member].payload] > 1:
            judged.append(Verdict(member, "copied", manifests[member].payload))
        else:
            payload = manifests[member].payload
            judged.append(_judge(member, payload, state.terms, seats, findings.get((member, payload), {}), scored))
    return tuple(judged)


def _judge(
    member: int, payload: bytes, terms: Terms, seats: Seats, entries: Mapping[int, ProposalEntry], scored: bool
) -> Verdict:
    malformed = {voter for voter, entry in entries.items() if entry.check is Check.MALFORMED}
    valid = {voter: entry.score for voter, entry in entries.items() if entry.check is Check.VALID}
    scores = {voter: score for voter, score in valid.items() if score is not None}
    if seats.held_by(malformed) >= seats.quorum:
        return Verdict(member, "malformed", payload)
    if seats.held_by(scores if scored else valid) < seats.quorum:
        return Verdict(member, "unseen", payload)
    if not scored:
        return Verdict(member, "accepted", payload)
    consensus = consensus_of(scores, seats, terms)
    if consensus.score > consensus.band:
        return Verdict(member, "accepted", payload, consensus)
    status = "harmful" if consensus.score < -terms.harmful_factor * consensus.band else "rejected"
    return Verdict(member, status, payload, consensus)


def judge_candidate(
    state: TaskState, seats: Seats, proposals: Iterable[Verdict], ballots: Mapping[int, BallotB], scored: bool
) -> Candidate:
    """The candidate that at least q seats name, with one set of weights over exactly the accepted updates."""
    accepted = [verdict.member for verdict in proposals if verdict.status == "accepted"]
    for ballot in ballots.values():
        if not accepted or len(ballot.candidates) != 1 or [member for member, _ in ballot.weights] != accepted:
            continue
        agreeing = {
            voter: other.candidates[0][1]
            for voter, other in ballots.items()
            if (other.hashes, other.weights) == (ballot.hashes, ballot.weights)
        }
        scores = {voter: score for voter, score in agreeing.items() if score is not None}
        if seats.held_by(scores if scored else agreeing) >= seats.quorum:
            consensus = consensus_of(scores, seats, state.terms) if scored else None
            return Candidate(ballot.hashes[0], ballot.weights, consensus)
    return Candidate()
