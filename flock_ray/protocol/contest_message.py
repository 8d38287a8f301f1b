"""What takers of a contest send: canonical JSON with a schema version, one message per member, kind and day.

As in the alliance a message is signed over its SHA-256, and what does not parse here is dropped. A kind names its rung,
so that two honest messages of one day never look like an equivocation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from itertools import chain, pairwise
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from flock_ray.protocol.ballot import MAX_SCORE
from flock_ray.protocol.encoding import Json, canonical_json, from_hex, parse_canonical, to_hex
from flock_ray.protocol.hashing import sha256
from flock_ray.protocol.message import MAX_BYTES, AcknowledgementBody, Body, CommitmentBody, Count, Digest

SCHEMA = "flock_ray/contest_message/1"


class ContestKind(StrEnum):
    """Kinds of messages, in the order of a day."""

    COMMITMENT = "commitment"
    ACKNOWLEDGEMENT = "acknowledgement"
    MANIFEST = "manifest"
    GATE = "gate"
    RUNG_1_COMMITMENT = "rung_1_commitment"
    RUNG_1_BALLOT = "rung_1_ballot"
    RUNG_1_RESCORE = "rung_1_rescore"
    RUNG_2_COMMITMENT = "rung_2_commitment"
    RUNG_2_BALLOT = "rung_2_ballot"
    RUNG_2_RESCORE = "rung_2_rescore"
    RUNG_3_COMMITMENT = "rung_3_commitment"
    RUNG_3_BALLOT = "rung_3_ballot"
    RUNG_3_RESCORE = "rung_3_rescore"
    FINAL_COMMITMENT = "final_commitment"
    FINAL_BALLOT = "final_ballot"
    FINAL_RESCORE = "final_rescore"


_ORDER = {kind: index for index, kind in enumerate(ContestKind)}


class Finding(StrEnum):
    """What the gate found of a payload, before anything of it was loaded; all but `valid` refuse it."""

    VALID = "valid"
    UNAVAILABLE = "unavailable"
    MALFORMED = "malformed"
    NOT_FINITE = "not_finite"
    TOO_LARGE = "too_large"
    WRONG_KEYS = "wrong_keys"
    WRONG_SHAPES = "wrong_shapes"


class ManifestBody(Body, frozen=True):
    """Of a `manifest`: opens a node's commitment."""

    base_model: Digest
    payload: Digest
    salt: Digest


