"""Who is paid and who is slashed, in wei, under the three mechanisms. Divisions floor; the rest stays in the pool."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from flock_ray.protocol.roster import Change, Roster
from flock_ray.protocol.state import MAX_SLASHES, MemberState, Slash, TaskState
from flock_ray.verify.draw import Seats
from flock_ray.verify.membership import Removals, slots_of
from flock_ray.verify.scores import Candidate, Consensus, Verdict

MILLION = 10**6
RELAYER_PART = 10
"""One tenth of what a slash takes of own stake goes to the report's relayer."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of an epoch's ballots; `present` are the voters whose ballots A and B both counted."""

    state: TaskState
    seats: Seats
    proposals: tuple[Verdict, ...]
    candidate: Candidate
    present: frozenset[int]

    @property
    def budget(self) -> int:
        """floor(pool left / epochs left), wei."""
        return self.state.pool_left // (self.state.terms.num_epochs - self.state.epoch + 1)

    @property
    def accepted(self) -> bool:
        """Whether the candidate becomes the global adapter."""
        consensus = self.candidate.consensus
        if self.candidate.adapter is None:
            return False
        if self.state.terms.mechanism == "marginal":
            assert consensus is not None
            return consensus.score >= -consensus.band
        if self.state.terms.mechanism == "flock":
            return self._summed_vote >= 0
        return True

    @property
    def _summed_vote(self) -> int:
        """Seats that scored the candidate 0 or more, minus seats that scored it below 0."""
        gains = self.candidate.consensus.gains if self.candidate.consensus else {}
        return sum(1 if gains[voter] >= 0 else -1 for voter in self.seats.voters if voter in gains)

    @property
    def contributors(self) -> list[Verdict]:
        """The accepted proposals that count in the candidate: the others share neither its pay nor its fate."""
        weight = dict(self.candidate.weights)
        return [
            proposal
            for proposal in self.proposals
            if proposal.status == "accepted" and weight.get(proposal.member, 0) > 0
        ]


def rewards_of(outcome: Outcome) -> dict[int, int]:
    """{member: wei} by the task's mechanism."""
    return {"marginal": _marginal, "flock": _flock, "open": _open}[outcome.state.terms.mechanism](outcome)


def _marginal(outcome: Outcome) -> dict[int, int]:
    """Voters by closeness to the consensus, accepted proposers by score above the band; both per seat."""
    for_voters = outcome.budget * outcome.state.terms.mechanism_parameters["voter_share"] // 10_000
    rewards = _shares(for_voters, _voters_weights(outcome))
    if outcome.accepted:
        weights = {}
        for proposal in outcome.contributors:
            assert proposal.consensus is not None
            above_band = proposal.consensus.score - proposal.consensus.band
            weights[proposal.member] = above_band * outcome.seats.proposing[proposal.member]
        rewards |= _shares(outcome.budget - for_voters, weights)
    return rewards


def _voters_weights(outcome: Outcome) -> dict[int, int]:
    """Seats times the sum over scored proposals of the closeness, in millionths; the seats alone if none was scored."""
    scored = [proposal.consensus for proposal in outcome.proposals if proposal.consensus]
    weights = {}
    for voter in sorted(outcome.present):
        close = sum(_closeness(consensus.gains[voter], consensus) for consensus in scored if voter in consensus.gains)
        weights[voter] = outcome.seats.voters.count(voter) * (close if scored else 1)
    return weights


