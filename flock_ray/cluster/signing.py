"""Messages that the members of a worker sign together: stored, and noted by each of them, before one is signed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from types import TracebackType
from typing import Any, Self

from flock_ray.chain.eip712 import Domain
from flock_ray.cluster.member import Member
from flock_ray.cluster.signing_log import SigningEntry, SigningLog
from flock_ray.errors import ProtocolError
from flock_ray.protocol.contest_message import ContestMessage
from flock_ray.protocol.message import MAX_BYTES, Message, SignedMessage
from flock_ray.protocol.state import TaskState
from flock_ray.store.batch import Batch
from flock_ray.store.blob_store import BlobCorruptedError, BlobMissingError, BlobStore, BlobTooLargeError


class SigningBatch:
    """A context: what is added to it may be signed once it is left, and is in the store and the folders by then.

    Attributes:
        files: the batch that all is written in.
        repeated: (member, kind) whose message differs from what was signed before: that stands, and is sent again.
        unrepeatable: (member, kind) where that is no longer in the store: nothing is sent.
    """

    def __init__(
        self,
        state: TaskState,
        store: BlobStore,
        host_of: Callable[[int], int],
        logs: Mapping[int, SigningLog],
        message: type[Message] | type[ContestMessage] = Message,
    ) -> None:
        """Nothing to sign yet.

        Args:
            state: of the epoch.
            store: for messages.
            host_of: logical host of a silo.
            logs: {logical host: its signing log of the epoch}.
            message: class of the messages.
        """
        self._class: Any = message
        self._state, self._store, self._host_of, self._logs = state, store, host_of, logs
        self.files = Batch()
        self.repeated: list[tuple[int, str]] = []
        self.unrepeatable: list[tuple[int, str]] = []
        self._messages: list[tuple[Member, Any]] = []
        self._members: list[Member] = []
        self._entries: dict[int, list[SigningEntry]] = {}

    def add(
        self, member: Member, kind: StrEnum, body: Mapping[str, Any], private: Mapping[str, Any] | None = None
    ) -> None:
        """A message of a member, and what it keeps to itself for later; what it signed before instead, if it did."""
        state = self._state
        message = self._class(kind, state.scope.task, state.epoch, member.number, body)
        signed = member.signed(state).get(kind, message.digest)
        if signed != message.digest:
            try:
                message = self._class.parse(self._store.get(signed, MAX_BYTES))
            except (BlobMissingError, BlobTooLargeError, BlobCorruptedError):
                self.unrepeatable.append((member.number, kind))
                return
            self.repeated.append((member.number, kind))
            private = None  # it belongs to what was signed, and is in the entry of that
        try:
            self.record(member, kind, message.digest, private)
        except ProtocolError:  # folder and store tell of two
            self.unrepeatable.append((member.number, kind))
            return
        self._store.put(message.data, self.files)
        self._messages.append((member, message))

    def record(self, member: Member, kind: str, digest: bytes, private: Mapping[str, Any] | None = None) -> None:
        """A digest that a member signs.

        Raises:
            ProtocolError: it signed another one.
        """
        self._members.append(member)
        if entry := member.record(self._state, kind, digest, private, self.files):
            self._entries.setdefault(self._host_of(member.silo), []).append(entry)

    def sign(self, domain: Domain) -> list[SignedMessage]:
        """The messages, signed: after the context was left; of a dishonest member, what its behaviour makes of them.

        Raises:
            StoreError: what it says besides cannot be stored.
        """
        signed = []
        for member, message in self._messages:
            all_said = member.behaviour.messages(member.context(self._state), message)
            if message not in all_said:
                member.withhold(self._state, message.kind)
            for said in all_said:
                if said == message:
                    signed.append(member.sign(message, self._state, domain))
                else:
                    self._store.put(said.data)
                    signed.append(member.sign_unrecorded(said, self._state, domain))
        return signed

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stored = False
        try:
            with self.files:
                if error is not None:
                    raise error
                for host, entries in sorted(self._entries.items()):
                    self._logs[host].append(entries, self.files)
            stored = True
        finally:
            if not stored:
                for member in self._members:
                    member.forget()
