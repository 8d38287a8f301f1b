"""The records of a task in a store, each found by the one after it: those of abandoned epochs are not among them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from flock_ray.protocol.encoding import from_hex, parse_canonical
from flock_ray.protocol.hashing import ZERO
from flock_ray.store.blob_store import BlobStore

MAX_RECORD_BYTES = 1 << 28

T = TypeVar("T")


class RecordChain(Generic[T]):
    """Records that are kept before they are signed; whether one ever is does not matter."""

    def __init__(self, store: BlobStore, read: Callable[[Mapping[str, Any]], T]) -> None:
        """Nothing is read or written yet.

        Args:
            store: where they are.
            read: takes of a record's JSON what is to be remembered of it.
        """
        self._store, self._read = store, read
        self._known: dict[bytes, tuple[T, bytes]] = {}

    def keep(self, record: bytes) -> None:
        """Store an epoch's record.

        Raises:
            StoreError: the store cannot be written.
        """
        self._store.put(record)

    def back_from(self, digest: bytes) -> Iterator[T]:
        """The record of this hash and those before it, newest first; none from the zero hash.

        Raises:
            StoreError: one cannot be read, or is not there.
        """
        while digest != ZERO:
            if digest not in self._known:
                value = parse_canonical(self._store.get(digest, MAX_RECORD_BYTES), MAX_RECORD_BYTES)
                assert isinstance(value, dict)
                self._known[digest] = self._read(value), from_hex(value["previous_record"])
            read, digest = self._known[digest]
            yield read
