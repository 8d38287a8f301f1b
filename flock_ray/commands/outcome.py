"""How a command ends: an exit code, and one line on standard error where something failed."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable

from flock_ray.errors import FlockRayError

INTERRUPTED = 130


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
        return fail(f"error: unexpected {type(error).__name__}: {error}", FlockRayError.exit_code)


def fail(message: str, exit_code: int) -> int:
    """Print one line on standard error; returns the exit code."""
    print(" ".join(message.split()), file=sys.stderr, flush=True)
    return exit_code
