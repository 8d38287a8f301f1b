"""`marginal`: proposers are paid for what their updates add and charged for what does not help, voters for accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt
from typing import ClassVar

from flock_ray.protocol.ballot import Score
from flock_ray.protocol.state import TaskState, Terms
from flock_ray.verify.accuracy import ACCURACY, accuracy_of, moved, voiceless_of, weights_of
from flock_ray.verify.draw import Seats
from flock_ray.verify.payment import Outcome, Payment, shares
from flock_ray.verify.scores import Consensus, Electorate, Judgement, Scores, lower_median, upper_median

_FLOOR = 200  # micro-nats a token, of a candidate; each of n updates is a part of one
_HARM = 4  # bands below zero
_INDEPENDENT = 7  # voters that must have scored a harmful update, by their seats
_LEAST_SUM = 1_000  # weights below it in total earn less than all, micro-nats a token times seats
_FEE_PARTS = 8  # a fee is at least this part of what the proposers' share has for one of their seats


def least_difference(seats: Seats) -> int:
    """ceil(200 / n), n the members that propose: the least band, and the least that a voter's error is measured by."""
    return -(-_FLOOR // len(set(seats.proposers)))


def consensus_of(electorate: Electorate, gains: Mapping[int, int], least: int) -> Consensus:
    """The lower median over the seats that count, and a band of the upper median of the deviations from it."""
    counted = [gains[voter] for voter in electorate.counted(gains)]
    middle = lower_median(counted)
    deviation = upper_median([abs(gain - middle) for gain in counted])
    band = 1_858 * deviation // isqrt(len(counted) * 10**6)
    return Consensus(middle, max(least, band), {voter: gains[voter] for voter in sorted(gains)})


def is_harm(electorate: Electorate, entering: Consensus) -> bool:
    """Whether a quorum of seats, of enough independent voters, measured that what enters does harm."""
    counted, quorum = electorate.counted(entering.gains), electorate.seats.quorum
    if len(counted) < quorum:
        return False
    seats = [counted.count(voter) for voter in set(counted)]
    independent = sum(seats) ** 2 // sum(held**2 for held in seats)
    lowest = sorted(entering.gains[voter] for voter in counted)[quorum - 1]
    return independent >= _INDEPENDENT and lowest < -_HARM * entering.band


class MarginalPayment(Payment):
    """Accepted proposers by score above the band, voters by accuracy, both per seat; what did not help costs a fee."""

    scored: ClassVar[tuple[bool, bool]] = (True, True)
    split: ClassVar[bool] = True
    steps: ClassVar[tuple[int, ...]] = (1, 2, 3, 5)
    bounds: ClassVar[Mapping[str, tuple[int, int]]] = {
        "fee_bp": (0, 10_000),
        "history": (0, 256),
        "voter_share": (0, 10_000),
    }

    def voiceless(self, state: TaskState, seats: Seats) -> frozenset[int]:
        """The least accurate voters, with at most a third of the seats."""
        return voiceless_of(state, seats)

    def judged(self, electorate: Electorate, scores: Scores) -> Judgement:
        """By the worse of both joint scores; harm by what enters alone."""
        least = least_difference(electorate.seats)
        residual = consensus_of(electorate, {voter: own[0].gain for voter, own in scores.items()}, least)
        entering = consensus_of(electorate, {voter: own[1].gain for voter, own in scores.items()}, least)
        if min(residual.score, entering.score) > residual.band:
            return Judgement("accepted", residual, entering)
        return Judgement("harmful" if is_harm(electorate, entering) else "rejected", residual, entering)

    def consensus(self, electorate: Electorate, scores: Mapping[int, Score]) -> Consensus:
        """On a candidate."""
        return consensus_of(electorate, {voter: score.gain for voter, score in scores.items()}, _FLOOR)

    def taken(self, electorate: Electorate, scores: Scores) -> int:
        """Each step in turn if it gains on the one taken before it, by the lower median of the differences."""
        taken, counted = 0, electorate.counted(scores)
        for step in range(1, len(self.steps)):
            if lower_median([scores[voter][step].gain - scores[voter][taken].gain for voter in counted]) > 0:
                taken = step
        return taken

    def accepts(self, outcome: Outcome) -> bool:
        """The candidate's score is not below minus its band."""
        consensus = outcome.candidate.consensus
        assert consensus is not None
        return consensus.score >= -consensus.band

    def rewards(self, outcome: Outcome, accepted: bool) -> dict[int, int]:
        """A share for the voters, the rest for proposers unless the candidate was rejected."""
        for_voters, for_proposers = _parts(outcome)
        accuracies = {voter: self._accuracy(outcome, voter) or 0 for voter in outcome.present}
        rewards = shares(for_voters, weights_of(accuracies, outcome.seats))
        if accepted:
            weights = {}
            for proposal in outcome.contributors:
                assert proposal.consensus is not None and proposal.entering is not None
                above_band = min(proposal.consensus.score, proposal.entering.score) - proposal.consensus.band
                weights[proposal.member] = above_band * outcome.seats.proposing[proposal.member]
            rewards |= shares(for_proposers, weights, _LEAST_SUM)
        return rewards

    def fees(self, outcome: Outcome) -> dict[int, int]:
        """Of every proposal that was scored and not accepted."""
        terms = outcome.state.terms
        _, for_proposers = _parts(outcome)
        return {
            proposal.member: max(
                outcome.state.members[proposal.member].stake * terms.mechanism_parameters["fee_bp"] // 10_000,
                for_proposers // (_FEE_PARTS * terms.num_proposers),
            )
            for proposal in outcome.proposals
            if proposal.consensus and proposal.status != "accepted"
        }

    def slashed(self, outcome: Outcome, accepted: bool) -> dict[int, str]:
        """Who proposed harm."""
        return {proposal.member: "harmful" for proposal in outcome.proposals if proposal.status == "harmful"}

    def noted(self, outcome: Outcome, accepted: bool) -> dict[int, dict[str, int]]:
        """The accuracies of the voters that are present."""
        known = {voter: self._accuracy(outcome, voter) for voter in sorted(outcome.present)}
        members = outcome.state.members
        return {
            voter: {**members[voter].noted, ACCURACY: accuracy}
            for voter, accuracy in known.items()
            if accuracy is not None
        }

    def history(self, terms: Terms) -> int:
        """Moves that updates are split by."""
        return terms.mechanism_parameters["history"]

    def _accuracy(self, outcome: Outcome, voter: int) -> int | None:
        """Of a present voter after the epoch; None while it is unknown."""
        gains = [proposal.consensus.gains for proposal in outcome.proposals if proposal.consensus]
        before = outcome.state.members[voter].noted.get(ACCURACY)
        if not gains:
            return before
        newest = accuracy_of(voter, gains, outcome.electorate, least_difference(outcome.seats))
        return before if newest is None else moved(before or 0, newest)


def _parts(outcome: Outcome) -> tuple[int, int]:
    """What voters and what proposers can earn."""
    for_voters = outcome.budget * outcome.state.terms.mechanism_parameters["voter_share"] // 10_000
    return for_voters, outcome.budget - for_voters
