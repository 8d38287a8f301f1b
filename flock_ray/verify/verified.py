"""What a verified run says, as it was derived: nothing of it is read from its folder again."""

from __future__ import annotations

from dataclasses import dataclass

from flock_ray.protocol.state import TaskState
from flock_ray.verify.chain import Settled, SettledDay
from flock_ray.verify.contest import DayReplay
from flock_ray.verify.genesis import TaskGenesis


@dataclass(frozen=True)
class VerifiedRun:
    """A run of which everything holds that can be checked.

    Attributes:
        genesis: what its members had agreed on before the first epoch.
        settled: its epochs, or a contest's days, without those that were abandoned.
        final: the state after the last one: adapter, and what every member earned.
    """

    genesis: TaskGenesis
    settled: tuple[Settled, ...]
    final: TaskState

    @property
    def days(self) -> list[DayReplay]:
        """The days of a contest, as they were replayed; none of an alliance."""
        return [one.replay for one in self.settled if isinstance(one, SettledDay)]
