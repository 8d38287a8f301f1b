"""From ballots to a verdict, over seats: quantile, medians, bands, what became of each proposal, and the candidate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Container, Iterable, Mapping
from dataclasses import dataclass

from flock_ray.protocol.ballot import BallotA, BallotB, Check, ProposalEntry, Score
from flock_ray.protocol.message import Kind
from flock_ray.protocol.state import TaskState, Terms
from flock_ray.verify.draw import Seats
from flock_ray.verify.message_set import MessageSet

DECODED = frozenset(("accepted", "rejected", "harmful", "malformed"))
"""What became of proposals whose payload a quorum had: a replay decodes it again."""

Scores = Mapping[int, tuple[Score, ...]]
"""{voter: its scores of a proposal, or of the candidate at each step}."""


@dataclass(frozen=True)
class Electorate:
    """Who votes in an epoch: its seats, and the voters that have lost their voice."""

    state: TaskState
    seats: Seats
    voiceless: frozenset[int] = frozenset()

    def counted(self, voters: Container[int]) -> list[int]:
        """Of these voters those with a voice, once a seat; all of them if none has one."""
        seated = [voter for voter in self.seats.voters if voter in voters]
        return [voter for voter in seated if voter not in self.voiceless] or seated


@dataclass(frozen=True)
class Consensus:
    """The seats' joint score and band, and each voter's own gain; all in micro-nats a token."""

    score: int
    band: int
    gains: dict[int, int]


@dataclass(frozen=True)
class Judgement:
    """What the scores of a proposal come to; `entering` is of what enters the candidate, where that is scored too."""

    status: str
    consensus: Consensus
    entering: Consensus | None = None


@dataclass(frozen=True)
class Verdict:
    """What became of a proposal; `consensus` is None where it was not scored, `payload` where nothing was opened."""

    member: int
    status: str
    payload: bytes | None = None
    consensus: Consensus | None = None
    entering: Consensus | None = None


@dataclass(frozen=True)
class Candidate:
    """The adapter named by a quorum of seats, with the accepted updates' weights in it; all empty without a quorum.

    Attributes:
        step: that was taken: adapter and consensus are of it.
        steps: (step, adapter, joint score) in their order.
    """

    adapter: bytes | None = None
    weights: tuple[tuple[int, int], ...] = ()
    consensus: Consensus | None = None
    step: int | None = None
    steps: tuple[tuple[int, bytes, int | None], ...] = ()


def quantile(values: Iterable[int], basis_points: int) -> int:
    """The least value that at least this share of the values does not exceed."""
    ordered = sorted(values)
    return next(v for i, v in enumerate(ordered, start=1) if i * 10_000 >= basis_points * len(ordered))


def lower_median(values: Collection[int]) -> int:
    """The middle value, of an even number the smaller one in the middle."""
    return sorted(values)[(len(values) - 1) // 2]


def upper_median(values: Collection[int]) -> int:
    """The middle value, of an even number the larger one in the middle."""
    return sorted(values)[len(values) // 2]


def consensus_of(scores: Mapping[int, Score], seats: Seats, terms: Terms) -> Consensus:
    """Score and band of {voter: score}; a voter counts once per seat."""
    counted = [scores[voter] for voter in seats.voters if voter in scores]
    width = terms.band_z_bp * quantile((vote.standard_error for vote in counted), 5_000) // 10_000
    band = max(terms.band_floor, min(width, terms.band_ceiling))
    score = quantile((vote.gain for vote in counted), terms.quantile_bp)
    return Consensus(score, band, {voter: scores[voter].gain for voter in sorted(scores)})


def judge_proposals(
    electorate: Electorate,
    messages: MessageSet,
    ballots: Mapping[int, BallotA],
    num_scores: int,
    judge: Callable[[Electorate, Scores], Judgement],
) -> tuple[Verdict, ...]:
    """What became of every proposer's proposal, by ascending member.

    Args:
        electorate: of the epoch.
        messages: all of the epoch.
        ballots: {voter: ballot A}.
        num_scores: that the mechanism wants of each proposal; of 0, every valid one is accepted.
        judge: its judgement of the scores of at least a quorum of seats.
    """
    seats = electorate.seats
    manifests = messages.manifests(electorate.state, seats)
    copies = Counter(manifest.payload for manifest in manifests.values())
    findings: dict[tuple[int, bytes], dict[int, ProposalEntry]] = {}
    for voter, ballot in ballots.items():
        for entry in ballot.entries:
            findings.setdefault((entry.member, entry.payload), {})[voter] = entry

    def judged(member: int, payload: bytes) -> Verdict:
        entries = findings.get((member, payload), {})
        malformed = {voter for voter, entry in entries.items() if entry.check is Check.MALFORMED}
        valid = {voter: entry for voter, entry in entries.items() if entry.check is Check.VALID}
        if seats.held_by(malformed) >= seats.quorum:
            return Verdict(member, "malformed", payload)
        if seats.held_by(valid) >= seats.quorum and not num_scores:
            return Verdict(member, "accepted", payload)
        scores = {voter: found for voter, entry in valid.items() if (found := _scores(entry, num_scores))}
        if seats.held_by(scores) < seats.quorum:
            return Verdict(member, "unseen", payload)
        judgement = judge(electorate, scores)
        return Verdict(member, judgement.status, payload, judgement.consensus, judgement.entering)

    verdicts = []
    for member in sorted(set(seats.proposers)):
        if member not in manifests:
            sent = messages.single(Kind.MANIFEST, member)
            verdicts.append(Verdict(member, "refused" if sent else "missing"))
        elif copies[manifests[member].payload] > 1:
            verdicts.append(Verdict(member, "copied", manifests[member].payload))
        else:
            verdicts.append(judged(member, manifests[member].payload))
    return tuple(verdicts)


def _scores(entry: ProposalEntry, number: int) -> tuple[Score, ...]:
    """The first scores of an entry; none of one that lacks some."""
    found = tuple(score for score in (entry.score, entry.entering)[:number] if score is not None)
    return found if len(found) == number else ()


def named_candidate(
    electorate: Electorate, proposals: Iterable[Verdict], ballots: Mapping[int, BallotB], num_steps: int, scored: bool
) -> tuple[BallotB, Scores] | None:
    """A ballot of those that name what at least q seats name, and these voters' scores of it.

    They name an adapter for each step, and one set of weights over exactly the accepted updates.
    """
    accepted = [verdict.member for verdict in proposals if verdict.status == "accepted"]
    for ballot in ballots.values():
        if not accepted or len(ballot.candidates) != num_steps or [member for member, _ in ballot.weights] != accepted:
            continue
        agreeing = {
            voter: other.scores
            for voter, other in ballots.items()
            if (other.hashes, other.weights) == (ballot.hashes, ballot.weights)
        }
        scores = {voter: found for voter, found in agreeing.items() if found is not None}
        if electorate.seats.held_by(scores if scored else agreeing) >= electorate.seats.quorum:
            return ballot, scores
    return None