def _closeness(own: int, consensus: Consensus) -> int:
    """max(0, 1 - |own - consensus| / (4 max(band, |consensus|))) in millionths; what is taken off is floored."""
    return max(0, MILLION - MILLION * abs(own - consensus.score) // (4 * max(consensus.band, abs(consensus.score))))


def _flock(outcome: Outcome) -> dict[int, int]:
    """Budget by share of the stake of all drawn members; the majority's voters and, if accepted, proposers earn it."""
    consensus = outcome.candidate.consensus
    if consensus is None:
        return {}
    winners = {voter for voter, gain in consensus.gains.items() if (gain >= 0) == outcome.accepted}
    if outcome.accepted:
        winners |= {proposal.member for proposal in outcome.contributors}
    members = outcome.state.members
    at_stake = sum(members[member].stake for member in set(outcome.seats.voters) | set(outcome.seats.proposers))
    return {member: outcome.budget * members[member].stake // at_stake for member in winners} if at_stake else {}


def _open(outcome: Outcome) -> dict[int, int]:
    """The same for every valid proposal, per seat."""
    if not outcome.accepted:
        return {}
    seats = outcome.seats.proposing
    return _shares(outcome.budget, {proposal.member: seats[proposal.member] for proposal in outcome.contributors})


def _shares(amount: int, weights: Mapping[int, int]) -> dict[int, int]:
    total = sum(weights.values())
    return {member: amount * weight // total for member, weight in weights.items() if weight}


def slashes_of(outcome: Outcome, equivocators: Collection[int]) -> list[Slash]:
    """New slashes of the epoch by ascending member: p * stake, one per member, for the gravest reason."""
    reasons: dict[int, str] = {}
    consensus = outcome.candidate.consensus
    if outcome.state.terms.mechanism == "marginal":
        reasons |= {proposal.member: "harmful" for proposal in outcome.proposals if proposal.status == "harmful"}
    if outcome.state.terms.mechanism == "flock" and consensus:
        reasons |= {voter: "minority" for voter, gain in consensus.gains.items() if (gain >= 0) != outcome.accepted}
        if not outcome.accepted:
            reasons |= {proposal.member: "rejected" for proposal in outcome.contributors}
    reasons |= {
        proposal.member: proposal.status for proposal in outcome.proposals if proposal.status in ("malformed", "copied")
    }
    reasons |= dict.fromkeys(equivocators, "equivocated")
    fraction, members = outcome.state.terms.slash_fraction_bp, outcome.state.members
    return [Slash(member, members[member].stake * fraction // 10_000, reasons[member]) for member in sorted(reasons)]


@dataclass(frozen=True)
class Accounting:
    """The money after an epoch.

    Attributes:
        escrow: own stake that slashes took so far, less the relayers' parts.
        slashes: the slashes in the report, clamped to the stakes; carried: those that did not fit into it.
        roster: slots of the epoch, and the changes that wait; removed: leaves that the slashes brought about.
    """

    members: tuple[MemberState, ...]
    pool_left: int
    escrow: int
    slashes: tuple[Slash, ...]
    carried: tuple[Slash, ...]
    roster: Roster
    removed: tuple[Change, ...]


def settle_accounts(state: TaskState, rewards: Mapping[int, int], new: list[Slash]) -> Accounting:
    """Pay and slash: carried slashes first, at most MAX_SLASHES per report, none above the remaining stake.

    Nine tenths of what a member loses of its own go into the escrow, in FLock's historic form back to the pool.
    """
    waiting = [*state.carried, *new]
    members = [
        replace(member, earned=member.earned + rewards.get(number, 0)) for number, member in enumerate(state.members)
    ]
    taken, in_all = [], 0
    removals = Removals(state)
    for slash in waiting[:MAX_SLASHES]:
        member = members[slash.member]
        amount = min(slash.amount, member.stake)
        delegated = min(member.delegated, member.stake - amount)
        own = amount - (member.delegated - delegated)
        members[slash.member] = replace(
            member, stake=member.stake - amount, slashed=member.slashed + amount, delegated=delegated
        )
        in_all += own - own // RELAYER_PART
        taken.append(replace(slash, amount=amount))
        removals.look_at(slash.member, member.stake - amount)
    roster = slots_of(state)
    pool, escrow = state.pool_left, state.escrow
    if state.terms.mechanism == "flock" and not state.terms.mechanism_parameters["solvent"]:
        pool += in_all
    else:
        pool, escrow = pool - sum(rewards.values()), escrow + in_all
    return Accounting(
        tuple(members),
        pool,
        escrow,
        tuple(taken),
        tuple(waiting[MAX_SLASHES:]),
        roster,
        tuple(removals.changes),
    )
