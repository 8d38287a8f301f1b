"""The money of an epoch, in wei: what is paid, what slashes take, who has to leave."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from flock_ray.protocol.roster import Change, Roster
from flock_ray.protocol.state import MAX_SLASHES, MemberState, Slash, TaskState
from flock_ray.verify.membership import Removals, slots_of
from flock_ray.verify.scores import Verdict

RELAYER_PART = 10
"""One tenth of what a slash takes of own stake goes to the report's relayer."""

FEES_OWED = "fees_owed"
"""What the state keeps of a member that owes fees, wei."""

_DEBT_PART = 100
"""Fees of more than one in so many of a member's stake are slashed."""


@dataclass(frozen=True)
class Fees:
    """What fees make of the earnings of an epoch.

    Attributes:
        rewards: {member: wei} that are left of what each earned.
        rows: (member, wei charged, wei withheld) by ascending member, of those of whom one is not 0.
        owed: {member: wei} that those owe after the epoch who owed any in it.
        slashes: of those that owed too much, by ascending member.
    """

    rewards: Mapping[int, int]
    rows: tuple[tuple[int, int, int], ...]
    owed: Mapping[int, int]
    slashes: tuple[Slash, ...]

    @property
    def withheld(self) -> int:
        """Wei of this epoch."""
        return sum(withheld for _, _, withheld in self.rows)

    def noted(self, state: TaskState, noted: Mapping[int, Mapping[str, int]]) -> dict[int, Mapping[str, int]]:
        """What a mechanism notes of members, with the fees that they owe; of who owes none there is no such note."""
        every = dict(noted)
        for member, owed in self.owed.items():
            rest = dict(every.get(member, state.members[member].noted))
            rest.pop(FEES_OWED, None)
            every[member] = {**rest, FEES_OWED: owed} if owed else rest
        return every


def settle_fees(state: TaskState, earned: Mapping[int, int], charged: Mapping[int, int]) -> Fees:
    """Take owed fees out of what members earn, and slash for debts that are too large.

    Args:
        state: before the epoch.
        earned: {member: wei} by the mechanism.
        charged: {member: wei} of new fees.
    """
    rewards, rows, left, slashes = dict(earned), [], {}, []
    for number, member in enumerate(state.members):
        fee = charged.get(number, 0)
        owed = member.noted.get(FEES_OWED, 0) + fee
        withheld = min(earned.get(number, 0), owed)
        if withheld:
            rewards[number] -= withheld
        if fee or withheld:
            rows.append((number, fee, withheld))
        if owed:
            left[number] = owed - withheld
        if owed - withheld > member.stake // _DEBT_PART:
            slashes.append(Slash(number, owed - withheld, "fees"))
            left[number] = 0
    return Fees(rewards, tuple(rows), left, tuple(slashes))


def slashes_of(
    state: TaskState, proposals: Iterable[Verdict], reasons: Mapping[int, str], equivocators: Collection[int]
) -> list[Slash]:
    """New slashes of the epoch by ascending member: p * stake, one per member, for the gravest reason.

    Args:
        state: before the epoch.
        proposals: verdict on each.
        reasons: {member: reason} by the mechanism.
        equivocators: members that contradicted themselves.
    """
    grave = {one.member: one.status for one in proposals if one.status in ("malformed", "copied")}
    why = {**reasons, **grave, **dict.fromkeys(equivocators, "equivocated")}
    fraction, members = state.terms.slash_fraction_bp, state.members
    return [Slash(member, members[member].stake * fraction // 10_000, why[member]) for member in sorted(why)]


@dataclass(frozen=True)
class Accounting:
    """The money after an epoch.

    Attributes:
        escrow: own stake that slashes took so far, less the relayers' parts.
        withheld: earnings that paid fees so far.
        slashes: the slashes in the report, clamped to the stakes; carried: those that did not fit into it.
        roster: slots of the epoch, and the changes that wait; removed: leaves that the slashes brought about.
    """

    members: tuple[MemberState, ...]
    pool_left: int
    escrow: int
    withheld: int
    slashes: tuple[Slash, ...]
    carried: tuple[Slash, ...]
    roster: Roster
    removed: tuple[Change, ...]


def settle_accounts(
    state: TaskState,
    rewards: Mapping[int, int],
    new: list[Slash],
    noted: Mapping[int, Mapping[str, int]],
    promises_more: bool,
    withheld: int = 0,
) -> Accounting:
    """Pay, slash and note: carried slashes first, at most MAX_SLASHES per report, none above the remaining stake.

    Nine tenths of what a member loses of its own go into the escrow, in FLock's historic form back to the pool.
    """
    waiting = [*state.carried, *new]
    members = [
        replace(member, earned=member.earned + rewards.get(number, 0), noted=noted.get(number, member.noted))
        for number, member in enumerate(state.members)
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
    if promises_more:
        pool += in_all
    else:
        pool, escrow = pool - sum(rewards.values()) - withheld, escrow + in_all
    return Accounting(
        tuple(members),
        pool,
        escrow,
        state.withheld + withheld,
        tuple(taken),
        tuple(waiting[MAX_SLASHES:]),
        roster,
        tuple(removals.changes),
    )
