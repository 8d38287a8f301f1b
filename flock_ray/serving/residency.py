"""Which adapter lies in which slot: the least recently used one makes room, never one that a row answers with."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class _Slot:
    adapter: bytes | None = None
    users: int = 0
    last_used: int = 0


@dataclass
class Residency:
    """Slots 1, 2, … of adapters, by hash; slot 0 is the base model's. One thread asks.

    Attributes:
        slots: how many, without the base model's; at least as many as there are rows, so that one is always free.
    """

    slots: int
    _slots: dict[int, _Slot] = field(init=False)
    _clock: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._slots = {number: _Slot() for number in range(1, self.slots + 1)}

    def take(self, adapter: bytes) -> tuple[int, bool]:
        """(slot, whether the adapter must be loaded into it) for one more row.

        Args:
            adapter: which one; empty for the base model.
        """
        if not adapter:
            return 0, False
        self._clock += 1
        number = next((number for number, slot in self._slots.items() if slot.adapter == adapter), None)
        missing = number is None
        if number is None:
            idle = [number for number, slot in self._slots.items() if not slot.users]
            assert idle, "there are fewer slots than rows"
            number = min(idle, key=lambda one: (self._slots[one].last_used, one))
            self._slots[number].adapter = adapter
        slot = self._slots[number]
        slot.users, slot.last_used = slot.users + 1, self._clock
        return number, missing

    def release(self, number: int) -> None:
        """A row ended."""
        if number:
            assert self._slots[number].users > 0
            self._slots[number].users -= 1

    def forget(self, number: int) -> None:
        """What lies in a slot is not the adapter that it was taken for: a later row loads it again."""
        self._slots[number].adapter, self._slots[number].last_used = None, 0
