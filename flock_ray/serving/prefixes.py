"""What lies in the slots of the cache: a row that begins like an earlier one of the same owner starts after that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

Owner = tuple[str, bytes]
"""Tenant and adapter: prompts of others are never used, nor can their presence be told from the time."""


@dataclass
class _Slot:
    owner: Owner | None = None
    tokens: list[int] = field(default_factory=list)
    busy: bool = False
    last_used: int = 0


@dataclass(frozen=True)
class Place:
    """Where a row begins.

    Attributes:
        slot: its own.
        kept: how many of its first tokens are in the cache.
        source: the slot that they are copied from; None if they lie in its own.
        stale: positions kept, …, stale - 1 of the slot hold what came before, and are to be cleared.
    """

    slot: int
    kept: int
    source: int | None
    stale: int


class Prefixes:
    """The slots, each with the tokens whose keys and values are in it."""

    def __init__(self, slots: int) -> None:
        """All empty."""
        self._slots = [_Slot() for _ in range(slots)]
        self._clock = 0

    @property
    def free(self) -> int:
        """Slots without a row."""
        return sum(not slot.busy for slot in self._slots)

    def take(self, owner: Owner, tokens: Sequence[int], reuse: bool = True) -> Place:
        """A slot for a row; there is a free one.

        Args:
            owner: of the row.
            tokens: of its prompt; the last one is computed in any case, since it says what comes next.
            reuse: whether it may start after what is in the cache.
        """
        shared = {
            number: _common(slot.tokens, tokens[:-1])
            for number, slot in enumerate(self._slots)
            if reuse and slot.owner == owner
        }
        idle = [number for number, slot in enumerate(self._slots) if not slot.busy]
        most = max(shared.values(), default=0)
        kin = [number for number in idle if most and shared.get(number) == most]
        number = min(kin or idle, key=lambda one: (self._slots[one].last_used, one))
        source = None if kin or not most else next(one for one, length in shared.items() if length == most)
        slot = self._slots[number]
        stale = len(slot.tokens)
        slot.owner, slot.tokens, slot.busy = owner, list(tokens[:most]), True
        return Place(number, most, source, max(stale, most))

    def extend(self, slot: int, tokens: Sequence[int]) -> None:
        """Keys and values of further tokens were computed."""
        self._slots[slot].tokens += tokens

    def release(self, slot: int) -> None:
        """Its row ended; what lies there may serve a later one."""
        self._clock += 1
        self._slots[slot].busy, self._slots[slot].last_used = False, self._clock

    def forget(self, slot: int) -> None:
        """What lies there is not to be relied on; it is still cleared before the slot is used."""
        self._slots[slot].owner = None


def _common(known: Sequence[int], wanted: Sequence[int]) -> int:
    """How many tokens two sequences begin with alike."""
    for place, (one, other) in enumerate(zip(known, wanted, strict=False)):
        if one != other:
            return place
    return min(len(known), len(wanted))
