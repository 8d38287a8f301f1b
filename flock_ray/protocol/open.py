"""Payment of every valid proposal alike: the mechanism `open`."""

from __future__ import annotations

from typing import ClassVar

from flock_ray.protocol.mechanism import Outcome, Plain, share_out


class Open(Plain):
    """No scores: every valid proposal is accepted and paid the same per seat. For benchmarks and trusted consortia."""

    scores_proposals: ClassVar[bool] = False
    scores_candidate: ClassVar[bool] = False

    def accepts(self, outcome: Outcome) -> bool:
        """Always."""
        return True

    def rewards(self, outcome: Outcome, accepted: bool) -> dict[int, int]:
        """The budget over the proposer seats of valid proposals."""
        seats = outcome.roles.proposer_seats
        valid = outcome.accepted_proposals if accepted else ()
        return share_out(outcome.budget, {proposal.member: seats[proposal.member] for proposal in valid})

    def slashed(self, outcome: Outcome, accepted: bool) -> dict[int, str]:
        """Nobody."""
        return {}
