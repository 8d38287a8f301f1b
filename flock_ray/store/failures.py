"""Failures of disks and stores in words, and apart: what may pass by itself, and what somebody has to repair."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flock_ray.errors import RunDirectoryError, StoreError

_LASTING = frozenset(
    (
        errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG,
        errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL,
    )
)  # fmt: skip
"""Full or refused, or no place for a file: asked again, the same comes back."""
_LASTING_KINDS = (
    PermissionError, NotADirectoryError, IsADirectoryError, FileExistsError,  # from drivers that set no errno
    ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, MemoryError, NotImplementedError,
    TypeError, ValueError,
)  # fmt: skip


class StoreUnavailableError(StoreError):
    """The store did not answer, or not to the end; the same may well succeed a little later."""


class SegmentTakenError(StoreUnavailableError):
    """Another process created a write-once file first: read what it wrote before writing again."""


def store_error(error: Exception, verb: str, path: str) -> StoreError:
    """What a disk or a driver raised (each driver has its own classes), as an error of ours that names the path.

    Args:
        error: as it was raised.
        verb: what cannot be done: `read`, `written`, ...
        path: of the file or object.
    """
    lasting = isinstance(error, _LASTING_KINDS) or (isinstance(error, OSError) and error.errno in _LASTING)
    kind = StoreError if lasting else StoreUnavailableError
    return kind(f"{path} cannot be {verb}: {_reason(error)}")


@contextmanager
def run_folder_errors(path: str | Path) -> Iterator[None]:
    """Around whatever writes `path` in a run's folder.

    Raises:
        RunDirectoryError: in place of an OSError: the disk is full, say.
    """
    try:
        yield
    except OSError as error:
        raise RunDirectoryError(f"{path} cannot be written: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    strerror = error.strerror if isinstance(error, OSError) else None
    if not strerror:
        return f"{type(error).__name__}: {error}"
    return strerror[0].lower() + strerror[1:]
