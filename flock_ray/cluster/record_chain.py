"""The records of a task in the store, each found by the one after it: those of abandoned epochs are not among them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from flock_ray.cluster.signing_log import entries_of
from flock_ray.protocol.encoding import from_hex, parse_canonical
from flock_ray.protocol.hashing import ZERO
from flock_ray.store.blob_store import BlobStore

MAX_RECORD_BYTES = 1 << 28


class RecordChain:
    """Records that were kept before they were signed; whether one ever was does not matter."""

    def __init__(self, url: str, task: bytes) -> None:
        """Nothing is read or written yet.

        Args:
            url: of the blob store.
            task: id of the task.
        """
        self._store = BlobStore(f"{url}/{entries_of(task)}/records")
        self._read: dict[bytes, Mapping[str, Any]] = {}

    def keep(self, record: bytes) -> None:
        """Store an epoch's record.

        Raises:
            StoreError: the store cannot be written.
        """
        self._store.put(record)

    def back_from(self, digest: bytes) -> Iterator[Mapping[str, Any]]:
        """The record of this hash and those before it, newest first, as JSON has them; none from the zero hash.

        Raises:
            StoreError: one cannot be read.
        """
        while digest != ZERO:
            if digest not in self._read:
                value = parse_canonical(self._store.get(digest, MAX_RECORD_BYTES), MAX_RECORD_BYTES)
                assert isinstance(value, dict)
                self._read[digest] = value
            yield self._read[digest]
            digest = from_hex(self._read[digest]["previous_record"])
