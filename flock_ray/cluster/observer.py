"""What the epoch loop tells whoever looks on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flock_ray.cluster.attestation import Settlement
from flock_ray.cluster.running_task import RunningTask
from flock_ray.cluster.spec import SiloFacts
from flock_ray.protocol.roster import Change
from flock_ray.protocol.state import TaskState


class Observer:
    """Does nothing; an observer overrides what it wants to know of."""

    def line(self, message: str) -> None:
        """One line for people."""

    def event(self, kind: str, fields: Mapping[str, object]) -> None:
        """Something happened, on a node or in the loop."""

    def opened(self, silos: Iterable[SiloFacts]) -> None:
        """Nodes opened silos."""

    def evaluated(self, epoch: int, losses: dict[int, float], seconds: float) -> None:
        """The global adapter after `epoch` (0: at the start) was measured: {member: nats a token}, and the seconds."""

    def members_changed(self, task: RunningTask, changes: Sequence[Change]) -> None:
        """Members came or went before the epoch of `task`."""

    def epoch_begins(self, state: TaskState) -> None:
        """An epoch begins."""

    def epoch_ends(self, record: Any, losses: dict[int, float], wall_seconds: Mapping[str, float]) -> None:
        """An epoch was signed, and its global adapter measured; seconds are by kind of work."""

    def settled(self, settlement: Settlement) -> None:
        """An epoch's receipt came."""

    def abandoned(self, first: int, following: int) -> None:
        """The epochs from `first` to before `following` were given up on the chain."""

    def finished(self, state: TaskState) -> None:
        """The task is over."""


class Observers(Observer):
    """Tells several observers, in their order."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = observers

    def line(self, message: str) -> None:
        """See `Observer`."""
        for one in self._observers:
            one.line(message)

    def event(self, kind: str, fields: Mapping[str, object]) -> None:
        """See `Observer`."""
        for one in self._observers:
            one.event(kind, fields)

    def opened(self, silos: Iterable[SiloFacts]) -> None:
        """See `Observer`."""
        facts = list(silos)
        for one in self._observers:
            one.opened(facts)

    def evaluated(self, epoch: int, losses: dict[int, float], seconds: float) -> None:
        """See `Observer`."""
        for one in self._observers:
            one.evaluated(epoch, losses, seconds)

    def members_changed(self, task: RunningTask, changes: Sequence[Change]) -> None:
        """See `Observer`."""
        for one in self._observers:
            one.members_changed(task, changes)

    def epoch_begins(self, state: TaskState) -> None:
        """See `Observer`."""
        for one in self._observers:
            one.epoch_begins(state)

    def epoch_ends(self, record: Any, losses: dict[int, float], wall_seconds: Mapping[str, float]) -> None:
        """See `Observer`."""
        for one in self._observers:
            one.epoch_ends(record, losses, wall_seconds)

    def settled(self, settlement: Settlement) -> None:
        """See `Observer`."""
        for one in self._observers:
            one.settled(settlement)

    def abandoned(self, first: int, following: int) -> None:
        """See `Observer`."""
        for one in self._observers:
            one.abandoned(first, following)

    def finished(self, state: TaskState) -> None:
        """See `Observer`."""
        for one in self._observers:
            one.finished(state)
