"""What encoding lost of the members' updates (error feedback), kept in the store until each proposes again.

A residual belongs to the epoch and seed in which the member committed to its payload. It is sealed under the member's
secret and written before the commitment is signed, whose entry in the signing log names it. A later epoch finds it by
the records before that epoch, each of which names the one before it: those of an abandoned epoch are not among them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flock_ray.cluster.member import Member
from flock_ray.cluster.record_chain import RecordChain
from flock_ray.cluster.signing_log import SigningLog, by_silo, entries_of
from flock_ray.lora.serialization import Adapter, Shapes, canonical_bytes, layout
from flock_ray.protocol.encoding import from_hex, to_hex
from flock_ray.protocol.message import Kind
from flock_ray.protocol.state import TaskState
from flock_ray.store.batch import Batch
from flock_ray.store.blob_store import BlobCorruptedError, BlobMissingError, BlobStore, BlobTooLargeError
from flock_ray.wire_format.dense import read_canonical
from flock_ray.wire_format.wire_format import MalformedPayload

_SEAL_BYTES = 16
_PURPOSE = "residual"
_NOT_THERE = (BlobMissingError, BlobTooLargeError, BlobCorruptedError)


class ResidualLostError(Exception):
    """The member has a residual, which is no longer in the store; the text says what is missing."""


@dataclass(frozen=True)
class _Past:
    """An epoch by its record: its number and seed, and who committed to a payload in it."""

    epoch: int
    seed: bytes
    committed: frozenset[int]

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> _Past:
        """From the record's JSON."""
        committed = frozenset(member for kind, member, _ in record["messages"] if kind == Kind.COMMITMENT)
        return cls(record["epoch"], from_hex(record["seed"]), committed)


class Residuals:
    """The residuals of a task's members, and the records that lead to them."""

    def __init__(self, url: str, task: bytes, shapes: Shapes) -> None:
        """Nothing is read or written yet.

        Args:
            url: of the blob store.
            task: id of the task.
            shapes: of its adapter.
        """
        self._shared, self._own = BlobStore(url), BlobStore(f"{url}/{entries_of(task)}/residuals")
        self._task, self._shapes = task, shapes
        self._records = RecordChain(self._own, _Past.read)

    def keep_record(self, record: bytes) -> None:
        """Store an epoch's record; whether it is ever signed does not matter.

        Raises:
            StoreError: the store cannot be written.
        """
        self._records.keep(record)

    def put(self, member: Member, state: TaskState, residual: Adapter, batch: Batch) -> dict[str, str]:
        """Store a residual of the epoch of `state`; returns what the entry of the commitment is to say of it.

        Raises:
            StoreError: the store cannot be written.
        """
        return {_PURPOSE: to_hex(self._own.put(member.seal(state, _PURPOSE, canonical_bytes(residual)), batch))}

    def carried(self, member: Member, host: int, state: TaskState) -> Adapter | None:
        """The residual of the member's last update before the epoch of `state`; None if it has none.

        Args:
            member: whose.
            host: its logical host.
            state: of the epoch.

        Raises:
            ResidualLostError: it is not to be had.
            StoreError: the store cannot be read.
        """
        try:
            records = self._records.back_from(state.previous_record)
            past = next((past for past in records if member.number in past.committed), None)
        except _NOT_THERE as error:
            raise ResidualLostError(f"the store has no record of an epoch before it: {error}") from None
        return self._of_epoch(member, host, past) if past else None

    def _of_epoch(self, member: Member, host: int, past: _Past) -> Adapter | None:
        entries = by_silo(SigningLog(self._shared, self._task, past.epoch, past.seed, host).read())
        place = self._task, past.epoch, past.seed
        told = member.told(*place, Kind.COMMITMENT, entries.get(member.silo, ()))
        if told is None:
            raise ResidualLostError(f"the store has no entry of its commitment of epoch {past.epoch}")
        if _PURPOSE not in told:
            return None
        try:
            sealed = self._own.get(from_hex(told[_PURPOSE]), layout(self._shapes).size + _SEAL_BYTES)
        except _NOT_THERE as error:
            raise ResidualLostError(str(error)) from None
        opened = member.unseal(*place, _PURPOSE, sealed)
        try:
            return read_canonical(opened or b"", self._shapes)
        except MalformedPayload:
            raise ResidualLostError(f"what the store has for epoch {past.epoch} is not its residual") from None
