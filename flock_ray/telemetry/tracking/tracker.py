"""What a tracker is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class TrackedRun:
    """The run that is tracked.

    Attributes:
        folder: of the run.
        name: date and time of its start.
        project: `tracking.project`, for trackers that keep runs apart by one.
        settings: what its members agreed on, by dotted name; no addresses, paths or keys.
    """

    folder: Path
    name: str
    project: str
    settings: Mapping[str, str]


class Tracker(ABC):
    """Takes figures as they come. What it raises ends the tracker, not the run.

    A run that is resumed makes another one of the same name: it adds to what is there.
    """

    @abstractmethod
    def __init__(self, run: TrackedRun) -> None:
        """Begin, or go on, with a run."""

    @abstractmethod
    def log(self, axis: str, step: int, values: Mapping[str, float]) -> None:
        """Note figures by name, such as `loss/mean`, at a step (1, 2, ...) of an axis: `epoch` or `local_step`."""

    @abstractmethod
    def close(self) -> None:
        """End: all that was noted is kept."""
