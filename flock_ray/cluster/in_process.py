"""Workers of this process in place of Ray's actors, and a journal in memory: the same phases, the same records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from flock_ray.cluster.attestation import Attestation, Bulletin, Settlement
from flock_ray.cluster.phases import Phases
from flock_ray.cluster.running_task import RunningTask
from flock_ray.cluster.signing_worker import SigningWorker
from flock_ray.cluster.spec import PhaseResult


class InProcessNodes(Phases):
    """Workers of this process, asked one after the other.

    Attributes:
        workers: loaded, one a node group.
        results: {phase: every worker's answer}, the last time that it was asked.
    """

    def __init__(self, workers: Sequence[SigningWorker]) -> None:
        """Ask these workers."""
        self.workers, self.results = workers, dict[str, list[PhaseResult]]()

    def run(self, method: str, *args: Any) -> Iterator[tuple[int, Any]]:
        """See `Phases`; a worker is asked when its answer is taken."""
        self.results[method] = []
        for index, worker in enumerate(self.workers):
            answer = getattr(worker, method)(*args)
            self.results[method].append(answer)
            yield index, answer

    def place(self, task: RunningTask) -> None:
        """Hosts stay."""

    def resume_from(self, task: RunningTask) -> None:
        """Workers are not lost."""

    def epoch_signed(self) -> None:
        """Workers do not fail."""


class MemoryJournal:
    """Keeps signed epochs in memory.

    Attributes:
        epochs: each record, who attested it, and its messages.
    """

    def __init__(self) -> None:
        """No epoch yet."""
        self.epochs: list[tuple[Any, Attestation, Bulletin]] = []

    @property
    def records(self) -> list[Any]:
        """The records alone."""
        return [record for record, _, _ in self.epochs]

    def write_epoch(
        self, record: Any, attestation: Attestation, bulletin: Bulletin, wall_seconds: Mapping[str, float]
    ) -> None:
        """See `Journal`."""
        self.epochs.append((record, attestation, bulletin))

    def write_settlement(self, settlement: Settlement) -> None:
        """Nothing to keep."""

    def write_abandoned(self, first: int, following: int) -> None:
        """There is no chain on which that could be."""
