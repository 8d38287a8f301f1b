"""Slots of a task whose members join and leave while it runs: a list that the contract recomputes.

An epoch's committee is drawn from a dense list of slots. A member that joins gets new slots at the end. One that leaves
gives its slots up from the last to the first; each time the slot at the end of the list moves to the free place.
Changes are applied in the order of the requests, when an epoch is settled and before its committee is drawn. An
abandoned epoch applies none.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MAX_CHANGED_SLOTS = 256  # in one settlement (Membership.MAX_CHANGED_SLOTS)

Slot = tuple[int, int]  # its member, and which of the member's slots it is


@dataclass(frozen=True)
class Change:
    """A member that joins or leaves a running task.

    Attributes:
        member: its number.
        slots: its slots.
        epoch: first epoch that may be drawn with the change.
        leaves: whether it leaves.
    """

    member: int
    slots: int
    epoch: int
    leaves: bool

    @property
    def row(self) -> tuple[int, int, int, bool]:
        """The change in a record."""
        return self.member, self.slots, self.epoch, self.leaves


def due_epoch(last_settled: int, max_unsettled: int) -> int:
    """First epoch that a change requested now can affect: nobody can be training it yet, or know its seed.

    The epochs up to `last_settled + max_unsettled + 1` may be over, and their reveals give the seed of the next one.
    """
    return last_settled + max_unsettled + 3


def founders(slots: Iterable[int]) -> tuple[Slot, ...]:
    """The list that a task starts with, from the number of slots of each member in the order of joining."""
    return tuple((member, number) for member, count in enumerate(slots) for number in range(count))


def change_slots(slots: Sequence[Slot], change: Change) -> tuple[Slot, ...]:
    """The list after one change."""
    changed = list(slots)
    if not change.leaves:
        return (*changed, *((change.member, number) for number in range(change.slots)))
    for number in reversed(range(change.slots)):
        place = changed.index((change.member, number))
        changed[place] = changed[-1]
        changed.pop()
    return tuple(changed)


@dataclass(frozen=True)
class Roster:
    """The slots of the last settled epoch, and the changes that wait.

    Attributes:
        slots: the list.
        waiting: changes to apply, in the order of the requests.
    """

    slots: tuple[Slot, ...]
    waiting: tuple[Change, ...] = ()

    def announced(self, changes: Iterable[Change]) -> Roster:
        """The roster with more changes waiting."""
        return Roster(self.slots, (*self.waiting, *changes))

    def stays(self, member: int) -> bool:
        """Whether a member holds slots and has not asked, or been made, to leave."""
        leaves = any(change.member == member and change.leaves for change in self.waiting)
        return not leaves and any(owner == member for owner, _ in self.slots)

    @property
    def owners(self) -> tuple[int, ...]:
        """Member of each slot."""
        return tuple(member for member, _ in self.slots)

    def settled(self, epoch: int) -> Roster:
        """The slots from which an epoch's committee is drawn if it is the next to be settled.

        Applies the changes that are due, for at most MAX_CHANGED_SLOTS slots.
        """
        slots, work = self.slots, 0
        for number, change in enumerate(self.waiting):
            work += change.slots
            if change.epoch > epoch or work > MAX_CHANGED_SLOTS:
                return Roster(slots, self.waiting[number:])
            slots = change_slots(slots, change)
        return Roster(slots)

    def work(self, epoch: int) -> tuple[int, int]:
        """What the contract does for an epoch's settlement, if it is the next: slots changed, and changes looked at.

        It looks at those that are due one epoch later, too, as far as they would be applied (`Roster.due` in Solidity).
        """
        after = self.settled(epoch)
        applied = self.waiting[: len(self.waiting) - len(after.waiting)]
        left = after.settled(epoch + 1)
        return sum(change.slots for change in applied), len(self.waiting) - len(left.waiting)

    def at(self, last_settled: int, epoch: int) -> Roster:
        """The slots of a later epoch, if every epoch until then is settled.

        They are final up to epoch `last_settled + max_unsettled + 2`: later requests do not change them.

        Args:
            last_settled: number of the last settled or abandoned epoch.
            epoch: the epoch in question, after `last_settled`.
        """
        roster = self
        for settled in range(last_settled + 1, epoch + 1):
            roster = roster.settled(settled)
        return roster
