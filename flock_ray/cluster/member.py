"""A member in the process that hosts it: its key, its secrets, what it signed. Nothing leaves it but signatures."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from flock_ray.adversary.behaviour import Behaviour, Context, World
from flock_ray.chain.eip712 import Domain, message_digest, report_digest, report_hash
from flock_ray.chain.epoch_report import Report
from flock_ray.chain.keys import Signer
from flock_ray.cluster.attestation import AnyMessage
from flock_ray.cluster.signing_log import SigningEntry
from flock_ray.cluster.slashing_protection import SlashingProtection
from flock_ray.errors import ProtocolError
from flock_ray.protocol.encoding import canonical_json
from flock_ray.protocol.hashing import ZERO, sha256, tagged
from flock_ray.protocol.message import SignedMessage
from flock_ray.protocol.seed import HashChain
from flock_ray.protocol.state import TaskState
from flock_ray.store.batch import Batch
from flock_ray.store.blob_store import BlobStore

JOINED = "joined"
"""Kind of the entry, of epoch 0, that a member makes before it joins a task: its digest is the hash chain's tip."""


def hash_chain(signer: Signer, task: bytes, reveals: int) -> HashChain:
    """An account's chain of that many reveals for a task."""
    return HashChain(tagged("flock_ray/chain-root/1", signer.secret("hash chain"), task), reveals)


def salt_of(signer: Signer, task: bytes, epoch: int, seed: bytes, purpose: str) -> bytes:
    """32 secret bytes of an account for one purpose in an epoch with this seed."""
    return tagged("flock_ray/salt/1", signer.secret("salts"), task, epoch, seed, sha256(purpose.encode()))


