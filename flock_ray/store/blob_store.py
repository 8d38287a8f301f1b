"""Immutable blobs named by their SHA-256, on any filesystem that fsspec opens."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from flock_ray.errors import StoreError
from flock_ray.protocol.hashing import sha256
from flock_ray.store.batch import Batch
from flock_ray.store.failures import SegmentTakenError, StoreUnavailableError, store_error

__all__ = ["BlobCorruptedError", "BlobMissingError", "BlobStore", "BlobTooLargeError", "StoreUnavailableError"]


class BlobMissingError(StoreError):
    """No blob of this hash is in the store."""


class BlobTooLargeError(StoreError):
    """The blob of this hash is larger than its reader allows; whether it has that hash was not looked at."""


class BlobCorruptedError(StoreError):
    """What is stored under this hash has another one."""


class BlobStore:
    """Blobs at `<url>/<first 2 hex digits>/<64 hex digits>`; several processes and machines may share one.

    Objects can be pickled; each process may as well make its own from the same url. Whatever reaches the store raises
    `StoreUnavailableError` where the same may succeed a little later, and another `StoreError` where it will not: the
    disk is full, permission is denied. Nothing is tried twice here.
    """

    def __init__(self, url: str) -> None:
        """Open a store; nothing is read or written yet.

        Args:
            url: a local folder, or any fsspec url (`s3://bucket/run`, ...) whose driver is installed.

        Raises:
            StoreError: the url's protocol is unknown or its driver is missing.
        """
        try:
            self._fs, self._root = url_to_fs(url, use_listings_cache=False)
            self._local = isinstance(self._fs, LocalFileSystem)
        except (ImportError, ValueError) as error:
            raise StoreError(f"store.url cannot be opened: {error}") from error

    def put(self, data: bytes, batch: Batch | None = None) -> bytes:
        """Store a blob; one that is there already, in the same size, is left alone.

        On a local filesystem it appears under its name whole, synced to disk, or not at all.

        Args:
            data: the blob.
            batch: what it appears with, on a local filesystem; by itself without one.

        Returns:
            Its SHA-256, 32 bytes.

        Raises:
            StoreError: the store cannot be written.
        """
        digest = sha256(data)
        path = self._path(digest)
        if self._size(path) != len(data):
            self._write(path, data, batch)
        return digest

    def put_file(self, digest: bytes, source: Path, batch: Batch) -> None:
        """Store the blob of this hash that a local file holds, without a copy of its bytes where the disk can.

        Args:
            digest: SHA-256 of the file.
            source: a file that nobody changes any more.
            batch: what it appears with.

        Raises:
            StoreError: the store cannot be written.
        """
        path = self._path(digest)
        with self._explained("written", path):
            if self._size(path) == source.stat().st_size:
                return
            if self._local:
                with suppress(OSError):  # no hard links there, or another filesystem
                    batch.link(source, path)
                    return
            self._write(path, source.read_bytes(), batch)

    def path_of(self, digest: bytes) -> Path:
        """Where a local store keeps, or would keep, the blob of this hash."""
        assert self._local
        return Path(self._path(digest))

    def get(self, digest: bytes, max_bytes: int) -> bytes:
        """Read a blob and check it; never reads more than `max_bytes + 1` bytes.

        Raises:
            BlobMissingError: it is not there.
            BlobTooLargeError: it is larger than `max_bytes`.
            BlobCorruptedError: its bytes have another hash.
            StoreError: the store cannot be read.
        """
        data = self._read(self._path(digest), max_bytes + 1)
        if len(data) > max_bytes:
            raise BlobTooLargeError(f"blob {digest.hex()} is larger than the {max_bytes} bytes allowed")
        if sha256(data) != digest:
            raise BlobCorruptedError(f"blob {digest.hex()} is corrupted: its bytes have another SHA-256")
        return data

    def remove(self, digest: bytes) -> int | None:
        """Remove the blob of this hash, for good and for everybody who shares the store.

        Returns:
            How many bytes it had, None if it was not there.

        Raises:
            StoreError: it cannot be removed.
        """
        path = self._path(digest)
        if (size := self._size(path)) is None:
            return None
        try:
            with self._explained("removed", path):
                self._fs.rm_file(path)
        except BlobMissingError:  # another process was faster
            return None
        return size

    def has(self, digest: bytes) -> bool:
        """Whether a blob of this hash is there (its bytes are not read).

        Raises:
            StoreError: the store cannot be reached.
        """
        return self._size(self._path(digest)) is not None

    def read_named(self, name: str, max_bytes: int) -> bytes:
        """What `create_named` stored under a name.

        Raises:
            BlobMissingError: nothing.
            BlobTooLargeError: more than `max_bytes`.
            StoreError: the store cannot be read.
        """
        path = f"{self._root}/{name}"
        data = self._read(path, max_bytes + 1)
        if len(data) > max_bytes:
            raise BlobTooLargeError(f"{path} is larger than the {max_bytes} bytes allowed")
        return data

    def create_named(self, name: str, data: bytes, batch: Batch) -> None:
        """Store data under a name that nobody used, such as `signed/7/0`; on a local filesystem see `Batch.create`.

        Drivers differ in how atomic this is, so what was stored elsewhere than on a local filesystem is read back.

        Raises:
            SegmentTakenError: somebody did.
            StoreError: the store cannot be written.
        """
        path = f"{self._root}/{name}"
        taken = SegmentTakenError(f"{path} exists: another process wrote it meanwhile")
        with self._explained("written", path):
            if self._local:
                batch.create(path, data)
                return
            self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            try:
                self._fs.pipe_file(path, data, mode="create")
            except FileExistsError:
                raise taken from None
        if self._read(path, len(data) + 1) != data:
            raise taken

    def remove_named(self, folder: str) -> int | None:
        """Remove everything that was stored under names in a folder, such as `signed/7`, for good.

        Returns:
            How many bytes it had, None if there was nothing.

        Raises:
            StoreError: it cannot be removed.
        """
        path = f"{self._root}/{folder}"
        with self._explained("removed", path):
            if not self._fs.exists(path):
                return None
            size = int(self._fs.du(path, total=True))
            self._fs.rm(path, recursive=True)
        return size

    def probe_write(self, token: str) -> None:
        """Leave a mark that `probe_read` finds from any machine that reaches the same store.

        Args:
            token: hex digits that nobody else uses.

        Raises:
            StoreError: the store cannot be written.
        """
        self._write(self._probe_path(token), token.encode())

    def probe_read(self, token: str) -> None:
        """Check that a mark which another machine left is seen from here.

        Raises:
            StoreError: it is not.
        """
        path = self._probe_path(token)
        try:
            seen = self._read(path, len(token) + 1)
        except BlobMissingError as error:
            raise StoreError(
                f"{path}, written by another node, is not there; every node must reach store.url"
            ) from error
        if seen != token.encode():
            raise StoreError(f"{path} holds other bytes than another node wrote; every node must reach store.url")

    def probe_remove(self, token: str) -> None:
        """Take a mark away again, if it is there still.

        Raises:
            StoreError: it cannot be removed.
        """
        path = self._probe_path(token)
        with suppress(BlobMissingError), self._explained("removed", path):
            self._fs.rm_file(path)

    def _path(self, digest: bytes) -> str:
        if len(digest) != 32:
            raise ValueError(f"a blob's hash has 32 bytes, not {len(digest)}")
        return f"{self._root}/{digest.hex()[:2]}/{digest.hex()}"

    def _probe_path(self, token: str) -> str:
        return f"{self._root}/probe/{bytes.fromhex(token).hex()}"

    @contextmanager
    def _explained(self, verb: str, path: str) -> Iterator[None]:
        try:
            yield
        except StoreError:
            raise
        except FileNotFoundError as error:
            raise BlobMissingError(f"{path} is not in the store") from error
        except Exception as error:
            raise store_error(error, verb, path) from error

    def _size(self, path: str) -> int | None:
        if self._local and not os.path.exists(path):
            return None
        try:
            with self._explained("looked at", path):
                return os.stat(path).st_size if self._local else int(self._fs.size(path))
        except BlobMissingError:
            return None

    def _read(self, path: str, max_bytes: int) -> bytes:
        with self._explained("read", path):
            if self._local:
                return _read_file(path, max_bytes)
            with self._fs.open(path, "rb") as file:
                data: bytes = file.read(max_bytes)
            return data

    def _write(self, path: str, data: bytes, batch: Batch | None = None) -> None:
        with self._explained("written", path):
            if not self._local:
                self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
                self._fs.pipe_file(path, data)
            elif batch:
                batch.write(path, data)
            else:
                with Batch() as alone:
                    alone.write(path, data)


def _read_file(path: str, max_bytes: int) -> bytes:
    """At most `max_bytes` of a local file, in as few calls and copies as there can be."""
    file = os.open(path, os.O_RDONLY)
    try:
        size = min(os.fstat(file).st_size, max_bytes)
        data = os.read(file, size)
        while len(data) < size and (more := os.read(file, size - len(data))):
            data += more
        return data
    finally:
        os.close(file)
