"""The members whose keys a worker holds: who may sign in the running epoch, and who has to sit it out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager

from flock_ray.cluster.member import Member
from flock_ray.cluster.running_task import RunningTask
from flock_ray.cluster.signing import SigningBatch
from flock_ray.cluster.signing_log import SigningLog, by_silo
from flock_ray.errors import ProtocolError, StoreError
from flock_ray.protocol.contest_message import ContestInbox, ContestMessage
from flock_ray.protocol.hashing import ZERO
from flock_ray.protocol.inbox import Inbox
from flock_ray.protocol.message import Message
from flock_ray.protocol.state import TaskState
from flock_ray.store.batch import Batch
from flock_ray.store.blob_store import BlobStore

Events = list[tuple[str, Mapping[str, object]]]

LOST = "its folder is gone and the store has no entry of it"
HIDDEN = "it signed a message that neither its folder nor the store has an entry of"
ANOTHER_UPDATE = "its update came out other than the one that it committed to"
UNREPEATABLE = "the message that it signed before is no longer in the store"


class HostedMembers:
    """Owners of the silos that a worker carries, and what those that are members signed in the running epoch.

    A process that took up a member reads that member's entries before the member signs: its folder may be gone, or old.
    A member that cannot know what it signed sits the epoch out, so that it never signs two things.

    Attributes:
        owners: {silo: owner}, members of the task or not.
        members: {number: member}; the same object for good, since others look members up in it.
        sitting_out: {number: why it signs nothing more in this epoch}.
    """

    def __init__(
        self,
        store: BlobStore,
        open_member: Callable[[int], Member],
        message: type[Message] | type[ContestMessage] = Message,
    ) -> None:
        """Nobody yet.

        Args:
            store: where entries are kept.
            open_member: opens the owner of a silo.
            message: class of what they sign.
        """
        self._message = message
        self._store, self._open_member = store, open_member
        self._hosts: dict[int, tuple[int, ...]] = {}
        self._host_of: dict[int, int] = {}
        self._silos: Mapping[int, int] = {}  # of all members of the run, here or elsewhere
        self._logs: dict[int, SigningLog] = {}
        self._unread: set[int] = set()
        self._restored: set[int] = set()  # silos, in the running epoch
        self._epoch: tuple[bytes, int, bytes] | None = None
        self._events: Events = []
        self.owners: dict[int, Member] = {}
        self.members: dict[int, Member] = {}
        self.sitting_out: dict[int, str] = {}

    def assign(self, hosts: Mapping[int, tuple[int, ...]]) -> None:
        """Carry these logical hosts, {number: silos}, and no others."""
        self._hosts = dict(hosts)
        self._host_of = {silo: host for host, silos in hosts.items() for silo in silos}
        for silo in self.owners.keys() - self._host_of.keys():
            del self.owners[silo]
        for silo in sorted(self._host_of.keys() - self.owners.keys()):
            self.owners[silo] = self._open_member(silo)
            self._unread.add(silo)
        self._number()

    def take_up(self, task: RunningTask) -> None:
        """Know which owners are members of a task.

        Raises:
            ProtocolError: a member has another account than the owner of its silo.
        """
        self._silos = task.silos
        self._number()
        for number, member in self.members.items():
            if task.state.members[number].account != member.signer.address:
                raise ProtocolError(f"member {number} of the task is not the owner of silo {member.silo}")

    def _number(self) -> None:
        self.members.clear()
        for owner in self.owners.values():
            owner.number = -1
        numbers = {silo: number for number, silo in self._silos.items()}
        for number, silo in self._silos.items():
            if silo in self.owners:
                self.members[number] = self.owners[silo]
                self.owners[silo].number, self.owners[silo].numbers = number, numbers

    def join(self, task: bytes, silos: Collection[int]) -> None:
        """Note, in folders and store, that the owners of these silos join a task."""
        for host in self._hosts:
            log = SigningLog(self._store, task, 0, ZERO, host)
            known = self._joined(task, log)
            joining = [owner for owner in self._of_host(host) if owner.silo in silos and owner.silo not in known]
            with Batch() as batch:
                entries = [owner.joining(task, batch) for owner in joining]
                if entries:
                    log.append(entries, batch)

    def open_epoch(self, state: TaskState, anew: bool) -> None:
        """Begin an epoch.

        Args:
            state: of the epoch.
            anew: whether it may have been begun before, here or elsewhere: everybody's entries are read.
        """
        if self.sitting_out and not anew:
            lost = [self.members[number].silo for number in self.sitting_out if number in self.members]
            self.join(state.scope.task, lost)  # what it signs from now on is known
        epoch = state.scope.task, state.epoch, state.seed
        if epoch != self._epoch:
            self._epoch, self.sitting_out, self._restored = epoch, {}, set()
        self._logs = {}
        if anew:
            self._unread = set(self.owners)
        self._restore(state)

    def _restore(self, state: TaskState) -> None:
        """Read the entries of members that were taken up."""
        task, epoch, seed = state.scope.task, state.epoch, state.seed
        for host in self._hosts:
            members = [member for member in self._of_host(host) if member.number in self.members]
            unread = [member for member in members if member.silo in self._unread]
            if unread or host not in self._logs:
                self._logs[host] = SigningLog(self._store, task, epoch, seed, host)
            if not unread:
                continue
            entries = by_silo(self._logs[host].read())
            if ignored := self._logs[host].num_ignored:
                self._events.append(("entries_ignored", {"epoch": epoch, "host": host, "segments": ignored}))
            lost = [member for member in unread if not member.joined(task)]
            joined = self._joined(task, SigningLog(self._store, task, 0, ZERO, host)) if lost else set()
            for member in unread:
                if member in lost and member.silo not in joined:
                    self.sit_out(state, member.number, LOST)
                    continue
                if member in lost:
                    self._events.append(("folder_restored", {"epoch": epoch, "member": member.number}))
                    with Batch() as batch:
                        member.joining(task, batch)
                member.restore(state, entries.get(member.silo, ()))
        self._restored |= self._unread
        self._unread = set()

    def _of_host(self, host: int) -> list[Member]:
        return [self.owners[silo] for silo in self._hosts[host] if silo in self.owners]

    def _joined(self, task: bytes, log: SigningLog) -> set[int]:
        """Silos whose owner's entry of having joined a task is in the log of epoch 0."""
        return {
            entry.silo
            for entry in log.read()
            if (owner := self.owners.get(entry.silo)) and owner.owns(entry, task, 0, ZERO)
        }

    def host_of(self, silo: int) -> int:
        """Logical host of a silo that is here."""
        return self._host_of[silo]

    def active(self, number: int) -> Member | None:
        """A member that may sign in this epoch; None when it is not hosted here or sits the epoch out."""
        return None if number in self.sitting_out else self.members.get(number)

    def sit_out(self, state: TaskState, number: int, why: str) -> None:
        """Have a member sign nothing more in the epoch of `state`."""
        if number not in self.sitting_out:
            self.sitting_out[number] = why
            self._events.append(("sat_out", {"epoch": state.epoch, "member": number, "why": why}))

    def look_for_own(self, state: TaskState, inbox: Inbox | ContestInbox) -> None:
        """Whoever was taken up in this epoch and finds its own message without an entry of it sits the epoch out."""
        if not self._restored:
            return
        for message in inbox.messages:
            member = self.active(message.member)
            if member and member.silo in self._restored and message.kind not in member.signed(state):
                self.sit_out(state, message.member, HIDDEN)

    @contextmanager
    def signing(self, state: TaskState) -> Iterator[SigningBatch]:
        """A batch of messages to be signed; who cannot repeat what it signed before sits the epoch out."""
        self._restore(state)
        batch = SigningBatch(state, self._store, self._host_of.__getitem__, self._logs, self._message)
        try:
            with batch:
                yield batch
        except StoreError:
            self._logs, self._unread = {}, set(self.owners)  # whether entries were written is not known
            raise
        for number, kind in batch.repeated:
            self._events.append(("repeated", {"epoch": state.epoch, "member": number, "message": kind}))
        for number, _ in batch.unrepeatable:
            self.sit_out(state, number, UNREPEATABLE)

    def take_events(self) -> Events:
        """What happened since the last call."""
        taken, self._events = self._events, []
        return taken
