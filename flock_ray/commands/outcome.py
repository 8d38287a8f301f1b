"""How a command ends: an exit code, and one line on standard error where something failed."""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from flock_ray.errors import FlockRayError, RunDirectoryError, TaskClosedError, WorkerMemoryError

INTERRUPTED = 130
_GO_ON = re.compile(r"(; |, )?[^;,]*\bgo on with resume=RUN_DIR$")


def exit_code_of(act: Callable[[], int | None], interrupted: str = "interrupted", show_traceback: bool = False) -> int:
    """Run `act` and tell its failure in one line; returns the exit code.

    Args:
        act: what the command does; returns its exit code, None for 0.
        interrupted: the line after Ctrl-C or SIGTERM.
        show_traceback: show where an error came from, too. Where it is a bug of ours this is always shown.
    """
    try:
        return act() or 0
    except FlockRayError as error:
        if show_traceback:
            traceback.print_exc()
        return fail(f"error: {error}", error.exit_code)
    except KeyboardInterrupt:
        return fail(f"error: {interrupted}", INTERRUPTED)
    except Exception as error:  # a bug of ours
        traceback.print_exc()
        notes = "; ".join(filter(None, getattr(error, "__notes__", ())))
        text = f"error: unexpected {type(error).__name__}: {error}"
        return fail(f"{text}; {notes}" if notes else text, FlockRayError.exit_code)


def fail(message: str, exit_code: int) -> int:
    """Print one line on standard error; returns the exit code."""
    print(" ".join(message.split()), file=sys.stderr, flush=True)
    return exit_code


def explained(error: Exception, run: Path | None) -> Exception:
    """What ended a run, as an error that says how to go on.

    Args:
        error: as it was raised.
        run: folder of the run; None where it did not come to a task, so that there is nothing to resume.

    Returns:
        An error of the same class, or of that of a full disk or memory; one that nobody expected stays as it is.
    """
    if isinstance(error, OSError) and error.filename:
        error = RunDirectoryError(f"{error.filename} cannot be used: {error.strerror}")
    elif isinstance(error, MemoryError):
        error = WorkerMemoryError("the process that leads the run has no memory left")
    text = " ".join(str(error).split())
    if run is None:
        hinted = _GO_ON.sub("", text)
    elif isinstance(error, TaskClosedError) or f"resume={run}" in text:
        hinted = text
    elif _GO_ON.search(text):
        hinted = text.replace("RUN_DIR", str(run))
    else:
        hinted = f"{text}; resume={run} continues"
    if isinstance(error, FlockRayError):
        return type(error)(hinted)
    error.add_note(hinted.removeprefix(text).removeprefix("; "))
    return error
