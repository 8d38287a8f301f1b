"""Who holds the slots of an epoch when members come and go: the contract's rule, written a second time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

from flock_ray.protocol.message import is_count
from flock_ray.protocol.roster import Change, Roster, Slot
from flock_ray.protocol.state import MemberState, TaskState

S = TypeVar("S", bound=TaskState)

_MOST_SLOTS = 256
"""Slots that one settlement changes at most."""

_FIRST_UNKNOWN = 3
"""Epochs from the last settled one, besides those that settlement lags behind, to the first whose seed nobody knows."""


def slots_of(state: TaskState) -> Roster:
    """The slots from which the epoch of `state` draws, all due changes applied, and the changes that wait on."""
    slots, room = list(state.roster.slots), _MOST_SLOTS
    for done, change in enumerate(state.roster.waiting):
        room -= change.slots
        if change.epoch > state.epoch or room < 0:
            return Roster(tuple(slots), state.roster.waiting[done:])
        if change.leaves:
            _vacate(slots, change)
        else:
            slots.extend((change.member, number) for number in range(change.slots))
    return Roster(tuple(slots))


def _vacate(slots: list[Slot], change: Change) -> None:
    """Free a member's slots, its last one first; the last slot of the list takes each free place."""
    for number in range(change.slots - 1, -1, -1):
        last = slots.pop()
        if last != (change.member, number):
            slots[slots.index((change.member, number))] = last


class Removals:
    """Collects the leaves of members that slashes bring below half of what their slots cost, in their order."""

    def __init__(self, state: TaskState) -> None:
        """Look at the epoch of `state`."""
        terms, roster = state.terms, slots_of(state)
        self._state = state
        self._epoch = state.epoch + terms.max_unsettled + _FIRST_UNKNOWN
        self._in = {member for member, _ in roster.slots} - _leaving((*roster.waiting, *state.leaving))
        self.changes: list[Change] = []

    def look_at(self, number: int, stake: int) -> None:
        """A slash left a member with `stake` wei."""
        terms, slots = self._state.terms, self._state.members[number].slots
        if stake * 2 < slots * terms.min_stake and number in self._in and self._epoch <= terms.num_epochs:
            self._in.discard(number)
            self.changes.append(Change(number, slots, self._epoch, leaves=True))


def changed(state: S, changes: Sequence[Change], joined: Sequence[MemberState]) -> S:
    """The state after changes that are due in its epoch; `joined` are the members that they let in, in their order."""
    return replace(
        state,
        members=(*state.members, *joined),
        roster=Roster(state.roster.slots, (*state.roster.waiting, *changes)),
        num_changes=state.num_changes + len(changes),
        leaving=tuple(change for change in state.leaving if change.epoch > state.epoch),
        changes=(*state.changes, *changes),
    )


def due_removals(state: TaskState) -> list[Change]:
    """The leaves that slashes brought about and that are due in the epoch of `state`: all changes without a chain."""
    return [change for change in state.leaving if change.epoch <= state.epoch]


def _change(row: object) -> Change:
    """A change as a record or `task.json` has it."""
    if not isinstance(row, list) or len(row) != 4 or not all(map(is_count, row[:3])) or not isinstance(row[3], bool):
        raise ValueError("a change is [member, slots, epoch, leaves]")
    return Change(*row)


def changes_before_start(rows: Sequence[object]) -> list[Change]:
    """The changes of members before the start, from the first one that left again on.

    Raises:
        ValueError: they are no such changes.
    """
    changes = [_change(row) for row in rows]
    if any(change.epoch for change in changes):
        raise ValueError("a change before the start counts from epoch 0")
    return changes


def first_slots(members: Sequence[MemberState], before_start: Sequence[Change]) -> tuple[Slot, ...]:
    """The slots that a task starts with: of whoever joined, in their order, as the changes before the start left them.

    Raises:
        ValueError: a change is of somebody who is no member, or has other slots.
    """
    entered = {change.member: change.slots for change in before_start if not change.leaves}
    slots = [
        (number, slot) for number, member in enumerate(members) if number not in entered for slot in range(member.slots)
    ]
    for change in before_start:
        if change.member >= len(members) or change.slots != members[change.member].slots:
            raise ValueError("a change before the start is of another member than there are")
        if change.leaves:
            _vacate(slots, change)
        else:
            slots.extend((change.member, number) for number in range(change.slots))
    return tuple(slots)


def _leaving(waiting: Iterable[Change]) -> set[int]:
    return {change.member for change in waiting if change.leaves}