class Member:
    """Signs what its owner's process computed, one digest for each kind of message and epoch, and only what is stored.

    Attributes:
        silo: number of its data and of its key.
        number: of the member in the task; -1 before it is one.
        numbers: {silo: its member} of all members of the run.
        signer: the member's account.
        behaviour: how it behaves in this simulation; the base class is honest.
        world: what its behaviour can look up or compute.
    """

    world: World | None = None

    def __init__(self, silo: int, signer: Signer, folder: Path, behaviour: Behaviour, reveals: int) -> None:
        """Open the member's private folder.

        Args:
            silo: number of its data and of its key.
            signer: the member's account.
            folder: private to this member: its slashing protection, and the payloads that it committed to.
            behaviour: of the member.
            reveals: length of its hash chains.
        """
        self.silo, self.number, self.numbers = silo, -1, dict[int, int]()
        self.signer = signer
        self.behaviour = behaviour
        self._protection = SlashingProtection(folder)
        self._vault = BlobStore(str(folder / "vault"))
        self._reveals = reveals
        self._cipher = AESSIV(signer.secret("entries") + signer.secret("entries, second half"))
        self._epoch: tuple[bytes, int, bytes] | None = None  # that the next two are of
        self._entries: dict[str, bytes] = {}
        self._private: dict[str, bytes] = {}
        self._withheld: set[str] = set()

    def context(self, state: TaskState) -> Context:
        """What its behaviour knows in the epoch of `state`."""
        return self.behaviour.context(state, self.number, self.numbers, self.world)

    def hash_chain(self, task: bytes) -> HashChain:
        """The member's chain of reveals for a task."""
        return hash_chain(self.signer, task, self._reveals)

    def salt(self, state: TaskState, purpose: str) -> bytes:
        """32 secret bytes for one purpose in the epoch of `state`; the same when asked again."""
        return salt_of(self.signer, state.scope.task, state.epoch, state.seed, purpose)

    def keep(self, data: bytes, batch: Batch) -> bytes:
        """Store bytes privately, before anything that commits to them is signed; returns their SHA-256."""
        return self._vault.put(data, batch)

    def kept(self, digest: bytes) -> Path:
        """Where bytes of this hash are kept, if they are."""
        return self._vault.path_of(digest)

    # -- what it alone can read -----------------------------------------------------------------------------------

    def seal(self, state: TaskState, purpose: str, data: bytes) -> bytes:
        """Bytes that only this member can open, for the epoch of `state`; equal data give equal bytes."""
        return self._seal(state.scope.task, state.epoch, state.seed, purpose, data)

    def unseal(self, task: bytes, epoch: int, seed: bytes, purpose: str, sealed: bytes) -> bytes | None:
        """What `seal` was given for this epoch and purpose; None if these bytes are of something else."""
        try:
            return self._cipher.decrypt(sealed, [_place(task, epoch, seed, purpose)])
        except (InvalidTag, ValueError):
            return None

    def told(
        self, task: bytes, epoch: int, seed: bytes, kind: str, entries: Iterable[SigningEntry]
    ) -> Mapping[str, Any] | None:
        """What was recorded as private with a message of an earlier epoch; None if no entry is of that message."""
        for entry in entries:
            if entry.kind == kind and (opened := self._open(task, epoch, seed, entry)):
                return dict(json.loads(opened[32:])) if opened[32:] else {}
        return None

    # -- what it signed ------------------------------------------------------------------------------------------

    def joined(self, task: bytes) -> bool:
        """Whether the folder knows that the member joined a task; if not, it is new or was lost."""
        return JOINED in self._protection.signed(task, 0, ZERO)

    def joining(self, task: bytes, batch: Batch) -> SigningEntry:
        """Note that the member joins a task; the entry that says so in the store."""
        tip = self.hash_chain(task).tip
        self._protection.record(task, 0, ZERO, JOINED, tip, batch)
        return SigningEntry(self.silo, JOINED, self._seal(task, 0, ZERO, JOINED, tip))

    def owns(self, entry: SigningEntry, task: bytes, epoch: int, seed: bytes) -> bool:
        """Whether this member wrote an entry, for this very epoch."""
        return self._open(task, epoch, seed, entry) is not None

    def restore(self, state: TaskState, entries: Iterable[SigningEntry]) -> None:
        """Take up what the member signed in the epoch of `state`, by its entries in the store."""
        task, epoch, seed = self._of_epoch(state)
        for entry in entries:
            if opened := self._open(task, epoch, seed, entry):
                self._remember(entry.kind, opened)

    def record(
        self, state: TaskState, kind: str, digest: bytes, private: Mapping[str, Any] | None, batch: Batch
    ) -> SigningEntry | None:
        """Note what is to be signed once `batch` is left; returns its entry for the store, None if it is there.

        Args:
            state: of the epoch.
            kind: of message, or `report`.
            digest: that is to be signed.
            private: what the member says later by this message: the ballot that a commitment commits to.
            batch: that writes to the member's folder.

        Raises:
            ProtocolError: another digest was signed.
        """
        task, epoch, seed = self._of_epoch(state)
        if self._entries.get(kind, digest) != digest:
            raise ProtocolError(
                f"refusing to sign a second {kind} of epoch {epoch}: member {self.number}'s entry in the store holds"
                " another digest"
            )
        self._protection.record(task, epoch, seed, kind, digest, batch)
        if kind in self._entries:
            return None
        opened = digest + (canonical_json(private) if private else b"")
        self._remember(kind, opened)
        return SigningEntry(self.silo, kind, self._seal(task, epoch, seed, kind, opened))

    def forget(self) -> None:
        """Forget what was to be signed: it was not stored."""
        self._epoch = None

    def private(self, state: TaskState, kind: str) -> Mapping[str, Any] | None:
        """What was recorded as private with a message of this kind; None if the member has no such entry."""
        self._of_epoch(state)
        data = self._private.get(kind)
        return dict(json.loads(data)) if data else None

    def signed(self, state: TaskState) -> dict[str, bytes]:
        """{kind: digest} of what the member signed in the epoch of `state`, by its folder and its entries."""
        place = self._of_epoch(state)
        return self._protection.signed(*place) | self._entries

    def withhold(self, state: TaskState, kind: str) -> None:
        """Note that it does not send a message of this kind: that others lack it is no reason not to sign a record."""
        self._of_epoch(state)
        self._withheld.add(kind)

    def sent(self, state: TaskState) -> dict[str, bytes]:
        """As `signed`, without what it withheld and without reports."""
        kept_back = {"report", *self._withheld}
        return {kind: digest for kind, digest in self.signed(state).items() if kind not in kept_back}

    def sign(self, message: AnyMessage, state: TaskState, domain: Domain) -> SignedMessage:
        """Sign a message of the epoch of `state` that was recorded."""
        assert message.member == self.number and self.signed(state)[message.kind] == message.digest
        return self.sign_unrecorded(message, state, domain)

    def sign_unrecorded(self, message: AnyMessage, state: TaskState, domain: Domain) -> SignedMessage:
        """Sign whatever a dishonest member wants to have said."""
        digest = message_digest(domain, message.task, message.epoch, state.seed, message.kind, message.digest)
        return SignedMessage(message.data, self.signer.sign_digest(digest))

    def sign_report(self, report: Report, state: TaskState, domain: Domain) -> bytes:
        """Sign a report that was recorded: 65 bytes."""
        assert self.signed(state)["report"] == report_hash(report)
        return self.signer.sign_digest(report_digest(domain, report))

    def _of_epoch(self, state: TaskState) -> tuple[bytes, int, bytes]:
        """The epoch of `state`; entries of another one are forgotten."""
        place = state.scope.task, state.epoch, state.seed
        if place != self._epoch:
            self._epoch, self._entries, self._private, self._withheld = place, {}, {}, set()
        return place

    def _remember(self, kind: str, opened: bytes) -> None:
        self._entries[kind] = opened[:32]
        self._private[kind] = opened[32:]

    def _seal(self, task: bytes, epoch: int, seed: bytes, kind: str, data: bytes) -> bytes:
        return self._cipher.encrypt(data, [_place(task, epoch, seed, kind)])

    def _open(self, task: bytes, epoch: int, seed: bytes, entry: SigningEntry) -> bytes | None:
        opened = self.unseal(task, epoch, seed, entry.kind, entry.sealed)
        return opened if opened is not None and len(opened) >= 32 else None


def _place(task: bytes, epoch: int, seed: bytes, kind: str) -> bytes:
    return tagged("flock_ray/entry/1", task, epoch, seed, sha256(kind.encode()))
