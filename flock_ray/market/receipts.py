"""Receipts: what their hashes are of, and how they are signed and shown.

`prompt` is the SHA-256 of the canonical JSON (`protocol.encoding`) of what was asked: of a chat its messages as
`[{"content": …, "role": …}]`, of completions the list of prompts, of a RAG request its question, chat_history and
knowledge_source_id. `output` is the SHA-256 of the answer's UTF-8, and of several answers that of their hashes one
after the other. So whoever asked can compute both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from flock_ray.chain.eip712 import Domain, receipt_digest
from flock_ray.chain.keys import Signer
from flock_ray.chain.usage import SignedReceipt
from flock_ray.protocol.encoding import Json, canonical_json, to_hex
from flock_ray.protocol.hashing import sha256
from flock_ray.protocol.receipt import Receipt


def asked_hash(asked: Json) -> bytes:
    """Hash of what was asked."""
    return sha256(canonical_json(asked))


class OutputHash:
    """Hash of answers, as they grow."""

    def __init__(self, choices: int) -> None:
        """Of so many answers, all empty."""
        self._hashes = [hashlib.sha256() for _ in range(choices)]

    def add(self, choice: int, text: str) -> None:
        """An answer goes on."""
        self._hashes[choice].update(text.encode())

    def digest(self) -> bytes:
        """Of what was added so far."""
        first, *others = (each.digest() for each in self._hashes)
        return sha256(b"".join((first, *others))) if others else first


def receipt_signer(signer: Signer, domain: Domain) -> Callable[[Receipt], SignedReceipt]:
    """What signs receipts with a deployment's receipt key."""
    key = bytes.fromhex(signer.address[2:])

    def sign(receipt: Receipt) -> SignedReceipt:
        return SignedReceipt(receipt, key, signer.sign_digest(receipt_digest(domain, receipt)))

    return sign


def shown(signed: SignedReceipt | None) -> dict[str, Any] | None:
    """A receipt as answers have it, and as a batch's `receipts.jsonl` does."""
    if signed is None:
        return None
    return {
        "receipt": signed.receipt.as_json(), "key": to_hex(signed.key), "signature": to_hex(signed.signature)
    }  # fmt: skip
