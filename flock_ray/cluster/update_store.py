"""Adapters and updates as a worker has them: fetched from the store, checked, and remembered while an epoch lasts."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from flock_ray.cluster.progress import Progress
from flock_ray.lora.serialization import Adapter, Shapes, adapter_hash, canonical_bytes, layout
from flock_ray.protocol.ballot import Check
from flock_ray.store.blob_store import BlobCorruptedError, BlobMissingError, BlobStore, BlobTooLargeError
from flock_ray.wire_format.dense import read_canonical
from flock_ray.wire_format.wire_format import MalformedPayload, WireFormat

T = TypeVar("T")
R = TypeVar("R")

_WORTH_A_THREAD = 1 << 20  # bytes


class UpdateStore:
    """The blob store as a source of adapters and of decoded updates.

    Attributes:
        store: of all blobs.
        wire_format: of payloads.
        shapes: of the task's adapter.
    """

    def __init__(self, url: str, wire_format: WireFormat, shapes: Shapes, progress: Progress) -> None:
        """Nothing is read yet; errors as in `BlobStore`."""
        self.store, self.wire_format, self.shapes = BlobStore(url), wire_format, shapes
        self._progress = progress
        self._num_threads = len(os.sched_getaffinity(0))
        self._pool = ThreadPoolExecutor(self._num_threads)
        self._adapters: dict[bytes, Adapter] = {}
        self._updates: dict[bytes, Adapter | Check] = {}

    def in_threads(self, work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """What `work` on payloads gives for each item, in order, a few items ahead.

        Hashing, files and tensors free Python's lock; for small payloads waiting for it would cost more than they gain.
        """
        if self.wire_format.max_bytes(self.shapes) < _WORTH_A_THREAD:
            yield from map(work, items)
            return
        waiting: deque[Future[R]] = deque()
        for item in items:
            waiting.append(self._pool.submit(work, item))
            if len(waiting) > 2 * self._num_threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    # -- adapters --------------------------------------------------------------------------------------------------

    def remember(self, adapter: Adapter) -> bytes:
        """Remember an adapter of this epoch by its hash."""
        digest = adapter_hash(adapter)
        self._adapters[digest] = adapter
        return digest

    def publish(self, digest: bytes) -> None:
        """Put the canonical bytes of a remembered adapter into the store."""
        with self._progress.timed("transfer"):
            self.store.put(canonical_bytes(self._adapters[digest]))

    def adapter(self, digest: bytes) -> Adapter:
        """The adapter of this hash, from memory or the store."""
        if digest not in self._adapters:
            data = self.store.get(digest, layout(self.shapes).size)
            self._adapters[digest] = read_canonical(data, self.shapes)
        return self._adapters[digest]

    # -- updates ---------------------------------------------------------------------------------------------------

    def updates(self, payloads: Sequence[bytes], keep: bool) -> Iterator[tuple[bytes, Adapter | Check]]:
        """Each distinct payload's decoded update, or why there is none, in this order; fetched and checked in threads.

        Args:
            payloads: their hashes.
            keep: remember what is fetched until the epoch ends; what is remembered is not fetched again.
        """
        distinct = list(dict.fromkeys(payloads))
        missing = [payload for payload in distinct if payload not in self._updates]
        if missing:
            self._progress.begin("fetch", len(missing))
        fetched = self.in_threads(self._fetch, missing)
        for payload in distinct:
            if payload in self._updates:
                yield payload, self._updates[payload]
                continue
            with self._progress.timed("transfer"):
                update = next(fetched)
            if keep:
                self._updates[payload] = update
            self._progress.step()
            yield payload, update

    def kept(self, payloads: Sequence[bytes]) -> list[Adapter]:
        """The updates that are remembered."""
        kept = (self._updates.get(payload) for payload in payloads)
        return [update for update in kept if update is not None and not isinstance(update, Check)]

    def check(self, payloads: Sequence[bytes]) -> dict[bytes, Check]:
        """{payload hash: what its check gave}; the updates are kept."""
        return {payload: checked(update) for payload, update in self.updates(payloads, keep=True)}

    def _fetch(self, payload: bytes) -> Adapter | Check:
        try:
            # One that is too long is read nevertheless, within reason: only bytes of the signed hash prove anything
            # against the proposer, and others may write to the store too.
            data = self.store.get(payload, 2 * self.wire_format.max_bytes(self.shapes))
            return self.wire_format.decode(data, self.shapes)
        except (BlobMissingError, BlobTooLargeError, BlobCorruptedError):
            return Check.UNAVAILABLE
        except MalformedPayload:
            return Check.MALFORMED

    def end_epoch(self, adapters: Sequence[bytes]) -> None:
        """Forget everything but the global adapter, the last of these, and those before it that are here."""
        *earlier, adapter = adapters
        kept = {digest: self._adapters[digest] for digest in earlier if digest in self._adapters}
        self._adapters = kept | {adapter: self.adapter(adapter)}
        self._updates.clear()

    def close(self) -> None:
        """Let the threads go."""
        self._pool.shutdown()


def checked(update: Adapter | Check) -> Check:
    """What the check of a payload gave, by its update."""
    return update if isinstance(update, Check) else Check.VALID
