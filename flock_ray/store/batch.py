"""Files written together: each appears whole and synced to disk or not at all, at the price of a few syncs for all."""

from __future__ import annotations

import ctypes
import errno
import os
import uuid
from collections.abc import Callable, Collection
from contextlib import suppress
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from flock_ray.store.failures import SegmentTakenError, store_error

_LIBC = ctypes.CDLL(None, use_errno=True)
_FEW = 4  # files that are synced one by one; more cost less with one sync of their whole filesystem

T = TypeVar("T")


class Batch:
    """A context: what is added to it is on disk once it is left, and nobody sees a new file before.

    A file that is left half written by a crash has a name that nobody reads. Threads may add at the same time. Adding,
    and leaving it, raise StoreError when a file cannot be written: the disk is full, say.
    """

    def __init__(self) -> None:
        """Nothing to write yet."""
        self._name, self._numbers = uuid.uuid4().hex, count()
        self._drafts: list[tuple[str, str]] = []
        self._once: list[tuple[str, str]] = []
        self._appended: list[str] = []

    def write(self, path: str | Path, data: bytes) -> None:
        """Have `data` appear at `path`, in place of what is there; missing folders are made."""
        try:
            file = self._draft(str(path), _create)
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(file, view) :]
            finally:
                os.close(file)
        except OSError as error:
            raise store_error(error, "written", str(path)) from error

    def create(self, path: str | Path, data: bytes) -> None:
        """Have `data` appear at `path`, before all else of the batch.

        Leaving the batch raises SegmentTakenError when something is at `path` by then; but for files that were created
        before it nothing of the batch appears.
        """
        self.write(path, data)
        self._once.append(self._drafts.pop())

    def link(self, source: Path, path: str | Path) -> None:
        """Have the file at `source`, which nobody changes any more, appear at `path` as well.

        Raises:
            OSError: the filesystem has no hard links, or the two are not on one.
        """
        self._draft(str(path), lambda draft: os.link(source, draft))

    def append(self, path: str | Path, data: bytes) -> None:
        """Add to the end of a file; readers may see it at once, and the disk has it when the batch is left."""
        try:
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                size = os.fstat(file).st_size
                if os.write(file, data) < len(data):  # the next line must not begin in the middle of this one
                    os.truncate(path, size)
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            finally:
                os.close(file)
        except OSError as error:
            raise store_error(error, "written", str(path)) from error
        self._appended.append(str(path))

    def _draft(self, path: str, make: Callable[[str], T]) -> T:
        folder, _, name = path.rpartition("/")
        draft = f"{folder}/.{name}.{self._name}{next(self._numbers)}.tmp"
        try:
            made = make(draft)
        except FileNotFoundError:  # mostly the folder is there
            os.makedirs(folder, exist_ok=True)
            made = make(draft)
        self._drafts.append((draft, path))
        return made

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                drafts = [*self._once, *self._drafts]
                sync([draft for draft, _ in drafts] + self._appended)
                for draft, path in self._once:
                    _create_once(draft, path)
                for draft, path in self._drafts:
                    os.rename(draft, path)
                sync({path.rpartition("/")[0] for _, path in drafts})
        except SegmentTakenError:
            raise
        except OSError as failed:
            first = next(iter([path for _, path in drafts] + self._appended))
            raise store_error(failed, "written", first) from failed
        finally:
            for draft, _ in [*self._once, *self._drafts]:
                with suppress(FileNotFoundError):
                    os.unlink(draft)


def _create_once(draft: str, path: str) -> None:
    """Have a draft appear at a path where nothing is; of two processes that try one fails with SegmentTakenError."""
    try:
        try:
            os.link(draft, path)
        except FileExistsError:
            raise
        except OSError:  # no hard links there
            os.close(_create(path))
            os.rename(draft, path)
    except FileExistsError:
        raise SegmentTakenError(f"{path} exists: another process wrote it meanwhile") from None


def _create(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)


def sync(paths: Collection[str]) -> None:
    """Have files, or the entries of folders, on disk.

    Raises:
        OSError: the disk failed.
    """
    filesystems = set()
    for path in paths:
        file = os.open(path, os.O_RDONLY)
        try:
            if len(paths) <= _FEW:
                os.fsync(file)
            elif (device := os.fstat(file).st_dev) not in filesystems:
                filesystems.add(device)
                if _LIBC.syncfs(file):
                    raise OSError(ctypes.get_errno(), f"syncfs failed for {path}")
        finally:
            os.close(file)
