"""Fees: owed first, then paid out of what a member earns, and slashed where a member owes too much of its stake."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flock_ray.protocol.state import MemberState, Slash

FEES_OWED = "fees_owed"
"""Name of what a member owes among what is noted of it, wei; absent where it owes nothing."""

_MOST_OWED = 100  # a member owes at most the stake over this


@dataclass(frozen=True)
class Fees:
    """What an epoch's fees come to.

    Attributes:
        rewards: {member: wei} of what was earned, without what was withheld.
        rows: (member, wei charged, wei withheld), by ascending member, without rows of zeros.
        owed: {member: wei that it owes after the epoch} of those that owed or were charged something.
        slashes: of those that owed too much, by ascending member.
    """

    rewards: dict[int, int]
    rows: tuple[tuple[int, int, int], ...]
    owed: Mapping[int, int]
    slashes: tuple[Slash, ...]

    @property
    def withheld(self) -> int:
        """Wei of earnings that paid fees."""
        return sum(withheld for _, _, withheld in self.rows)

    def noted(
        self, members: Sequence[MemberState], noted: Mapping[int, Mapping[str, int]]
    ) -> dict[int, dict[str, int]]:
        """{member: integers by name}: what a mechanism notes, and what these members owe.

        Args:
            members: before the epoch.
            noted: {member: integers by name} of those of which the mechanism keeps something else.
        """
        result = {number: dict(values) for number, values in noted.items()}
        for number, owed in self.owed.items():
            values = result.setdefault(number, dict(members[number].noted))
            values.pop(FEES_OWED, None)
            if owed:
                values[FEES_OWED] = owed
        return result


def settle_fees(members: Sequence[MemberState], earned: Mapping[int, int], charged: Mapping[int, int]) -> Fees:
    """Charge fees, and take what is owed out of what was earned.

    Args:
        members: before the epoch.
        earned: {member: wei} as proposer and voter together.
        charged: {member: wei} of new fees.
    """
    rewards, rows, after, slashes = dict(earned), [], dict[int, int](), []
    for number, member in enumerate(members):
        new, owed = charged.get(number, 0), member.noted.get(FEES_OWED, 0)
        owed += new
        if not owed:
            continue
        withheld = min(rewards.get(number, 0), owed)
        owed -= withheld
        if withheld:
            rewards[number] -= withheld
        if new or withheld:
            rows.append((number, new, withheld))
        if owed > member.stake // _MOST_OWED:
            slashes.append(Slash(number, owed, "fees"))
            owed = 0
        after[number] = owed
    return Fees(rewards, tuple(rows), after, tuple(slashes))
