"""`flock`: one vote on the mean of all proposals, as FLock published it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from flock_ray.protocol.state import Terms
from flock_ray.verify.payment import Outcome, Payment


class FlockPayment(Payment):
    """The budget by stake among all that were drawn; the majority's voters and, if accepted, proposers earn it."""

    scored: ClassVar[tuple[bool, bool]] = (False, True)
    bounds: ClassVar[Mapping[str, tuple[int, int]]] = {"solvent": (0, 1)}

    def accepts(self, outcome: Outcome) -> bool:
        """At least as many seats scored the candidate 0 or more as below 0."""
        gains = outcome.candidate.consensus.gains if outcome.candidate.consensus else {}
        return sum(1 if gains[voter] >= 0 else -1 for voter in outcome.seats.voters if voter in gains) >= 0

    def rewards(self, outcome: Outcome, accepted: bool) -> dict[int, int]:
        """To the winners, by the share of their stake in that of all drawn members."""
        consensus = outcome.candidate.consensus
        if consensus is None:
            return {}
        winners = {voter for voter, gain in consensus.gains.items() if (gain >= 0) == accepted}
        if accepted:
            winners |= {proposal.member for proposal in outcome.contributors}
        members = outcome.state.members
        at_stake = sum(members[member].stake for member in set(outcome.seats.voters) | set(outcome.seats.proposers))
        return {member: outcome.budget * members[member].stake // at_stake for member in winners} if at_stake else {}

    def slashed(self, outcome: Outcome, accepted: bool) -> dict[int, str]:
        """Voters of the minority, and the proposers of a rejected candidate."""
        consensus = outcome.candidate.consensus
        if consensus is None:
            return {}
        losers = {voter: "minority" for voter, gain in consensus.gains.items() if (gain >= 0) != accepted}
        if not accepted:
            losers |= {proposal.member: "rejected" for proposal in outcome.contributors}
        return losers

    def promises_more(self, terms: Terms) -> bool:
        """In its historic form, which is not solvent."""
        return terms.mechanism_parameters["solvent"] == 0
