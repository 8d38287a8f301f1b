"""From ballots to a verdict: quantile scores, acceptance bands, accepted and harmful proposals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flock_ray.protocol.ballot import BallotB, Check, ProposalEntry, Score
from flock_ray.protocol.capture import quantile_index
from flock_ray.protocol.encoding import Json, to_hex
from flock_ray.protocol.roles import Roles
from flock_ray.protocol.state import Terms


def quantile(values: Sequence[int], quantile_bp: int) -> int:
    """The kappa-quantile of integers; kappa = 1/2 gives the lower median.

    Args:
        values: at least one.
        quantile_bp: kappa in basis points.
    """
    return sorted(values)[quantile_index(len(values), quantile_bp)]


def band(standard_errors: Sequence[int], terms: Terms) -> int:
    """Acceptance band, micro-nats a token: z times the lower median of the standard errors, floor to ceiling."""
    raw = terms.band_z_bp * quantile(standard_errors, 5_000) // 10_000
    return max(terms.band_floor, min(terms.band_ceiling, raw))


@dataclass(frozen=True)
class Consensus:
    """The seats' joint score of one adapter.

    Attributes:
        score: kappa-quantile of the gains over seats, micro-nats a token.
        band: acceptance band.
        gains: {voter: the gain it reported}, micro-nats a token.
    """

    score: int
    band: int
    gains: Mapping[int, int]

    def json(self) -> dict[str, Json]:
        """The consensus in a record."""
        gains: Json = [[member, gain] for member, gain in self.gains.items()]
        return {"score": self.score, "band": self.band, "gains": gains}


def consensus(scores: Mapping[int, Score], roles: Roles, terms: Terms) -> Consensus:
    """Consensus of {voter: score}; a voter with two seats counts twice."""
    seats = [scores[member] for member in roles.voters if member in scores]
    score = quantile([seat.gain for seat in seats], terms.quantile_bp)
    return Consensus(
        score,
        band([seat.standard_error for seat in seats], terms),
        {member: own.gain for member, own in sorted(scores.items())},
    )


_UNSCORED: dict[str, Json] = {"score": None, "band": None, "gains": None}


@dataclass(frozen=True)
class StepVerdict:
    """A candidate at one step: its hash, and the seats' score of it, None where the mechanism asks for none."""

    step: int
    candidate: bytes
    score: int | None

    def json(self) -> Json:
        """`[step, hash, score]`."""
        return [self.step, to_hex(self.candidate), self.score]


@dataclass(frozen=True)
class ProposalVerdict:
    """What became of one proposal.

    Attributes:
        status: `accepted`, `rejected`, `harmful`, `malformed`, `copied`, `unseen` (fewer than q seats had it),
            `refused` (its manifest does not fit its commitment or the chain) or `missing`.
        payload: SHA-256 of the encoded update, None when nothing was opened.
        consensus: None where it was not scored.
        entering: of what enters the candidate, where the mechanism has that scored too.
    """

    member: int
    status: str
    payload: bytes | None = None
    consensus: Consensus | None = None
    entering: Consensus | None = None

    def json(self) -> Json:
        """The verdict in a record."""
        return {
            "member": self.member,
            "status": self.status,
            "payload": to_hex(self.payload) if self.payload else None,
            **(self.consensus.json() if self.consensus else _UNSCORED),
            "entering": self.entering.json() if self.entering else None,
        }


def judge_proposal(
    member: int, payload: bytes, entries: Mapping[int, ProposalEntry], roles: Roles, terms: Terms, scored: bool
) -> ProposalVerdict:
    """Verdict on a proposal whose manifest holds.

    A proposal counts if at least q seats fetched it and found it valid; it is malformed if at least q seats say so.

    Args:
        member: the proposer.
        payload: hash of its payload.
        entries: {voter: its finding on this member and payload} from the ballots A that opened their commitment.
        roles: of the epoch.
        terms: of the task.
        scored: whether the mechanism asks for scores; without them every valid proposal is accepted.
    """

    def seats(check: Check) -> int:
        return sum(roles.voter_seats[voter] for voter, entry in entries.items() if entry.check is check)

    if seats(Check.MALFORMED) >= roles.quorum:
        return ProposalVerdict(member, "malformed", payload)
    if seats(Check.VALID) < roles.quorum:
        return ProposalVerdict(member, "unseen", payload)
    if not scored:
        return ProposalVerdict(member, "accepted", payload)
    scores = {voter: entry.score for voter, entry in entries.items() if entry.check is Check.VALID and entry.score}
    if sum(roles.voter_seats[voter] for voter in scores) < roles.quorum:
        return ProposalVerdict(member, "unseen", payload)
    result = consensus(scores, roles, terms)
    harmful = result.score < -terms.harmful_factor * result.band
    status = "accepted" if result.score > result.band else "harmful" if harmful else "rejected"
    return ProposalVerdict(member, status, payload, result)


@dataclass(frozen=True)
class CandidateVerdict:
    """The seats' verdict on the candidates.

    Attributes:
        candidate: the hash that at least q seats computed, at the step that is taken; None without accepted updates,
            agreement or enough scores.
        weights: (proposer, integer weight) of the accepted updates, as the same seats state them; 0: not in it.
        consensus: on the candidate; None without one or where the mechanism asks for no score.
        step: the one that is taken; None without a candidate.
        steps: the candidates at all steps.
    """

    candidate: bytes | None
    weights: tuple[tuple[int, int], ...]
    consensus: Consensus | None
    step: int | None = None
    steps: tuple[StepVerdict, ...] = ()

    def json(self) -> Json:
        """The verdict in a record."""
        return {
            "adapter": to_hex(self.candidate) if self.candidate else None,
            "weights": [list(pair) for pair in self.weights],
            **(self.consensus.json() if self.consensus else _UNSCORED),
            "step": self.step,
            "steps": [step.json() for step in self.steps],
        }


def judge_candidate(
    ballots: Mapping[int, BallotB], accepted: Sequence[int], roles: Roles, terms: Terms, scored: bool
) -> CandidateVerdict:
    """The candidate that a quorum of seats names, with their scores of it.

    Args:
        ballots: {voter: ballot B} of the ballots that opened their commitment.
        accepted: proposers of the accepted updates, ascending.
        roles: of the epoch.
        terms: of the task.
        scored: whether the mechanism asks for scores.
    """
    no_candidate = CandidateVerdict(None, (), None)
    seats: Counter[tuple[bytes, tuple[tuple[int, int], ...]]] = Counter()
    for voter, ballot in ballots.items():
        if len(ballot.candidates) == 1 and [member for member, _ in ballot.weights] == list(accepted):
            seats[ballot.hashes[0], ballot.weights] += roles.voter_seats[voter]
    agreed = [key for key, count in seats.items() if count >= roles.quorum]
    if not accepted or not agreed:
        return no_candidate
    ((candidate, weights),) = agreed
    if not scored:
        return CandidateVerdict(candidate, weights, None, 1, (StepVerdict(1, candidate, None),))
    scores = {
        voter: ballot.scores[0]
        for voter, ballot in ballots.items()
        if (ballot.hashes, ballot.weights) == ((candidate,), weights) and ballot.scores
    }
    if sum(roles.voter_seats[voter] for voter in scores) < roles.quorum:
        return no_candidate
    joint = consensus(scores, roles, terms)
    return CandidateVerdict(candidate, weights, joint, 1, (StepVerdict(1, candidate, joint.score),))
