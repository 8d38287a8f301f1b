"""events.jsonl: one JSON object a line, written as things happen."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from flock_ray.store.failures import run_folder_errors
from flock_ray.store.files import plain


class EventLog:
    """Appends events to a file; what it holds already, from a run that is resumed, stays.

    Callers pass counts, hashes, losses and times, never rows or text of anybody's data. A log that cannot be written,
    on a full disk say, is a RunDirectoryError.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = path
        with run_folder_errors(path):
            self._file = open(path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115 - lives as long as the log
            if self._file.tell() and not Path(path).read_bytes().endswith(b"\n"):
                self._file.write("\n")  # a crash cut the last line short: it stays one bad line

    def emit(self, kind: str, **fields: object) -> None:
        """Write one event: `time` (seconds since 1970), `kind`, then the fields. Bytes become 0x-hex, NaN null."""
        event = {"time": round(time.time(), 3), "kind": kind, **{name: plain(value) for name, value in fields.items()}}
        line = json.dumps(event, allow_nan=False, separators=(",", ":")) + "\n"
        with run_folder_errors(self._path):
            self._file.write(line)

    def close(self) -> None:
        """Close the file; events after it are an error."""
        with run_folder_errors(self._path):
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
