"""The silos of the logical hosts that a worker carries, and which of their jobs share a batch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping
from typing import TypeVar

from flock_ray.cluster.progress import Progress
from flock_ray.training.cohort import cohorts
from flock_ray.training.data import Silo

Key = TypeVar("Key", bound=Hashable)


class HostedSilos:
    """Silos by number, each loaded on first use and closed when an epoch did not use it.

    Attributes:
        host_of: {silo: its logical host} of those that are here now.
    """

    def __init__(
        self, load: Callable[[int], Silo], preload: Collection[int], solo: bool, budget: int, progress: Progress
    ) -> None:
        """None yet.

        Args:
            load: reads a silo.
            preload: silos to load as soon as they are here.
            solo: every job is a cohort of its own.
            budget: most tokens in a step of a cohort.
            progress: counts silos that are loaded at once.
        """
        self._load, self._preload, self._solo, self._budget, self._progress = load, preload, solo, budget, progress
        self._silos: dict[int, Silo] = {}
        self._opened: dict[int, Silo] = {}
        self._used: set[int] = set()  # since the last epoch ended
        self.host_of: dict[int, int] = {}

    def assign(self, hosts: Mapping[int, tuple[int, ...]]) -> None:
        """Carry these logical hosts, {number: silos}; silos that were loaded before stay loaded.

        Raises:
            DataError: a silo's data is not to be had here.
        """
        self.host_of = {silo: host for host, silos in hosts.items() for silo in silos}
        for silo in self.host_of:
            if silo in self._preload:
                self[silo]
                self._progress.step()

    def __getitem__(self, silo: int) -> Silo:
        if silo not in self._silos:
            self._silos[silo] = self._opened[silo] = self._load(silo)
        self._used.add(silo)
        return self._silos[silo]

    def end_epoch(self) -> None:
        """Close the silos that the epoch did not use, but for those that were to be loaded at once."""
        kept = self._used.union(self._preload)
        self._silos = {number: silo for number, silo in self._silos.items() if number in kept}
        self._used.clear()

    def take_opened(self) -> dict[int, Silo]:
        """The silos that were loaded since the last call."""
        taken, self._opened = self._opened, {}
        return taken

    def cohorts(self, costs: Mapping[Key, int], silo_of: Callable[[Key], int]) -> list[list[Key]]:
        """Jobs packed to the budget: those of one logical host together, or each by itself.

        Args:
            costs: {what a job is called: its tokens}.
            silo_of: whose job it is.
        """
        if self._solo:
            return [[key] for key in costs]
        by_host: dict[int, list[Key]] = {}
        for key in costs:
            by_host.setdefault(self.host_of[silo_of(key)], []).append(key)
        return [
            [keys[index] for index in cohort]
            for keys in by_host.values()
            for cohort in cohorts([costs[key] for key in keys], self._budget)
        ]
