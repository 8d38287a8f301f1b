"""What a sweep came to: `results.jsonl`, `results.csv`, `index.html`, written anew whenever a point has ended."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from flock_ray.errors import RunDirectoryError
from flock_ray.store.failures import run_folder_errors
from flock_ray.store.files import plain, read_json, write_json, write_text
from flock_ray.sweeps.grid import Grid
from flock_ray.sweeps.point import PointFolder, State
from flock_ray.telemetry import text
from flock_ray.telemetry.comparison import PLACES
from flock_ray.telemetry.swept import SweptRun, run_figures, write_page

_LONGEST_NAME = 48
_BEFORE = ("point", "state", "exit_code")
_AFTER = ("wall_seconds", "attempts", "run", "error")
"""Columns of `results.csv` around those of settings and figures."""


class Results:
    """The results of one grid, in a folder of its own: the points lie beside it, for other grids to share.

    Attributes:
        path: of the folder.
    """

    def __init__(self, root: Path, job: str, code: str, grid: Grid, folders: Sequence[PointFolder]) -> None:
        """Of a grid; nothing is written yet.

        Args:
            root: `sweep.folder`.
            job: the command that plays the points.
            code: see `identity.code_version`.
            grid: that was asked for.
            folders: of its points, in its order.
        """
        ids = sorted(folder.point.id for folder in folders)
        axes = "-".join(sorted(axis.name.rpartition(".")[2] for axis in grid.axes))[:_LONGEST_NAME]
        name = "-".join(filter(None, (job, axes, sha256("".join(ids).encode()).hexdigest()[:8])))
        self.path = root / name
        self._job, self._code, self._grid, self._folders = job, code, grid, folders
        self._runs: dict[str, SweptRun] = {}

    @property
    def runs(self) -> list[SweptRun]:
        """What has ended, in the order of the grid."""
        return [run for folder in self._folders if (run := self._runs.get(folder.point.id))]

    def begin(self) -> None:
        """Read what has ended before, and write the results with that.

        Raises:
            RunDirectoryError: a file is damaged, or the folder cannot be written.
        """
        with run_folder_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        for folder in self._folders:
            self._read(folder)
        facts = {
            "job": self._job,
            "code": self._code,
            "fixed": _shareable(self._grid.fixed),
            "axes": {axis.name: list(axis.values) for axis in self._grid.axes},
            "points": [folder.point.id for folder in self._folders],
        }
        write_json(self.path / "sweep.json", facts)
        self._write()

    def add(self, folder: PointFolder) -> str:
        """Take in a point whose run has ended; returns in a few words what it came to."""
        run = self._read(folder)
        self._write()
        if run is None:
            return ""
        if not run.whole:
            return f"{run.error or 'it told no error'} ({folder.log})"
        figures = run.figures
        if run.of_contest:
            return f"leader's score {text.loss(figures['leader_score'])}"
        return f"loss {text.loss(figures['loss_before'])} -> {text.loss(figures['loss_after'])}"

    def _read(self, folder: PointFolder) -> SweptRun | None:
        """The row of a point; None, and no row, where it has not ended."""
        point, state, run, outcome = folder.point, folder.state, folder.run, folder.outcome
        self._runs.pop(point.id, None)
        if state not in (State.whole, State.failed):
            return None
        figures: dict[str, Any] = {}
        losses: list[float | None] = []
        if state is State.whole:
            assert run
            try:
                figures, losses = run_figures(read_json(run / "summary.json"))
            except (KeyError, TypeError, IndexError, ValueError) as error:
                raise RunDirectoryError(
                    f"{run / 'summary.json'} is not what this version writes ({type(error).__name__}: {error})"
                ) from None
        failed = state is State.failed
        self._runs[point.id] = SweptRun(
            point.id,
            point.settings,
            outcome.exit_code if outcome and failed else 0,
            outcome.error if outcome and failed else "",
            outcome.attempts if outcome else 1,
            outcome.seconds if outcome else 0.0,
            figures,
            losses,
            self._from_here(run) if run else "",
            self._from_here(folder.log),
        )
        return self._runs[point.id]

    def _from_here(self, path: Path) -> str:
        return Path(os.path.relpath(path, self.path)).as_posix()

    def rows(self) -> list[dict[str, Any]]:
        """A row for each point that has ended, in the order of the grid."""
        return [
            {
                "point": run.point, "job": self._job, "code": self._code,
                "state": (State.whole if run.whole else State.failed).value, "exit_code": run.exit_code,
                "error": run.error, "attempts": run.attempts, "wall_seconds": run.wall_seconds, "run": run.run,
                "settings": dict(run.settings), "figures": dict(run.figures), "losses": list(run.losses),
            }
            for run in self.runs
        ]  # fmt: skip

    def _write(self) -> None:
        rows = self.rows()
        lines = [json.dumps(plain(row), ensure_ascii=False, allow_nan=False) + "\n" for row in rows]
        write_text(self.path / "results.jsonl", "".join(lines))
        write_text(self.path / "results.csv", _as_csv(rows))
        size = self._grid.size
        failed = sum(not run.whole for run in self.runs)
        facts = {
            "points": f"{size}: {len(rows) - failed} whole, {failed} failed, {size - len(rows)} left",
            "fixed": " ".join(_shareable(self._grid.fixed)) or "nothing",
            "code": self._code,
        }
        title = f"Sweep of flock-ray {self._job}: {' × '.join(axis.name for axis in self._grid.axes) or 'one point'}"
        write_page(self.path / "index.html", title, facts, self.runs)


def _shareable(overrides: Sequence[str]) -> list[str]:
    """Overrides without those that say where something is: an address may hold a key."""
    return [word for word in overrides if not word.lstrip("+~").startswith(PLACES)]


def _as_csv(rows: Sequence[dict[str, Any]]) -> str:
    """A column for each setting, then for each figure; the figures of a failed point are empty."""
    axes = list(rows[0]["settings"]) if rows else []
    figures = list(dict.fromkeys(name for row in rows for name in row["figures"]))
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    titles = [f"figures.{name}" if name in axes else name for name in figures]  # the group `model`, say
    writer.writerow([*_BEFORE, *axes, *titles, *_AFTER])
    for row in rows:
        values = [*row["settings"].values(), *(row["figures"].get(name) for name in figures)]
        writer.writerow([*(row[name] for name in _BEFORE), *values, *(row[name] for name in _AFTER)])
    return file.getvalue()
