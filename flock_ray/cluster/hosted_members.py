"""The members whose keys a worker holds: who may sign in the running epoch, and who has to sit it out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from flock_ray.cluster.member import Member
from flock_ray.cluster.signing import SigningBatch
from flock_ray.cluster.signing_log import SigningLog, by_member
from flock_ray.errors import StoreError
from flock_ray.protocol.hashing import ZERO
from flock_ray.protocol.inbox import Inbox
from flock_ray.protocol.state import TaskState
from flock_ray.store.batch import Batch
from flock_ray.store.blob_store import BlobStore

Events = list[tuple[str, Mapping[str, object]]]

LOST = "its folder is gone and the store has no entry of it"
HIDDEN = "it signed a message that neither its folder nor the store has an entry of"
ANOTHER_UPDATE = "its update came out other than the one that it committed to"
UNREPEATABLE = "the message that it signed before is no longer in the store"


class HostedMembers:
    """Members of the logical hosts that a worker carries, with what each signed in the running epoch.

    A process that took up a member reads that member's entries before the member signs: its folder may be gone, or old.
    A member that cannot know what it signed sits the epoch out, so that it never signs two things.

    Attributes:
        members: {number: member}; the same object for good, since others look members up in it.
        sitting_out: {number: why it signs nothing more in this epoch}.
    """

    def __init__(self, store: BlobStore, open_member: Callable[[int], Member]) -> None:
        """Nobody yet.

        Args:
            store: where entries are kept.
            open_member: opens a member by its number.
        """
        self._store, self._open_member = store, open_member
        self._hosts: dict[int, tuple[int, ...]] = {}
        self._host_of: dict[int, int] = {}
        self._logs: dict[int, SigningLog] = {}
        self._unread: set[int] = set()
        self._restored: set[int] = set()  # in the running epoch
        self._epoch: tuple[bytes, int, bytes] | None = None
        self._events: Events = []
        self.members: dict[int, Member] = {}
        self.sitting_out: dict[int, str] = {}

    def assign(self, hosts: Mapping[int, tuple[int, ...]]) -> None:
        """Carry these logical hosts, {number: members}, and no others."""
        self._hosts = dict(hosts)
        self._host_of = {member: host for host, members in hosts.items() for member in members}
        for number in self.members.keys() - self._host_of.keys():
            del self.members[number]
        for number in sorted(self._host_of.keys() - self.members.keys()):
            self.members[number] = self._open_member(number)
            self._unread.add(number)

    def join(self, task: bytes) -> None:
        """Note, in folders and store, that the members join a task."""
        for host in self._hosts:
            log = SigningLog(self._store, task, 0, ZERO, host)
            known = self._joined(task, log)
            with Batch() as batch:
                entries = [m.joining(task, batch) for m in self._of_host(host) if m.number not in known]
                if entries:
                    log.append(entries, batch)

    def open_epoch(self, state: TaskState, anew: bool) -> None:
        """Begin an epoch.

        Args:
            state: of the epoch.
            anew: whether it may have been begun before, here or elsewhere: everybody's entries are read.
        """
        if self.sitting_out and not anew:
            self.join(state.scope.task)  # what it signs from now on is known
        epoch = state.scope.task, state.epoch, state.seed
        if epoch != self._epoch:
            self._epoch, self.sitting_out, self._restored = epoch, {}, set()
        self._logs = {}
        if anew:
            self._unread = set(self.members)
        self._restore(state)

    def _restore(self, state: TaskState) -> None:
        """Read the entries of members that were taken up."""
        task, epoch, seed = state.scope.task, state.epoch, state.seed
        for host in self._hosts:
            unread = [member for member in self._of_host(host) if member.number in self._unread]
            if unread or host not in self._logs:
                self._logs[host] = SigningLog(self._store, task, epoch, seed, host)
            if not unread:
                continue
            entries = by_member(self._logs[host].read())
            if ignored := self._logs[host].num_ignored:
                self._events.append(("entries_ignored", {"epoch": epoch, "host": host, "segments": ignored}))
            lost = [member for member in unread if not member.joined(task)]
            joined = self._joined(task, SigningLog(self._store, task, 0, ZERO, host)) if lost else set()
            for member in unread:
                if member in lost and member.number not in joined:
                    self.sit_out(state, member.number, LOST)
                    continue
                if member in lost:
                    self._events.append(("folder_restored", {"epoch": epoch, "member": member.number}))
                    with Batch() as batch:
                        member.joining(task, batch)
                member.restore(state, entries.get(member.number, ()))
        self._restored |= self._unread
        self._unread = set()

    def _of_host(self, host: int) -> list[Member]:
        return [self.members[number] for number in self._hosts[host] if number in self.members]

    def _joined(self, task: bytes, log: SigningLog) -> set[int]:
        """Members whose entry of having joined a task is in the log of epoch 0."""
        return {
            entry.member
            for entry in log.read()
            if (member := self.members.get(entry.member)) and member.owns(entry, task, 0, ZERO)
        }

    def host_of(self, number: int) -> int:
        """Logical host of a member."""
        return self._host_of[number]

    def active(self, number: int) -> Member | None:
        """A member that may sign in this epoch; None when it is not hosted here or sits the epoch out."""
        return None if number in self.sitting_out else self.members.get(number)

    def sit_out(self, state: TaskState, number: int, why: str) -> None:
        """Have a member sign nothing more in the epoch of `state`."""
        if number not in self.sitting_out:
            self.sitting_out[number] = why
            self._events.append(("sat_out", {"epoch": state.epoch, "member": number, "why": why}))

    def look_for_own(self, state: TaskState, inbox: Inbox) -> None:
        """Whoever was taken up in this epoch and finds its own message without an entry of it sits the epoch out."""
        if not self._restored:
            return
        for message in inbox.messages:
            member = self.active(message.member) if message.member in self._restored else None
            if member and message.kind not in member.signed(state):
                self.sit_out(state, message.member, HIDDEN)

    @contextmanager
    def signing(self, state: TaskState) -> Iterator[SigningBatch]:
        """A batch of messages to be signed; who cannot repeat what it signed before sits the epoch out."""
        self._restore(state)
        batch = SigningBatch(state, self._store, self._host_of.__getitem__, self._logs)
        try:
            with batch:
                yield batch
        except StoreError:
            self._logs, self._unread = {}, set(self.members)  # whether entries were written is not known
            raise
        for number, kind in batch.repeated:
            self._events.append(("repeated", {"epoch": state.epoch, "member": number, "message": kind}))
        for number, _ in batch.unrepeatable:
            self.sit_out(state, number, UNREPEATABLE)

    def take_events(self) -> Events:
        """What happened since the last call."""
        taken, self._events = self._events, []
        return taken
