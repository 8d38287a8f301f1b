"""`metrics.csv` in the run folder: a line a figure."""

from __future__ import annotations

import csv
from collections.abc import Mapping

from flock_ray.telemetry.tracking.tracker import TrackedRun, Tracker


class CsvFile(Tracker):
    """Columns axis, step, name, value."""

    def __init__(self, run: TrackedRun) -> None:
        """Open the file at its end."""
        self._file = (run.folder / "metrics.csv").open("a", newline="", buffering=1)
        self._rows = csv.writer(self._file)
        if not self._file.tell():
            self._rows.writerow(("axis", "step", "name", "value"))

    def log(self, axis: str, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        self._rows.writerows((axis, step, name, value) for name, value in values.items())

    def close(self) -> None:
        """See `Tracker`."""
        self._file.close()
