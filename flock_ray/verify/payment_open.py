"""`open`: every valid proposal is paid alike."""

from __future__ import annotations

from typing import ClassVar

from flock_ray.verify.payment import Outcome, Payment, shares


class OpenPayment(Payment):
    """The same for every valid proposal, per seat; no scores."""

    scored: ClassVar[tuple[bool, bool]] = (False, False)

    def accepts(self, outcome: Outcome) -> bool:
        """Always."""
        return True

    def rewards(self, outcome: Outcome, accepted: bool) -> dict[int, int]:
        """By proposer seats."""
        if not accepted:
            return {}
        seats = outcome.seats.proposing
        return shares(outcome.budget, {proposal.member: seats[proposal.member] for proposal in outcome.contributors})
