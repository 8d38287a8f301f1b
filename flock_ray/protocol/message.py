"""What members send: canonical JSON with a schema version, signed with EIP-712 over its SHA-256.

The signature itself (and its check) belongs to the chain layer; this module says what the bytes are and reads hostile
ones. A message that does not parse here is dropped, and nobody is slashed for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property, wraps
from typing import Annotated, Any, Literal, Self, TypeVar

import msgspec

from flock_ray.protocol.encoding import Json, canonical_json, from_hex, parse_canonical, to_hex
from flock_ray.protocol.hashing import sha256

SCHEMA = "flock_ray/message/3"
MAX_BYTES = 1 << 20


class Kind(StrEnum):
    """Kinds of messages, in the order of an epoch."""

    COMMITMENT = "commitment"
    ACKNOWLEDGEMENT = "acknowledgement"
    MANIFEST = "manifest"
    BALLOT_A_COMMITMENT = "ballot_a_commitment"
    BALLOT_A = "ballot_a"
    BALLOT_B_COMMITMENT = "ballot_b_commitment"
    BALLOT_B = "ballot_b"


ORDER = {kind: index for index, kind in enumerate(Kind)}


Digest = Annotated[str, msgspec.Meta(min_length=66, max_length=66)]
"""Text of 32 bytes in a body; `from_hex` checks its digits."""

Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
"""Counts and registration numbers in a body."""


class _Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    schema: Literal["flock_ray/message/3"]
    kind: Kind
    task: Digest
    epoch: Count
    member: Count
    body: dict[str, Any]


@dataclass(frozen=True)
class Message:
    """One statement of one member about one epoch.

    Attributes:
        kind: what it is.
        task: 32 bytes.
        epoch: 1-based.
        member: registration number of the sender.
        body: content by kind, canonical JSON.
    """

    kind: Kind
    task: bytes
    epoch: int
    member: int
    body: Mapping[str, Any]

    @cached_property
    def data(self) -> bytes:
        """The canonical bytes: what is stored and signed."""
        value: Json = {
            "schema": SCHEMA,
            "kind": str(self.kind),
            "task": to_hex(self.task),
            "epoch": self.epoch,
            "member": self.member,
            "body": self.body,
        }
        return canonical_json(value)

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the canonical bytes: the message's name, and what its signature covers."""
        return sha256(self.data)

    @cached_property
    def sort_key(self) -> tuple[int, int, bytes]:
        """The canonical order of an epoch's messages, whatever order they arrived in."""
        return ORDER[self.kind], self.member, self.digest

    @classmethod
    def parse(cls, data: bytes) -> Message:
        """Read the bytes of a peer.

        Raises:
            ValueError: not a message of this schema.
        """
        value = parse_canonical(data, MAX_BYTES)
        try:
            read = msgspec.convert(value, _Envelope)
        except msgspec.ValidationError as error:
            raise ValueError(f"not a message: {error}") from None
        message = cls(read.kind, from_hex(read.task), read.epoch, read.member, read.body)
        message.__dict__["data"] = data  # canonical already: saves the property from encoding them again
        return message


@dataclass(frozen=True)
class SignedMessage:
    """A message's canonical bytes and the 65-byte signature of its sender."""

    data: bytes
    signature: bytes


T = TypeVar("T")


def read_once(read: Callable[[Message], T]) -> Callable[[Message], T]:
    """Cache what a body reader returns in the message, so that each body is read once."""
    name = read.__name__

    @wraps(read)
    def cached(message: Message) -> T:
        if name not in message.__dict__:
            message.__dict__[name] = read(message)
        content: T = message.__dict__[name]
        return content

    return cached


def is_count(value: object) -> bool:
    """Whether `value` is an integer in [0, 2^63) and not a bool."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


class Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Content of a message as it travels: exactly these fields, of exactly these types."""

    @classmethod
    def of(cls, message: Message) -> Self:
        """The content of a message whose bytes are canonical.

        Raises:
            ValueError: it is another; the text says where.
        """
        try:
            return msgspec.convert(message.body, cls)
        except msgspec.ValidationError as error:
            raise ValueError(f"{message.kind}: {error}") from None


class CommitmentBody(Body, frozen=True):
    """Of a `commitment`, or of a ballot's."""

    commitment: Digest


class AcknowledgementBody(Body, frozen=True):
    """Of an `acknowledgement`."""

    commitments: tuple[Digest, ...]


class ManifestBody(Body, frozen=True):
    """Of a `manifest`."""

    base_model: Digest
    global_adapter: Digest
    configuration: Digest
    samples: Digest
    steps: Count
    payload: Digest
    salt: Digest


@read_once
def read_commitment(message: Message) -> bytes:
    """The 32-byte commitment of a `commitment` or a ballot's commitment.

    Raises:
        ValueError: the body is malformed.
    """
    return from_hex(CommitmentBody.of(message).commitment)


@read_once
def read_acknowledgement(message: Message) -> tuple[bytes, ...]:
    """Digests (32 bytes each) of the commitment messages that a voter holds, ascending and distinct.

    Raises:
        ValueError: the body is malformed.
    """
    digests = tuple(map(from_hex, AcknowledgementBody.of(message).commitments))
    if list(digests) != sorted(set(digests)):
        raise ValueError("listed commitments ascend")
    return digests


@dataclass(frozen=True)
class Manifest:
    """A proposer's description of its update.

    Attributes:
        base_model: hash of the frozen base model.
        global_adapter: hash of the adapter that training started from.
        configuration: hash of the configuration that shapes the training, as in `Terms.configuration`.
        samples: salted digest of the ids of the samples used.
        steps: local steps taken.
        payload: SHA-256 of the encoded update.
        salt: opens the commitment to the payload.
    """

    base_model: bytes
    global_adapter: bytes
    configuration: bytes
    samples: bytes
    steps: int
    payload: bytes
    salt: bytes

    def body(self) -> dict[str, Json]:
        """The message body."""
        return {name: to_hex(value) if isinstance(value, bytes) else value for name, value in vars(self).items()}


@read_once
def read_manifest(message: Message) -> Manifest:
    """The manifest in a `manifest` message.

    Raises:
        ValueError: the body is malformed.
    """
    body = ManifestBody.of(message)
    return Manifest(
        base_model=from_hex(body.base_model),
        global_adapter=from_hex(body.global_adapter),
        configuration=from_hex(body.configuration),
        samples=from_hex(body.samples),
        steps=body.steps,
        payload=from_hex(body.payload),
        salt=from_hex(body.salt),
    )