class FindingBody(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """The gate's finding on a payload: `[payload, finding, earliest submission within the copy distance]`."""

    payload: Digest
    finding: Finding
    copy_of: Digest | None


class GateBody(Body, frozen=True):
    """Of a `gate`; findings ascend by payload."""

    findings: tuple[FindingBody, ...]


RowLoss = Annotated[int, msgspec.Meta(ge=0, le=MAX_SCORE)]


class BallotBody(Body, frozen=True):
    """Of a rung's ballot.

    Attributes:
        contenders: digest of the payloads in the order of the columns.
        columns: for each contender its loss on each of the rung's rows, micro-nats; None where it could not be had.
        salt: opens the commitment.
        reveal: preimage of the sender's hash chain, in the day's last rung only.
    """

    contenders: Digest
    columns: tuple[tuple[RowLoss, ...] | None, ...]
    salt: Digest
    reveal: Digest | None


class CellBody(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A loss that was computed again: `[column, position of the row, micro-nats]`."""

    column: Count
    row: Count
    loss: RowLoss


class RescoreBody(Body, frozen=True):
    """Of a rung's re-score; cells ascend by column and row."""

    cells: tuple[CellBody, ...]


def _body_class(kind: ContestKind) -> type[Body]:
    named: dict[ContestKind, type[Body]] = {
        ContestKind.ACKNOWLEDGEMENT: AcknowledgementBody,
        ContestKind.MANIFEST: ManifestBody,
        ContestKind.GATE: GateBody,
    }
    if kind in named:
        return named[kind]
    return BallotBody if kind.endswith("_ballot") else RescoreBody if kind.endswith("_rescore") else CommitmentBody


class _Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    schema: Literal["flock_ray/contest_message/1"]
    kind: ContestKind
    task: Digest
    epoch: Count
    member: Count
    body: dict[str, Any]


B = TypeVar("B", bound=Body)


@dataclass(frozen=True)
class ContestMessage:
    """One statement of one member about one day.

    Attributes:
        kind: what it is.
        task: 32 bytes.
        epoch: the day, 1-based.
        member: registration number of the sender.
        body: content by kind, canonical JSON.
    """

    kind: ContestKind
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
        """The canonical order of a day's messages, whatever order they arrived in."""
        return _ORDER[self.kind], self.member, self.digest

    @cached_property
    def content(self) -> Body:
        """The body as the class of its kind.

        Raises:
            ValueError: it is another, or its lists do not ascend.
        """
        try:
            content = msgspec.convert(self.body, _body_class(self.kind))
        except msgspec.ValidationError as error:
            raise ValueError(f"{self.kind}: {error}") from None
        _check(content)
        return content

    def read(self, body: type[B]) -> B:
        """The content, of the class that the caller knows it to be."""
        content = self.content
        assert isinstance(content, body)
        return content

    @classmethod
    def parse(cls, data: bytes) -> ContestMessage:
        """Read the bytes of a peer, its body too.

        Raises:
            ValueError: not a message of this schema.
        """
        value = parse_canonical(data, MAX_BYTES)
        try:
            read = msgspec.convert(value, _Envelope)
        except msgspec.ValidationError as error:
            raise ValueError(f"not a contest's message: {error}") from None
        message = cls(read.kind, from_hex(read.task), read.epoch, read.member, read.body)
        message.__dict__["data"] = data  # canonical already
        assert message.content is not None
        return message


def _check(content: Body) -> None:
    """What types alone do not say: digits of hashes, lists that ascend."""
    for name in content.__struct_fields__:
        value = getattr(content, name)
        if isinstance(value, str):
            from_hex(value)
    if isinstance(content, AcknowledgementBody):
        _require_rising(list(map(from_hex, content.commitments)), "listed commitments")
    elif isinstance(content, GateBody):
        _require_rising([from_hex(one.payload) for one in content.findings], "findings")
        for one in content.findings:
            if one.copy_of is not None:
                from_hex(one.copy_of)
    elif isinstance(content, RescoreBody):
        _require_rising([(cell.column, cell.row) for cell in content.cells], "cells")


def _require_rising(keys: list[Any], what: str) -> None:
    if any(second <= first for first, second in pairwise(keys)):
        raise ValueError(f"{what} ascend and are distinct")


class ContestInbox:
    """Well-formed, correctly signed messages of one day; at most one per member and kind counts.

    Attributes:
        messages: all of them in canonical order; of an equivocator's messages of a kind the first two, which prove it.
        equivocators: members that signed two different messages of one kind; none of that kind counts.
    """

    def __init__(self, messages: Iterable[ContestMessage]) -> None:
        """Sort and index `messages`; duplicates of the same bytes are one message."""
        distinct = {message.digest: message for message in messages}
        self._sent: dict[tuple[ContestKind, int], list[ContestMessage]] = {}
        for message in sorted(distinct.values(), key=lambda one: one.sort_key):
            sent = self._sent.setdefault((message.kind, message.member), [])
            if len(sent) < 2:
                sent.append(message)
        self.messages = tuple(chain.from_iterable(self._sent.values()))
        self.equivocators = tuple(sorted({member for (_, member), sent in self._sent.items() if len(sent) > 1}))

    def single(self, kind: ContestKind, member: int) -> ContestMessage | None:
        """The member's message of this kind, None when it sent none or equivocated."""
        sent = self._sent.get((kind, member), [])
        return sent[0] if len(sent) == 1 else None

    def senders(self, kind: ContestKind) -> list[int]:
        """Members with exactly one message of a kind, ascending."""
        return sorted(member for (sent, member), both in self._sent.items() if sent is kind and len(both) == 1)
