"""From the updates of hosted proposers to the payloads that they commit to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flock_ray.cluster.hosted_members import Events, HostedMembers
from flock_ray.cluster.member import Member
from flock_ray.cluster.progress import Progress
from flock_ray.cluster.residuals import ResidualLostError, Residuals
from flock_ray.cluster.trainer import LocalUpdate
from flock_ray.cluster.update_store import UpdateStore
from flock_ray.lora.serialization import Adapter
from flock_ray.protocol.state import TaskState
from flock_ray.store.batch import Batch
from flock_ray.wire_format.feedback import encode_with_feedback


@dataclass(frozen=True)
class KeptPayload:
    """A payload that its proposer keeps: its hash, its length in bytes, and what the entry of its commitment says."""

    digest: bytes
    size: int
    private: Mapping[str, str] | None


class ProposalEncoder:
    """Encodes each hosted proposer's update once an epoch, and keeps payloads and residuals before anything is signed.

    Attributes:
        kept: {member: its payload} of the running epoch.
    """

    def __init__(self, url: str, task: bytes, updates: UpdateStore, hosting: HostedMembers, progress: Progress) -> None:
        """Nothing encoded yet.

        Args:
            url: of the blob store.
            task: id of the task.
            updates: has the wire format.
            hosting: the hosted members.
            progress: counts the time.
        """
        self._updates, self._hosting, self._progress = updates, hosting, progress
        self._format, self._shapes = updates.wire_format, updates.shapes
        self._residuals = Residuals(url, task, self._shapes) if self._format.feedback else None
        self.kept: dict[int, KeptPayload] = {}

    def keep(self, state: TaskState, updates: Mapping[int, LocalUpdate]) -> Events:
        """Encode the updates of hosted proposers, and have payloads and residuals on disk; what happened on the way.

        Raises:
            StoreError: the store cannot be read or written.
        """
        members, events = self._hosting.members, Events()
        missing = [number for number in updates if number in members and number not in self.kept]
        sent = {number: _sent(members[number], state, updates[number].delta) for number in missing}

        def keep(number: int) -> tuple[int, KeptPayload]:
            member, private = members[number], None
            payload, residual = self._encoded(member, state, sent[number], events)
            if self._residuals and residual:
                private = self._residuals.put(member, state, residual, batch)
            return number, KeptPayload(member.keep(payload, batch), len(payload), private)

        with self._progress.timed("encode"), Batch() as batch:
            kept = dict(self._updates.in_threads(keep, missing))
        self.kept |= kept  # on disk by now
        return events

    def _encoded(self, member: Member, state: TaskState, sent: Adapter, events: Events) -> tuple[bytes, Adapter | None]:
        """The bytes of what the member sends, and what encoding lost of it."""
        residual: Adapter | None = None

        def encode(update: Adapter) -> bytes:
            nonlocal residual
            if not self._residuals:
                return self._format.encode(update)
            carried = self._carried(self._residuals, member, state, events)
            payload, residual = encode_with_feedback(self._format, self._shapes, update, carried)
            return payload

        return member.behaviour.payload(member.context(state), sent, encode), residual

    def _carried(self, residuals: Residuals, member: Member, state: TaskState, events: Events) -> Adapter | None:
        """The residual of the member's last update; None without one, or where it is lost."""
        try:
            return residuals.carried(member, self._hosting.host_of(member.silo), state)
        except ResidualLostError as lost:
            events.append(("residual_lost", {"epoch": state.epoch, "member": member.number, "why": str(lost)}))
            return None

    def keep_record(self, record: bytes) -> None:
        """Store an epoch's record, before it is signed, if residuals are to be found by it.

        Raises:
            StoreError: the store cannot be written.
        """
        if self._residuals:
            self._residuals.keep_record(record)

    def end_epoch(self) -> None:
        """Forget the epoch's payloads."""
        self.kept.clear()


def _sent(member: Member, state: TaskState, trained: Adapter) -> Adapter:
    """The update that the member sends for what it trained. Not in a thread: it may train and measure."""
    return member.behaviour.update(member.context(state), trained)
