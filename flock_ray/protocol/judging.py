"""From ballots to verdicts: which proposals and which candidate a quorum had, and what a mechanism makes of scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from flock_ray.protocol.ballot import BallotB, Check, ProposalEntry
from flock_ray.protocol.mechanism import Mechanism
from flock_ray.protocol.verdict import CandidateVerdict, Panel, ProposalVerdict, StepVerdict


def judge_proposal(
    member: int, payload: bytes, entries: Mapping[int, ProposalEntry], panel: Panel, mechanism: Mechanism
) -> ProposalVerdict:
    """Verdict on a proposal whose manifest holds.

    A proposal counts if at least q seats fetched it and found it valid; it is malformed if at least q seats say so.
    An entry with fewer scores than the mechanism asks for has none; a second one that it does not ask for is ignored.

    Args:
        member: the proposer.
        payload: hash of its payload.
        entries: {voter: its finding on this member and payload} from the ballots A that opened their commitment.
        panel: of the epoch.
        mechanism: of the task; where it asks for no scores, every valid proposal is accepted.
    """
    roles = panel.roles

    def seats(check: Check) -> int:
        return sum(roles.voter_seats[voter] for voter, entry in entries.items() if entry.check is check)

    if seats(Check.MALFORMED) >= roles.quorum:
        return ProposalVerdict(member, "malformed", payload)
    if seats(Check.VALID) < roles.quorum:
        return ProposalVerdict(member, "unseen", payload)
    if not mechanism.scores_proposals:
        return ProposalVerdict(member, "accepted", payload)
    valid = {voter: entry for voter, entry in entries.items() if entry.check is Check.VALID}
    scores = {voter: entry.score for voter, entry in valid.items() if entry.score}
    entering = {voter: entry.entering for voter, entry in valid.items() if entry.score and entry.entering}
    if mechanism.splits_updates:
        scores = {voter: scores[voter] for voter in entering}
    if sum(roles.voter_seats[voter] for voter in scores) < roles.quorum:
        return ProposalVerdict(member, "unseen", payload)
    if not mechanism.splits_updates:
        consensus = mechanism.consensus(scores, panel, 1)
        return ProposalVerdict(member, mechanism.status(consensus, None, panel), payload, consensus)
    parts = len(roles.proposer_seats)
    consensus, second = mechanism.consensus(scores, panel, parts), mechanism.consensus(entering, panel, parts)
    return ProposalVerdict(member, mechanism.status(consensus, second, panel), payload, consensus, second)


def judge_candidate(
    ballots: Mapping[int, BallotB], accepted: Sequence[int], panel: Panel, mechanism: Mechanism
) -> CandidateVerdict:
    """The candidates that a quorum of seats names, with their scores of them, and the step that the mechanism takes.

    Args:
        ballots: {voter: ballot B} of the ballots that opened their commitment; one that scores some candidates only
            has no scores.
        accepted: proposers of the accepted updates, ascending.
        panel: of the epoch.
        mechanism: of the task.
    """
    roles, steps = panel.roles, mechanism.steps
    no_candidate = CandidateVerdict(None, (), None)
    seats: Counter[tuple[tuple[bytes, ...], tuple[tuple[int, int], ...]]] = Counter()
    for voter, ballot in ballots.items():
        if len(ballot.candidates) == len(steps) and [member for member, _ in ballot.weights] == list(accepted):
            seats[ballot.hashes, ballot.weights] += roles.voter_seats[voter]
    agreed = [key for key, count in seats.items() if count >= roles.quorum]
    if not accepted or not agreed:
        return no_candidate
    ((hashes, weights),) = agreed
    if not mechanism.scores_candidate:
        named = tuple(StepVerdict(step, digest, None) for step, digest in zip(steps, hashes, strict=True))
        return CandidateVerdict(hashes[0], weights, None, steps[0], named)
    scores = {
        voter: ballot.scores
        for voter, ballot in ballots.items()
        if (ballot.hashes, ballot.weights) == (hashes, weights) and ballot.scores
    }
    if sum(roles.voter_seats[voter] for voter in scores) < roles.quorum:
        return no_candidate
    joint = [
        mechanism.consensus({voter: own[place] for voter, own in scores.items()}, panel, 1)
        for place in range(len(steps))
    ]
    taken = mechanism.best_step([one.gains for one in joint], panel)
    scored = tuple(StepVerdict(step, digest, one.score) for step, digest, one in zip(steps, hashes, joint, strict=True))
    return CandidateVerdict(hashes[taken], weights, joint[taken], steps[taken], scored)
