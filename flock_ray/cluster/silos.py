"""The silos of the logical hosts that a worker carries, and which of their jobs share a batch."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

from flock_ray.cluster.progress import Progress
from flock_ray.training.cohort import cohorts
from flock_ray.training.data import Silo

Key = TypeVar("Key", bound=Hashable)


class HostedSilos:
    """Data of the hosted members, by number.

    Attributes:
        members: that are hosted now, host by host.
        host_of: {member: its logical host}.
    """

    def __init__(self, load: Callable[[int], Silo], solo: bool, budget: int, progress: Progress) -> None:
        """Nobody yet.

        Args:
            load: reads a member's data.
            solo: every job is a cohort of its own.
            budget: most tokens in a step of a cohort.
            progress: counts members that are assigned.
        """
        self._load, self._solo, self._budget, self._progress = load, solo, budget, progress
        self._silos: dict[int, Silo] = {}
        self.members: tuple[int, ...] = ()
        self.host_of: dict[int, int] = {}

    def assign(self, hosts: Mapping[int, tuple[int, ...]]) -> None:
        """Carry these logical hosts, {number: members}; silos that were loaded before stay loaded.

        Raises:
            DataError: a member's data is not to be had here.
        """
        self.host_of = {member: host for host, members in hosts.items() for member in members}
        self.members = tuple(self.host_of)
        for member in self.members:
            if member not in self._silos:
                self._silos[member] = self._load(member)
            self._progress.step()

    def __getitem__(self, member: int) -> Silo:
        return self._silos[member]

    def cohorts(self, costs: Mapping[Key, int], member_of: Callable[[Key], int]) -> list[list[Key]]:
        """Jobs packed to the budget: those of one logical host together, or each by itself.

        Args:
            costs: {what a job is called: its tokens}.
            member_of: whose job it is.
        """
        if self._solo:
            return [[key] for key in costs]
        by_host: dict[int, list[Key]] = {}
        for key in costs:
            by_host.setdefault(self.host_of[member_of(key)], []).append(key)
        return [
            [keys[index] for index in cohort]
            for keys in by_host.values()
            for cohort in cohorts([costs[key] for key in keys], self._budget)
        ]
