"""What the voters of a node say: ballots A and B, from what its workbench measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flock_ray.adversary.behaviour import Candidate, Proposal
from flock_ray.cluster.member import Member
from flock_ray.cluster.workbench import Workbench
from flock_ray.lora.serialization import Adapter
from flock_ray.protocol.ballot import BallotA, BallotB, Check, ProposalEntry, Score
from flock_ray.protocol.epoch import judge_proposals, opened_manifests
from flock_ray.protocol.inbox import Inbox
from flock_ray.protocol.mechanism import Mechanism
from flock_ray.protocol.state import TaskState


class BallotBuilder:
    """Fills in the ballots of hosted voters; all ranks compute, rank 0 has members to answer for."""

    def __init__(
        self, bench: Workbench, members: Mapping[int, Member], silos: Mapping[int, int], mechanism: Mechanism
    ) -> None:
        """Fill in ballots.

        Args:
            bench: measures.
            members: {number: member} that answer for ballots.
            silos: {member: silo}.
            mechanism: says which ballots need scores.
        """
        self._bench, self._members, self._silos, self._mechanism = bench, members, silos, mechanism

    def ballots_a(self, state: TaskState, inbox: Inbox, voters: Sequence[int]) -> list[tuple[Member, BallotA]]:
        """Ballot A of every hosted voter: checks, and scores if the mechanism wants them."""
        if not voters:
            return []
        manifests = opened_manifests(state, inbox)
        payloads = [manifest.payload for manifest in manifests.values()]
        measured: Mapping[tuple[int, bytes], tuple[Score, ...]] = {}
        if self._mechanism.scores_proposals:
            checks = self._bench.updates.check(payloads)
            scored = [payload for payload, check in checks.items() if check is Check.VALID]
            measured = self._measured(state, [self._silos[voter] for voter in voters], scored)
        else:
            checks = self._bench.aggregator.check_and_add(state.adapters, payloads, self._mechanism)
        ballots = []
        for number in voters:
            if member := self._members.get(number):
                own = {
                    proposer: measured.get((self._silos[number], manifest.payload), ())
                    for proposer, manifest in manifests.items()
                }
                said = _said_of_proposals(member, state, own)
                entries = tuple(
                    ProposalEntry(proposer, manifest.payload, checks[manifest.payload], *(said[proposer] or (None,)))
                    for proposer, manifest in manifests.items()
                )
                ballots.append((member, BallotA(entries)))
        return ballots

    def _measured(
        self, state: TaskState, silos: Sequence[int], payloads: Sequence[bytes]
    ) -> dict[tuple[int, bytes], tuple[Score, ...]]:
        """{(silo, payload hash): the scores that the mechanism asks for} of payloads that decoded."""
        scorer, progress = self._bench.scorer, self._bench.progress
        if not self._mechanism.splits_updates:
            progress.begin("score proposals", len(silos) * len(payloads))
            return scorer.score_proposals(silos, state.adapter, payloads)
        self._bench.splits.of(state.adapters, payloads)  # all at once
        progress.begin("score proposals", len(silos) * len(payloads) * (2 if state.earlier_adapters else 1))
        return scorer.score_splits(silos, state.adapters, payloads, len(state.roles.proposer_seats))

    def _accepted(self, state: TaskState, inbox: Inbox) -> dict[int, bytes]:
        """{proposer: payload hash} of the accepted proposals."""
        accepted = [proposal for proposal in judge_proposals(state, inbox) if proposal.status == "accepted"]
        return {proposal.member: proposal.payload for proposal in accepted if proposal.payload}

    def entering_updates(self, state: TaskState, inbox: Inbox) -> list[Adapter]:
        """What enters of the accepted updates, if they were kept to be scored; none where the mechanism wants none."""
        payloads = list(self._accepted(state, inbox).values())
        if self._mechanism.splits_updates:
            return [split.entering for split in self._bench.splits.of(state.adapters, payloads).values()]
        return self._bench.updates.kept(payloads)

    def candidates(self, state: TaskState, inbox: Inbox) -> tuple[tuple[bytes, ...], tuple[tuple[int, int], ...]]:
        """Hashes of the candidates as combined here, with the weights; none without accepted updates or lacking one."""
        accepted = self._accepted(state, inbox)
        if not accepted:
            return (), ()
        payloads = list(accepted.values())
        if self._mechanism.scores_proposals:  # kept, unless this worker was rebuilt since
            self._bench.updates.check(payloads)
        candidates, weights = self._bench.aggregator.combine(state.adapters, payloads, self._mechanism)
        return candidates, tuple(zip(accepted, weights, strict=True)) if candidates else ()

    def ballots_b(self, state: TaskState, inbox: Inbox, voters: Sequence[int]) -> list[tuple[Member, BallotB]]:
        """Ballot B of every hosted voter: the candidates and their scores, the weights, and the voter's reveal."""
        if not voters:
            return []
        candidates, weights = self.candidates(state, inbox)
        scores: Mapping[tuple[int, bytes], Score] = {}
        if candidates and self._mechanism.scores_candidate:
            self._bench.progress.begin("score candidate", len(voters) * len(candidates))
            scores = self._bench.scorer.score_candidates([self._silos[voter] for voter in voters], candidates)
        ballots = []
        for number in voters:
            if member := self._members.get(number):
                own = [(candidate, scores.get((self._silos[number], candidate))) for candidate in candidates]
                said = tuple((candidate, _said_of_candidate(member, state, weights, one)) for candidate, one in own)
                reveal = member.hash_chain(state.scope.task).preimage(state.epoch)
                ballots.append((member, BallotB(said, weights, reveal)))
        return ballots


def _said_of_proposals(
    member: Member, state: TaskState, measured: Mapping[int, tuple[Score, ...]]
) -> dict[int, list[Score]]:
    """{proposer: scores of its proposal} as a member reports them, for those that it measured."""
    context, said = member.context(state), {proposer: list[Score]() for proposer in measured}
    for place in range(max(map(len, measured.values()), default=0)):
        scores = {proposer: own[place] for proposer, own in measured.items() if own}
        gains = {proposer: score.gain for proposer, score in scores.items()}
        for proposer, score in scores.items():
            gain = member.behaviour.ballot_a(context, Proposal(proposer, gains), score.gain)
            said[proposer].append(_with_gain(score, gain))
    return said


def _said_of_candidate(
    member: Member, state: TaskState, weights: tuple[tuple[int, int], ...], measured: Score | None
) -> Score | None:
    """The score of a candidate as a member reports it, for the one that it measured, if any."""
    if measured is None:
        return None
    gain = member.behaviour.ballot_b(member.context(state), Candidate(dict(weights)), measured.gain)
    return _with_gain(measured, gain)


def _with_gain(score: Score, gain: int) -> Score:
    """A score as a member reports it, within the bounds that a reader accepts."""
    return Score(gain, score.standard_error).clamped()
