"""What the members of a logical host signed in an epoch, kept in the store: it alone replaces a lost folder.

An entry is written once, before the signature that it stands for: (task, epoch, seed, member, kind) -> digest, and
what the member needs to say the same again. It is sealed under the member's secret: nobody else can read or make one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from flock_ray.protocol.encoding import Json, canonical_json, parse_canonical
from flock_ray.protocol.message import is_count
from flock_ray.store.batch import Batch
from flock_ray.store.blob_store import BlobStore
from flock_ray.store.write_once import WriteOnceLog

MAX_SEGMENT_BYTES = 1 << 30


def entries_of(task: bytes) -> str:
    """The folder of the store in which the entries of a task lie; nobody needs them once it is over."""
    return f"signed/{task.hex()}"


@dataclass(frozen=True)
class SigningEntry:
    """An entry of the member with this silo: `sealed` is what only it can open, see `Member.record`."""

    silo: int
    kind: str
    sealed: bytes


class SigningLog:
    """Entries of one logical host in one epoch, a segment for each phase in which its members sign.

    Attributes:
        num_ignored: files in their place that hold none: others may write to the store as well.
    """

    def __init__(self, store: BlobStore, task: bytes, epoch: int, seed: bytes, host: int) -> None:
        """The log of a host for the epoch with this seed; epoch 0 holds that its members joined the task."""
        self.num_ignored = 0
        self._log = WriteOnceLog(store, f"{entries_of(task)}/{epoch}-{seed.hex()[:16]}/{host}")

    def read(self) -> list[SigningEntry]:
        """The entries that were not read before; files that hold none are counted in `num_ignored`.

        Raises:
            StoreError: the store cannot be read.
        """
        entries = []
        for data in self._log.read(MAX_SEGMENT_BYTES):
            try:
                entries += _entries(data)
            except ValueError:
                self.num_ignored += 1
        return entries

    def append(self, entries: Iterable[SigningEntry], batch: Batch) -> None:
        """Write entries, all of them or none; see `WriteOnceLog.append`."""
        rows: list[Json] = [[entry.silo, str(entry.kind), entry.sealed.hex()] for entry in entries]
        self._log.append(canonical_json(rows), batch)


def _entries(data: bytes) -> list[SigningEntry]:
    rows = parse_canonical(data, MAX_SEGMENT_BYTES)
    if not isinstance(rows, list):
        raise ValueError("a segment is a list of entries")
    return [SigningEntry(*_row(row)) for row in rows]


def _row(row: object) -> tuple[int, str, bytes]:
    if not isinstance(row, list) or len(row) != 3:
        raise ValueError("an entry is a silo, a kind and a sealed text")
    silo, kind, sealed = row
    if not is_count(silo) or not isinstance(kind, str) or not isinstance(sealed, str):
        raise ValueError("an entry is a silo, a kind and a sealed text")
    return silo, kind, bytes.fromhex(sealed)


def by_silo(entries: Iterable[SigningEntry]) -> Mapping[int, list[SigningEntry]]:
    """{silo: its entries, oldest first}."""
    sorted_entries: dict[int, list[SigningEntry]] = {}
    for entry in entries:
        sorted_entries.setdefault(entry.silo, []).append(entry)
    return sorted_entries
