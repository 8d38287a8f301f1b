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
        scores: dict[tuple[int, bytes], Score] = {}
        if self._mechanism.scores_proposals:
            checks = self._bench.updates.check(payloads)
            scored = [payload for payload, check in checks.items() if check is Check.VALID]
            self._bench.progress.begin("score proposals", len(voters) * len(scored))
            silos = [self._silos[voter] for voter in voters]
            measured = self._bench.scorer.score_proposals(silos, state.adapter, scored)
            scores = {(voter, one): measured[self._silos[voter], one] for voter in voters for one in scored}
        else:
            checks = self._bench.aggregator.check_and_add(state.adapter, payloads)
        ballots = []
        for number in voters:
            if member := self._members.get(number):
                context, entries = member.context(state), []
                own = {one: scores.get((number, manifest.payload)) for one, manifest in manifests.items()}
                gains = {proposer: score.gain for proposer, score in own.items() if score}
                for proposer, manifest in manifests.items():
                    score = own[proposer]
                    if score:
                        said = member.behaviour.ballot_a(context, Proposal(proposer, gains), score.gain)
                        score = _with_gain(score, said)
                    entries.append(ProposalEntry(proposer, manifest.payload, checks[manifest.payload], score))
                ballots.append((member, BallotA(tuple(entries))))
        return ballots

    def _accepted(self, state: TaskState, inbox: Inbox) -> dict[int, bytes]:
        """{proposer: payload hash} of the accepted proposals."""
        accepted = [proposal for proposal in judge_proposals(state, inbox) if proposal.status == "accepted"]
        return {proposal.member: proposal.payload for proposal in accepted if proposal.payload}

    def kept_updates(self, state: TaskState, inbox: Inbox) -> list[Adapter]:
        """The accepted updates that were kept to be scored; none where the mechanism wants no scores."""
        return self._bench.updates.kept(list(self._accepted(state, inbox).values()))

    def candidate(self, state: TaskState, inbox: Inbox) -> tuple[bytes | None, tuple[tuple[int, int], ...]]:
        """Hash of the candidate as combined here, with its weights; None without accepted updates or lacking one."""
        accepted = self._accepted(state, inbox)
        if not accepted:
            return None, ()
        if self._mechanism.scores_proposals:  # kept, unless this worker was rebuilt since
            self._bench.updates.check(list(accepted.values()))
        candidate, weights = self._bench.aggregator.combine(state.adapter, list(accepted.values()))
        return candidate, tuple(zip(accepted, weights, strict=True)) if candidate else ()

    def ballots_b(self, state: TaskState, inbox: Inbox, voters: Sequence[int]) -> list[tuple[Member, BallotB]]:
        """Ballot B of every hosted voter: the candidate, its weights and score, and the voter's reveal."""
        if not voters:
            return []
        candidate, weights = self.candidate(state, inbox)
        scores: dict[int, Score] = {}
        if candidate and self._mechanism.scores_candidate:
            self._bench.progress.begin("score candidate", len(voters))
            measured = self._bench.scorer.score_candidate([self._silos[voter] for voter in voters], candidate)
            scores = {voter: measured[self._silos[voter]] for voter in voters}
        ballots = []
        for number in voters:
            if member := self._members.get(number):
                score = scores.get(number)
                if score:
                    said = member.behaviour.ballot_b(member.context(state), Candidate(dict(weights)), score.gain)
                    score = _with_gain(score, said)
                reveal = member.hash_chain(state.scope.task).preimage(state.epoch)
                ballots.append((member, BallotB(((candidate, score),) if candidate else (), weights, reveal)))
        return ballots


def _with_gain(score: Score, gain: int) -> Score:
    """A score as a member reports it, within the bounds that a reader accepts."""
    return Score(gain, score.standard_error).clamped()
