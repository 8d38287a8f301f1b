"""Payment by marginal value: the mechanism `marginal`, whose rules docs/mechanism.md states in full."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from math import isqrt
from statistics import median_high, median_low
from typing import ClassVar

from flock_ray.protocol.ballot import Score
from flock_ray.protocol.mechanism import Outcome, Plain, share_out
from flock_ray.protocol.parameters import Parameter
from flock_ray.protocol.state import MemberState, TaskState, Terms
from flock_ray.protocol.verdict import Consensus, Panel

ACCURACY = "accuracy"
"""Name of a voter's accuracy among what is noted of it, millionths; absent until it is known."""

_UNIT = 1_000_000
_LEAST_BAND = 200  # micro-nats a token, of a whole update
_HARMFUL_BANDS = 4
_HARM_VOTERS = 7  # fewest independent voters that slash for harm
_LEAST_VALUE = 1_000  # what all proposals together are worth at least, micro-nats a token


class Marginal(Plain):
    """Pays proposers for what they add to what is public, and voters for telling good proposals from bad ones.

    Proposals that are not accepted cost a fee, harmful ones are slashed. Voters whose scores tell nothing lose their
    voice, and nobody is slashed for scores.

    Parameters: voter_share, the voters' share of a budget in basis points; fee_bp, the least fee in basis points of the
    stake; history, how many moves of the global adapter count as public.
    """

    parameters: ClassVar[Mapping[str, Parameter]] = {
        "voter_share": Parameter(3_000, 0, 10_000),
        "fee_bp": Parameter(5, 0, 10_000),
        "history": Parameter(16, 0, 256),
    }
    scores_proposals: ClassVar[bool] = True
    scores_candidate: ClassVar[bool] = True
    splits_updates: ClassVar[bool] = True
    steps: ClassVar[tuple[int, ...]] = (1, 2, 3, 5)
    fewest_proposers: ClassVar[int] = 2
    judges_by_terms: ClassVar[bool] = False

    def history(self, terms: Terms) -> int:
        """See the parameter."""
        return terms.mechanism_parameters["history"]

    # -- scores ----------------------------------------------------------------------------------------------------

    def voiceless(self, state: TaskState) -> frozenset[int]:
        """Voters that are far less accurate than the others, lowest first, with at most a third of the seats."""
        seats = state.roles.voter_seats
        known = {one: _accuracy(state.members[one]) for one in sorted(seats) if ACCURACY in state.members[one].noted}
        if not known:
            return frozenset()
        low, left, lost = median_high(known.values()) // 4, len(state.roles.voters) // 3, set[int]()
        for voter in sorted(known, key=lambda one: (known[one], one)):
            left -= seats[voter]
            if known[voter] >= low or left < 0:
                break
            lost.add(voter)
        return frozenset(lost)

    def consensus(self, scores: Mapping[int, Score], panel: Panel, num_parts: int) -> Consensus:
        """Lower median of the seats that count, and a band by their median deviation from it."""
        gains = [scores[voter].gain for voter in panel.seats(scores)]
        score = median_low(gains)
        deviation = median_high(abs(gain - score) for gain in gains)
        band = max(_least_band(num_parts), 1_858 * deviation // isqrt(len(gains) * 10**6))
        return Consensus(score, band, {voter: own.gain for voter, own in sorted(scores.items())})

    def status(self, consensus: Consensus, entering: Consensus | None, panel: Panel) -> str:
        """Accepted if residual and what enters are above the band; harmful if a quorum says so of what enters."""
        assert entering is not None
        if min(consensus.score, entering.score) > consensus.band:
            return "accepted"
        voters, q = panel.seats(entering.gains), panel.roles.quorum
        lowest = sorted(entering.gains[voter] for voter in voters)
        independent = len(voters) ** 2 // sum(held * held for held in Counter(voters).values())
        known = len(voters) >= q and independent >= _HARM_VOTERS
        return "harmful" if known and lowest[q - 1] < -_HARMFUL_BANDS * entering.band else "rejected"

    def best_step(self, gains: Sequence[Mapping[int, int]], panel: Panel) -> int:
        """A longer step is taken if the lower median of what it gains over the one taken so far is above 0."""
        taken, voters = 0, panel.seats(gains[0])
        for step in range(1, len(gains)):
            if median_low(gains[step][voter] - gains[taken][voter] for voter in voters) > 0:
                taken = step
        return taken

    def accepts(self, outcome: Outcome) -> bool:
        """Score of the candidate >= -band."""
        consensus = outcome.candidate.consensus
        return consensus is not None and consensus.score >= -consensus.band

    # -- money -----------------------------------------------------------------------------------------------------

    def rewards(self, outcome: Outcome, accepted: bool) -> dict[int, int]:
        """Proposers by score above the band, voters by accuracy; both over their seats."""
        for_voters, for_proposers = _budgets(outcome)
        earned = share_out(for_voters, self._voter_weights(outcome))
        if accepted:
            seats = outcome.roles.proposer_seats
            value = {
                proposal.member: max(0, min(residual.score, entering.score) - residual.band) * seats[proposal.member]
                for proposal in outcome.accepted_proposals
                if (residual := proposal.consensus) and (entering := proposal.entering)
            }
            total = max(_LEAST_VALUE, sum(value.values()))
            earned |= {member: for_proposers * own // total for member, own in value.items() if own}
        return earned

    def _voter_weights(self, outcome: Outcome) -> dict[int, int]:
        """Seats times accuracy above a quarter of the upper median."""
        if not outcome.present:
            return {}
        after = {voter: 0 for voter in outcome.present} | self._accuracies(outcome)
        able = {voter: max(0, after[voter]) for voter in sorted(outcome.present)}
        low, seats = median_high(able.values()) // 4, outcome.roles.voter_seats
        return {voter: max(0, accuracy - low) * seats[voter] for voter, accuracy in able.items()}

    def charged(self, outcome: Outcome) -> dict[int, int]:
        """A fee for every proposal that was scored and not accepted."""
        terms, (_, for_proposers) = outcome.state.terms, _budgets(outcome)
        by_budget = for_proposers // (8 * terms.num_proposers)
        return {
            proposal.member: max(
                outcome.state.members[proposal.member].stake * terms.mechanism_parameters["fee_bp"] // 10_000, by_budget
            )
            for proposal in outcome.proposals
            if proposal.consensus and proposal.status != "accepted"
        }

    def slashed(self, outcome: Outcome, accepted: bool) -> dict[int, str]:
        """Proposers of harmful updates."""
        return {proposal.member: "harmful" for proposal in outcome.proposals if proposal.status == "harmful"}

    # -- accuracy --------------------------------------------------------------------------------------------------

    def noted(self, outcome: Outcome) -> dict[int, dict[str, int]]:
        """The accuracy of the voters that were measured."""
        members = outcome.state.members
        return {
            voter: {**members[voter].noted, ACCURACY: accuracy}
            for voter, accuracy in self._accuracies(outcome).items()
            if accuracy != members[voter].noted.get(ACCURACY)
        }

    def _accuracies(self, outcome: Outcome) -> dict[int, int]:
        """{voter: accuracy after the epoch} of the present voters whose accuracy is known."""
        scored = [proposal.consensus for proposal in outcome.proposals if proposal.consensus]
        least, known = _least_band(len(outcome.roles.proposer_seats) or 1), {}
        for voter in sorted(outcome.present):
            before = outcome.state.members[voter]
            others = [(one.gains.get(voter), _median_without(voter, one, outcome)) for one in scored]
            pairs = [(own, joint) for own, joint in others if joint is not None]
            if len(pairs) >= 2:
                known[voter] = _accuracy(before) + (_own_fit(pairs, least) - _accuracy(before)) // 4
            elif ACCURACY in before.noted:
                known[voter] = before.noted[ACCURACY]
        return known


def _accuracy(member: MemberState) -> int:
    """What is noted; 0 before the first time."""
    return member.noted.get(ACCURACY, 0)


def _least_band(num_parts: int) -> int:
    """Of one of as many parts of an update, micro-nats a token, rounded up."""
    return -(-_LEAST_BAND // num_parts)


def _budgets(outcome: Outcome) -> tuple[int, int]:
    """The voters' part of the budget and the proposers', wei."""
    for_voters = outcome.budget * outcome.state.terms.mechanism_parameters["voter_share"] // 10_000
    return for_voters, outcome.budget - for_voters


def _median_without(voter: int, scored: Consensus, outcome: Outcome) -> int | None:
    """Lower median of the scores of the seats that count without a voter's own; None where nobody else scored."""
    panel = Panel(outcome.roles, outcome.state.terms, outcome.voiceless)
    gains = [scored.gains[other] for other in panel.seats(scored.gains.keys() - {voter})]
    return median_low(gains) if gains else None


def _own_fit(pairs: Sequence[tuple[int | None, int]], least: int) -> int:
    """How much better a voter's scores fit the others' of the same proposal than of another one, millionths.

    Args:
        pairs: at least two of the voter's score, if it has one, and the others' median.
        least: what scores are compared by at least.
    """
    same = other = 0
    for i, (own, _) in enumerate(pairs):
        if own is not None:
            for j, (_, joint) in enumerate(pairs):
                fit = max(0, _UNIT - _UNIT * abs(own - joint) // max(least, abs(joint)))
                same, other = (same + fit, other) if i == j else (same, other + fit)
    count = len(pairs)
    return same // count - other // (count * (count - 1))
