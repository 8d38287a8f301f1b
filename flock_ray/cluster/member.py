"""A member in the process that hosts it: its key, its secrets, its journal. Nothing here leaves but signatures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flock_ray.adversary.attack import Attack
from flock_ray.chain.eip712 import Domain, message_digest, report_digest, report_hash
from flock_ray.chain.epoch_report import Report
from flock_ray.chain.keys import Signer
from flock_ray.cluster.slashing_protection import SlashingProtection
from flock_ray.protocol.encoding import canonical_json
from flock_ray.protocol.hashing import sha256, tagged
from flock_ray.protocol.message import Message, SignedMessage
from flock_ray.protocol.seed import HashChain
from flock_ray.protocol.state import TaskState
from flock_ray.store.batch import Batch
from flock_ray.store.blob_store import BlobStore


class Member:
    """Signs what its owner's process computed, each place once, and only what the disk holds already.

    Attributes:
        number: registration number.
        signer: the member's account.
        attack: how it behaves in this simulation; the base class `Attack` is honest.
    """

    def __init__(self, number: int, signer: Signer, folder: Path, attack: Attack, reveals: int) -> None:
        """Open the member's private folder.

        Args:
            number: registration number.
            signer: the member's account.
            folder: private to this member: its journal, and what it commits to before others may see it.
            attack: behaviour.
            reveals: length of its hash chains.
        """
        self.number = number
        self.signer = signer
        self.attack = attack
        self._folder = folder
        self._protection = SlashingProtection(folder)
        self._vault = BlobStore(str(folder / "vault"))
        self._reveals = reveals

    def hash_chain(self, task: bytes) -> HashChain:
        """The member's chain of reveals for a task."""
        return HashChain(tagged("flock_ray/chain-root/1", self.signer.secret("hash chain"), task), self._reveals)

    def salt(self, state: TaskState, purpose: str) -> bytes:
        """32 secret bytes for one purpose in the epoch of `state`; the same when asked again."""
        secret = self.signer.secret("salts")
        return tagged("flock_ray/salt/1", secret, state.scope.task, state.epoch, state.seed, sha256(purpose.encode()))

    def seal(self, state: TaskState, kind: str, body: Mapping[str, Any], batch: Batch) -> None:
        """Keep what is committed to now and revealed later, so that the reveal says the same whatever came between."""
        batch.write(self._sealed(state, kind), canonical_json(body))

    def sealed(self, state: TaskState, kind: str) -> Mapping[str, Any] | None:
        """What was sealed; None on a machine that never had it."""
        path = self._sealed(state, kind)
        return dict(json.loads(path.read_bytes())) if path.exists() else None

    def _sealed(self, state: TaskState, kind: str) -> Path:
        return self._folder / f"sealed-{state.epoch}-{state.seed.hex()[:16]}-{kind}.json"

    def keep(self, data: bytes, batch: Batch) -> bytes:
        """Store bytes privately, before anything that commits to them is signed; returns their SHA-256."""
        return self._vault.put(data, batch)

    def kept(self, digest: bytes) -> Path:
        """Where bytes of this hash are kept, if they are."""
        return self._vault.path_of(digest)

    def note(self, kind: str, digest: bytes, state: TaskState, batch: Batch) -> None:
        """Write to the journal what is to be signed once `batch` is left.

        Raises:
            ProtocolError: the member signed something else in this place before.
        """
        self._protection.record(state.scope.task, state.epoch, state.seed, kind, digest, batch)

    def sign(self, message: Message, state: TaskState, domain: Domain) -> SignedMessage:
        """Sign a message of the epoch of `state` that the journal holds."""
        assert message.member == self.number and self.signed(state)[message.kind] == message.digest
        digest = message_digest(domain, message.task, message.epoch, state.seed, message.kind, message.digest)
        return SignedMessage(message.data, self.signer.sign_digest(digest))

    def sign_report(self, report: Report, state: TaskState, domain: Domain) -> bytes:
        """Sign a report that the journal holds: 65 bytes."""
        assert self.signed(state)["report"] == report_hash(report)
        return self.signer.sign_digest(report_digest(domain, report))

    def signed(self, state: TaskState) -> dict[str, bytes]:
        """{kind: digest} of what the member signed in the epoch of `state`."""
        return self._protection.signed(state.scope.task, state.epoch, state.seed)
