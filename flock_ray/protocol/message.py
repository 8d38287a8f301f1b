"""What members send: canonical JSON with a schema version, signed with EIP-712 over its SHA-256.

The signature itself (and its check) belongs to the chain layer; this module says what the bytes are and reads hostile
ones. A message that does not parse here is dropped, and nobody is slashed for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property, wraps
from typing import Any, TypeVar

from flock_ray.protocol.encoding import Json, canonical_json, from_hex, parse_canonical, to_hex
from flock_ray.protocol.hashing import sha256

SCHEMA = "flock_ray/message/2"
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
        if not isinstance(value, dict) or set(value) != {"schema", "kind", "task", "epoch", "member", "body"}:
            raise ValueError("not a message")
        if value["schema"] != SCHEMA:
            raise ValueError("unknown message schema")
        epoch, member, body = value["epoch"], value["member"], value["body"]
        if not is_count(epoch) or not is_count(member) or not isinstance(body, dict):
            raise ValueError("a message's epoch and member are counts and its body is an object")
        message = cls(Kind(value["kind"]), from_hex(value["task"]), epoch, member, body)
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


def body_fields(message: Message, *names: str) -> list[Any]:
    """Values of exactly these fields of a message's body, in this order.

    Raises:
        ValueError: a field is missing or there is another.
    """
    if set(message.body) != set(names):
        raise ValueError(f"a {message.kind} has the fields {', '.join(names)}")
    return [message.body[name] for name in names]


@read_once
def read_commitment(message: Message) -> bytes:
    """The 32-byte commitment of a `commitment` or a ballot's commitment.

    Raises:
        ValueError: the body is malformed.
    """
    (commitment,) = body_fields(message, "commitment")
    return from_hex(commitment)


@read_once
def read_acknowledgement(message: Message) -> tuple[bytes, ...]:
    """Digests (32 bytes each) of the commitment messages that a voter holds, ascending and distinct.

    Raises:
        ValueError: the body is malformed.
    """
    (listed,) = body_fields(message, "commitments")
    if not isinstance(listed, list):
        raise ValueError("commitments is a list")
    digests = tuple(from_hex(item) for item in listed)
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
        hashes = ("base_model", "global_adapter", "configuration", "samples", "payload", "salt")
        return {name: to_hex(getattr(self, name)) for name in hashes} | {"steps": self.steps}


@read_once
def read_manifest(message: Message) -> Manifest:
    """The manifest in a `manifest` message.

    Raises:
        ValueError: the body is malformed.
    """
    names = ("base_model", "global_adapter", "configuration", "samples", "steps", "payload", "salt")
    base, adapter, configuration, samples, steps, payload, salt = body_fields(message, *names)
    if not is_count(steps):
        raise ValueError("steps is a count")
    return Manifest(
        base_model=from_hex(base),
        global_adapter=from_hex(adapter),
        configuration=from_hex(configuration),
        samples=from_hex(samples),
        steps=steps,
        payload=from_hex(payload),
        salt=from_hex(salt),
    )
