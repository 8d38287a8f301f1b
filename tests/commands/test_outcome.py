"""What ended a run, as a line that says how to go on."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from flock_ray.commands.outcome import exit_code_of, explained
from flock_ray.errors import ChainError, DataError, RayLostError, RunDirectoryError, TaskClosedError, WorkerMemoryError

RUN = Path("/outputs/day/time")
FULL = OSError(errno.ENOSPC, "No space left on device", "/outputs/day/time/report.html")


@pytest.mark.parametrize(
    ("error", "run", "kind", "text"),
    [
        (DataError("silo 3 is gone"), RUN, DataError, f"silo 3 is gone; resume={RUN} continues"),
        (DataError("silo 3 is gone"), None, DataError, "silo 3 is gone"),
        (RayLostError("no head; start it again and go on with resume=RUN_DIR"), None, RayLostError, "no head"),
        (ChainError("it died; go on with resume=RUN_DIR"), RUN, ChainError, f"it died; go on with resume={RUN}"),
        (TaskClosedError("closed"), RUN, TaskClosedError, "closed"),
        (ChainError("choose another seed, or go on with its run by resume=RUN_DIR"), None, ChainError,
         "choose another seed, or go on with its run by resume=RUN_DIR"),
        (FULL, RUN, RunDirectoryError,
         f"/outputs/day/time/report.html cannot be used: No space left on device; resume={RUN} continues"),
        (MemoryError(), None, WorkerMemoryError, "the process that leads the run has no memory left"),
    ],
)  # fmt: skip
def test_an_error_says_how_to_go_on_where_there_is_something_to_resume(
    error: Exception, run: Path | None, kind: type[Exception], text: str
) -> None:
    told = explained(error, run)
    assert type(told) is kind and str(told) == text


def test_what_nobody_expected_stays_what_it_is_and_says_so_too(capsys: pytest.CaptureFixture[str]) -> None:
    def act() -> int:
        raise explained(KeyError("layers"), RUN)

    assert exit_code_of(act) == 1
    assert capsys.readouterr().err.endswith(f"error: unexpected KeyError: 'layers'; resume={RUN} continues\n")
