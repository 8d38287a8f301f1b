"""A log in a store whose segments are created once and never changed, whoever writes."""

from __future__ import annotations

from flock_ray.store.batch import Batch
from flock_ray.store.blob_store import BlobMissingError, BlobStore


class WriteOnceLog:
    """Segments `<store>/<name>/0`, `1`, ...: a writer has read all that are there before it creates the next one.

    So no writer can miss what another wrote before it. Segments are named, not addressed by content, and anybody with
    access to the store may write there: whoever reads checks what they hold.
    """

    def __init__(self, store: BlobStore, name: str) -> None:
        """A log of this name; nothing is read or written yet."""
        self._store, self._name = store, name
        self._next = 0

    def read(self, max_bytes: int) -> list[bytes]:
        """The segments that were not read before, oldest first.

        Raises:
            BlobTooLargeError: a segment is larger than `max_bytes`.
            StoreError: the store cannot be read.
        """
        segments = []
        while True:
            try:
                segments.append(self._store.read_named(self._segment(), max_bytes))
            except BlobMissingError:
                return segments
            self._next += 1

    def append(self, data: bytes, batch: Batch) -> None:
        """Create the next segment; on a local filesystem it appears once `batch` is left.

        Raises:
            SegmentTakenError: it exists (on a local filesystem `batch` raises it).
            StoreError: the store cannot be written.
        """
        self._store.create_named(self._segment(), data, batch)
        self._next += 1

    def _segment(self) -> str:
        return f"{self._name}/{self._next}"
