"""The command line as a user types it, in a folder of its own."""

from __future__ import annotations

import os
import subprocess
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.runs import ALLIANCE, MARK, processes
from tests.waiting import PATIENCE, wait_until


@dataclass(frozen=True)
class Ended:
    """A command that came to its end, with all that it had started.

    Attributes:
        left: files and folders that it left in its working directory.
    """

    code: int
    output: str
    errors: str
    left: list[str]
    seconds: float

    @property
    def one_line(self) -> str:
        """The line that tells the error; there is nothing else on standard error, and no traceback anywhere."""
        assert "Traceback" not in self.output + self.errors
        lines = self.errors.splitlines()
        assert len(lines) == 1 and lines[0].startswith("error: "), self.errors
        return lines[0]


def alliance(folder: Path, *overrides: str, env: Mapping[str, str] | None = None) -> Ended:
    """Run `jobs/alliance.py` in `folder` to its end; keys and passwords are in its environment only from `env`."""
    mark = uuid.uuid4().hex
    kept = {name: value for name, value in os.environ.items() if not name.endswith(("_KEY", "_PASSWORD"))}
    began = time.monotonic()
    ended = subprocess.run(
        [*ALLIANCE, *overrides],
        cwd=folder,
        env={**kept, MARK: mark, **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        start_new_session=True,
    )
    seconds = time.monotonic() - began
    wait_until(lambda: not processes(mark))
    left = sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
    return Ended(ended.returncode, ended.stdout, ended.stderr, left, seconds)
