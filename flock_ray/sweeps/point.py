"""A point of a sweep, and its folder: `point.json`, `output.log`, `outcome.json`, and the run itself.

A point's state is read from these files alone, so a sweep that was killed goes on from whatever is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from enum import Enum
from pathlib import Path
from stat import S_ISREG
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString

from flock_ray.cluster.run_directory import RunDirectory
from flock_ray.config import ArenaConfig, Config
from flock_ray.errors import RunDirectoryError
from flock_ray.store.failures import run_folder_errors
from flock_ray.store.files import read_json, write_json
from flock_ray.telemetry import text

INTERRUPTED = 130
"""Exit code of a run that was interrupted: it goes on when it is asked to."""
_LOG_TAIL = 1 << 16  # bytes of the log in which the line of an error is looked for


class State(Enum):
    """How far a point is."""

    new = "new"
    begun = "begun"
    failed = "failed"
    whole = "whole"


@dataclass(frozen=True)
class Outcome:
    """How the attempts at a point ended, as `outcome.json` has it.

    Attributes:
        exit_code: of the last attempt. 0 means that the run ended well.
        error: the line that it wrote; empty if it wrote none.
        seconds: of all attempts.
        attempts: how many of them ended, one way or another.
        bytes: of the point's folder.
    """

    exit_code: int
    error: str
    seconds: float
    attempts: int
    bytes: int


@dataclass(frozen=True)
class Point:
    """One run of a sweep.

    Attributes:
        id: see `identity.point_id`.
        job: the command that plays it: `alliance` or `arena`.
        settings: {axis: its value here}, plain values.
        overrides: of the command line of its run.
        config: what these resolve to.
    """

    id: str
    job: str
    settings: Mapping[str, Any]
    overrides: tuple[str, ...]
    config: Config | ArenaConfig

    @property
    def label(self) -> str:
        """The values of the axes, for people."""
        return text.settings(self.settings) or "the only point"


class PointFolder:
    """The folder of a point, `<sweep.folder>/points/<id>/`.

    Attributes:
        path: of the folder.
        log: what its runs print.
    """

    def __init__(self, points: Path, point: Point) -> None:
        """The folder of a point in the folder of all points; it may not exist yet."""
        self.point = point
        self.path = points / point.id
        self.log = self.path / "output.log"
        self.lock = self.path / "lock"
        self._outcome = self.path / "outcome.json"

    def create(self, code: str) -> None:
        """Make the folder, unless it is there.

        Args:
            code: see `identity.code_version`.

        Raises:
            RunDirectoryError: it cannot be written.
        """
        with run_folder_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        if not self.mark.exists():
            point = self.point
            write_json(self.mark, {"point": point.id, "job": point.job, "code": code, "overrides": point.overrides})

    @property
    def name(self) -> str:
        """The point's id."""
        return self.point.id

    @property
    def mark(self) -> Path:
        """The file that says what the folder is of."""
        return self.path / "point.json"

    @property
    def run(self) -> Path | None:
        """The folder of the run that created its task; there is at most one."""
        return max((task.parent for task in self.path.glob("*/*/task.json")), default=None)

    @property
    def state(self) -> State:
        """How far the point is."""
        run, outcome = self.run, self.outcome
        if run and RunDirectory(run).whole:
            return State.whole
        if outcome and outcome.exit_code not in (0, INTERRUPTED):
            return State.failed
        return State.begun if run else State.new

    @property
    def outcome(self) -> Outcome | None:
        """How its attempts ended; None before the first one has.

        Raises:
            RunDirectoryError: the file is damaged.
        """
        if not self._outcome.is_file():
            return None
        try:
            return Outcome(**read_json(self._outcome))
        except TypeError:
            raise RunDirectoryError(f"{self._outcome} is not what a sweep writes; remove it") from None

    def begins(self) -> None:
        """Note that another attempt begins: the one before it says nothing any more."""
        if outcome := self.outcome:
            write_json(self._outcome, asdict(replace(outcome, exit_code=INTERRUPTED, error="")))

    def ended(self, exit_code: int, seconds: float, log_start: int) -> State:
        """Note how an attempt ended; returns the state after it.

        Args:
            exit_code: of the process, or of the job.
            seconds: that it took.
            log_start: where in the log its lines begin.
        """
        before = self.outcome
        error = "" if exit_code == 0 else self._told_error(log_start)
        total = round((before.seconds if before else 0.0) + seconds, 3)
        outcome = Outcome(exit_code, error, total, (before.attempts if before else 0) + 1, size_of(self.path))
        write_json(self._outcome, asdict(outcome))
        return self.state

    def command(self) -> list[str]:
        """The words after `flock-ray` that begin its run, or resume the one that has begun."""
        run = self.run
        if run:
            return [self.point.job, f"resume={quoted(str(run))}"]
        return [self.point.job, *self.point.overrides, f"output_dir={quoted(str(self.path))}"]

    def _told_error(self, start: int) -> str:
        if not self.log.is_file():
            return ""
        with self.log.open("rb") as file:
            file.seek(max(start, self.log.stat().st_size - _LOG_TAIL))
            lines = file.read().decode(errors="replace").splitlines()
        return next((line.removeprefix("error: ") for line in reversed(lines) if line.startswith("error: ")), "")


def quoted(words: str) -> str:
    """A text as the value of an override, whatever characters it has."""
    return QuotedString(words, Quote.single).with_quotes()


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder."""
    size = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # something may still be clearing up there
            stat = path.lstat()
            size += stat.st_size if S_ISREG(stat.st_mode) else 0
    return size
