"""A member in the process that hosts it: its key, its secrets, its journal. Nothing here leaves but signatures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flock_ray.adversary.attack import Attack
from flock_ray.chain.eip712 import Domain, message_digest, report_digest, report_hash
from flock_ray.chain.keys import Signer
from flock_ray.chain.settlement import Report
from flock_ray.cluster.journal import Journal
from flock_ray.protocol.encoding import canonical_json
from flock_ray.protocol.hashing import sha256, tagged
from flock_ray.protocol.message import Message, SignedMessage
from flock_ray.protocol.seed import HashChain
from flock_ray.protocol.state import TaskState
from flock_ray.store.blob_store import BlobStore
from flock_ray.telemetry.summary import write_text


class Member:
    """Signs what its owner's process computed, each place once.

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
            folder: private to this member: journal and the blobs that it signed.
            attack: behaviour.
            reveals: length of its hash chains.
        """
        self.number = number
        self.signer = signer
        self.attack = attack
        self._folder = folder
        self._journal = Journal(folder)
        self._vault = BlobStore(str(folder / "vault"))
        self._reveals = reveals

    def hash_chain(self, task: bytes) -> HashChain:
        """The member's chain of reveals for a task."""
        return HashChain(tagged("flock_ray/chain-root/1", self.signer.secret("hash chain"), task), self._reveals)

    def salt(self, state: TaskState, purpose: str) -> bytes:
        """32 secret bytes for one purpose in the epoch of `state`; the same when asked again."""
        secret = self.signer.secret("salts")
        return tagged("flock_ray/salt/1", secret, state.scope.task, state.epoch, state.seed, sha256(purpose.encode()))

    def seal(self, state: TaskState, kind: str, body: Mapping[str, Any]) -> None:
        """Keep what is committed to now and revealed later, so that the reveal says the same whatever came between."""
        write_text(self._sealed(state, kind), canonical_json(body).decode())

    def sealed(self, state: TaskState, kind: str) -> Mapping[str, Any] | None:
        """What was sealed; None on a machine that never had it."""
        path = self._sealed(state, kind)
        return dict(json.loads(path.read_bytes())) if path.exists() else None

    def _sealed(self, state: TaskState, kind: str) -> Path:
        return self._folder / f"sealed-{state.epoch}-{state.seed.hex()[:16]}-{kind}.json"

    def keep(self, data: bytes) -> None:
        """Store bytes privately, before anything that commits to them is signed."""
        self._vault.put(data)

    def sign(self, message: Message, seed: bytes, domain: Domain) -> SignedMessage:
        """Store, journal and sign a message of the epoch that has this seed."""
        assert message.member == self.number
        self._vault.put(message.data)
        self._journal.record(message.task, message.epoch, seed, message.kind, message.digest)
        digest = message_digest(domain, message.task, message.epoch, seed, message.kind, message.digest)
        return SignedMessage(message.data, self.signer.sign_digest(digest))

    def sign_report(self, report: Report, domain: Domain) -> bytes:
        """Journal and sign a report: 65 bytes."""
        self._journal.record(report.task, report.epoch, report.seed, "report", report_hash(report))
        return self.signer.sign_digest(report_digest(domain, report))

    def signed(self, state: TaskState) -> dict[str, bytes]:
        """{kind: digest} of what the member signed in the epoch of `state`."""
        return self._journal.signed(state.scope.task, state.epoch, state.seed)
