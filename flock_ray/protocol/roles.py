"""Who votes and who proposes: a partial Fisher-Yates shuffle of the slots that the contract recomputes.

The shuffle is sparse: only touched positions are kept, so a committee of ten out of a million slots costs ten steps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from flock_ray.protocol.hashing import tagged


def quorum(num_voters: int) -> int:
    """q = floor(2V/3) + 1 seats."""
    return 2 * num_voters // 3 + 1


def draw_seats(seed: bytes, task: bytes, epoch: int, num_slots: int, num_seats: int) -> tuple[int, ...]:
    """First `num_seats` slots of a Fisher-Yates shuffle of 0..num_slots-1.

    Seat i takes position j = i + H(roles, seed, task, epoch, i) mod (num_slots - i); the modulo bias is below 2^-200.

    Args:
        seed: 32 bytes, the epoch's seed.
        task: 32 bytes, the task's id.
        epoch: 1-based.
        num_slots: slots in registration order.
        num_seats: seats to draw, at most num_slots.

    Returns:
        Distinct slot numbers in the order of the seats.

    Raises:
        ValueError: more seats than slots.
    """
    if not 0 <= num_seats <= num_slots:
        raise ValueError(f"{num_seats} seats cannot be drawn from {num_slots} slots")
    moved: dict[int, int] = {}
    seats = []
    for i in range(num_seats):
        draw = int.from_bytes(tagged("flock_ray/roles/1", seed, task, epoch, i), "big")
        j = i + draw % (num_slots - i)
        seats.append(moved.get(j, j))
        moved[j] = moved.get(i, i)
    return tuple(seats)


@dataclass(frozen=True)
class Roles:
    """Members behind the seats of one epoch.

    Attributes:
        voters: member of each voter seat, in seat order; a member may hold several seats.
        proposers: member of each proposer seat without those who vote, in seat order.
    """

    voters: tuple[int, ...]
    proposers: tuple[int, ...]

    @cached_property
    def voter_seats(self) -> Counter[int]:
        """Voter seats that each voter holds."""
        return Counter(self.voters)

    @cached_property
    def proposer_seats(self) -> Counter[int]:
        """Proposer seats that each proposer holds."""
        return Counter(self.proposers)

    @property
    def quorum(self) -> int:
        """Seats that decide."""
        return quorum(len(self.voters))

    def role(self, member: int) -> str:
        """`voter`, `proposer` or `observer`."""
        seats = (("voter", self.voter_seats), ("proposer", self.proposer_seats))
        return next((name for name, held in seats if member in held), "observer")


def roles(
    seed: bytes, task: bytes, epoch: int, slot_owners: Sequence[int], num_voters: int, num_proposers: int
) -> Roles:
    """Roles of an epoch: the first V seats vote, the next P propose, the rest observe.

    A member drawn to both votes only. With fewer than V + P slots P shrinks.

    Args:
        seed: the epoch's seed.
        task: the task's id.
        epoch: 1-based.
        slot_owners: member of each slot, in registration order.
        num_voters: V.
        num_proposers: P.

    Raises:
        ValueError: fewer than V + 1 slots.
    """
    num_slots = len(slot_owners)
    if num_slots < num_voters + 1:
        raise ValueError(f"{num_voters} voters need {num_voters + 1} slots or more, there are {num_slots}")
    slots = draw_seats(seed, task, epoch, num_slots, min(num_slots, num_voters + num_proposers))
    voters = tuple(slot_owners[slot] for slot in slots[:num_voters])
    drawn = tuple(slot_owners[slot] for slot in slots[num_voters:])
    voting = set(voters)
    return Roles(voters, tuple(member for member in drawn if member not in voting))
