"""What dishonest members of a worker look up or compute, beside what the protocol asks of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from flock_ray.adversary.behaviour import PastEpoch
from flock_ray.cluster.record_chain import RecordChain
from flock_ray.cluster.running_task import RunningTask
from flock_ray.cluster.signing_log import entries_of
from flock_ray.cluster.workbench import Workbench
from flock_ray.lora.serialization import Adapter
from flock_ray.protocol.ballot import Check
from flock_ray.protocol.encoding import from_hex
from flock_ray.protocol.hashing import ZERO
from flock_ray.store.blob_store import BlobStore


class Insight:
    """A `World` of the adversary over a worker's bench: what is public comes from the store, the rest from its silos.

    All of it is a function of the epoch's state and the silos, so a worker that was rebuilt gives the same answers.
    """

    def __init__(self, url: str, bench: Callable[[], Workbench], task: Callable[[], RunningTask]) -> None:
        """Look things up, once the worker is loaded and has taken up a task.

        Args:
            url: of the blob store.
            bench: trains and measures.
            task: the task at the running epoch.
        """
        self._url, self._bench, self._task = url, bench, task
        self._trained: dict[tuple[object, ...], list[Adapter]] = {}
        self._records: tuple[bytes, RecordChain[PastEpoch]] | None = None
        self._past: tuple[bytes, list[PastEpoch]] | None = None

    @property
    def records(self) -> RecordChain[PastEpoch]:
        """Of the running task."""
        task = self._task().state.scope.task
        if self._records is None or self._records[0] != task:
            self._records = task, RecordChain(BlobStore(f"{self._url}/{entries_of(task)}/records"), _read)
        return self._records[1]

    @property
    def past(self) -> Sequence[PastEpoch]:
        """See `World`."""
        state = self._task().state
        if self._past is None or self._past[0] != state.previous_record:
            past, start = list[PastEpoch](), state.terms.start_adapter
            for read in reversed(list(self.records.back_from(state.previous_record))):
                past.append(replace(read, start=start))
                start = read.end
            self._past = state.previous_record, past
        return self._past[1]

    def adapter(self, digest: bytes) -> Adapter:
        """See `World`."""
        return self._bench().updates.adapter(digest)

    def sent(self, payload: bytes) -> Adapter | None:
        """See `World`."""
        [(_, update)] = self._bench().updates.updates([payload], keep=False)
        return None if isinstance(update, Check) else update

    def trained(self, members: Iterable[int], steps: int | None = None, start: bytes | None = None) -> list[Adapter]:
        """See `World`; what was asked is remembered until the epoch ends.

        Who trains in one batch shapes the last bits, so another question about the same member is answered anew.
        """
        task = self._task()
        state, silos = task.state, tuple(task.silos[member] for member in members)
        asked = state.seed, start or state.adapter, steps, silos
        if asked not in self._trained:
            found = self._bench().trainer.try_out(sorted(silos), state.epoch, start or state.adapter, steps)
            self._trained[asked] = [found[silo] for silo in silos]
        return self._trained[asked]

    def loss(self, member: int, adapter: Adapter) -> float:
        """See `World`."""
        return self._bench().scorer.loss(self._task().silos[member], adapter)

    def end_epoch(self) -> None:
        """Forget what was trained."""
        self._trained.clear()


def _read(record: Mapping[str, Any]) -> PastEpoch:
    """What is public of an epoch, but for what it started from, which the record before it has."""
    opened = [one for one in record["proposals"] if one["payload"] is not None]
    return PastEpoch(
        epoch=record["epoch"],
        start=ZERO,
        end=from_hex(record["adapter"]),
        payloads={one["member"]: from_hex(one["payload"]) for one in opened},
        scores={one["member"]: one["score"] for one in opened if one["score"] is not None},
    )
