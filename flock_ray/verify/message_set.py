"""The signed messages of one epoch: who signed what, and which of it counts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from flock_ray.chain.keys import recover
from flock_ray.errors import VerificationError
from flock_ray.protocol.ballot import BallotA, BallotB, ballot_commitment, read_ballot_a, read_ballot_b
from flock_ray.protocol.message import (
    Kind,
    Manifest,
    Message,
    SignedMessage,
    read_commitment,
    read_manifest,
    read_seen,
)
from flock_ray.protocol.state import TaskState
from flock_ray.verify.draw import Seats, leads_to
from flock_ray.verify.report import SigningDomain

_COMMITMENTS = {Kind.BALLOT_A: Kind.BALLOT_A_COMMITMENT, Kind.BALLOT_B: Kind.BALLOT_B_COMMITMENT}


def open_message(
    signed: SignedMessage, state: TaskState, domain: SigningDomain, parsed: Message | None = None
) -> Message:
    """The message that a member signed for the epoch that `state` starts.

    Args:
        signed: bytes and signature.
        state: before the epoch.
        domain: where signatures are valid.
        parsed: what `Message.parse` makes of the bytes, from a caller that has it already.

    Raises:
        VerificationError: no message of the schema, of another task or epoch, or not signed by the member it names.
    """
    assert parsed is None or parsed.data == signed.data
    try:
        message = parsed or Message.parse(signed.data)
        _body(message)
    except ValueError as error:
        raise VerificationError(f"no message of the schema: {error}") from None
    if message.task != state.scope.task or message.epoch != state.epoch:
        raise VerificationError(f"a {message.kind} of epoch {message.epoch} of task 0x{message.task.hex()}")
    if message.member >= len(state.members):
        raise VerificationError(f"a {message.kind} of member {message.member}, whom the task does not have")
    digest = domain.message_digest(message.task, message.epoch, state.seed, message.kind, message.digest)
    if recover(digest, signed.signature) != state.members[message.member].account:
        raise VerificationError(f"member {message.member} did not sign this {message.kind}")
    return message


def _body(message: Message) -> object:
    if message.kind is Kind.SEEN:
        return read_seen(message)
    if message.kind is Kind.MANIFEST:
        return read_manifest(message)
    if message.kind is Kind.BALLOT_A:
        return read_ballot_a(message)
    if message.kind is Kind.BALLOT_B:
        return read_ballot_b(message)
    return read_commitment(message)


@dataclass(frozen=True)
class MessageSet:
    """What the members of an epoch said.

    Attributes:
        told: messages by (kind, member), each list by ascending digest.
    """

    told: dict[tuple[Kind, int], list[Message]]

    @classmethod
    def sort(cls, messages: Iterable[Message]) -> MessageSet:
        """Sort messages that were opened; the same bytes twice are one message."""
        told: dict[tuple[Kind, int], dict[bytes, Message]] = {}
        for message in messages:
            told.setdefault((message.kind, message.member), {})[message.digest] = message
        order = list(Kind)
        keys = sorted(told, key=lambda key: (order.index(key[0]), key[1]))
        return cls({key: [told[key][digest] for digest in sorted(told[key])] for key in keys})

    @property
    def named(self) -> list[tuple[str, int, bytes]]:
        """(kind, member, digest) in the record's order; of messages that contradict each other the first two."""
        return [(str(kind), member, one.digest) for (kind, member), said in self.told.items() for one in said[:2]]

    @property
    def equivocators(self) -> list[int]:
        """Members with two messages of one kind, ascending."""
        return sorted({member for (_, member), said in self.told.items() if len(said) > 1})

    def only(self, kind: Kind, member: int) -> Message | None:
        """The member's message of a kind, if it sent just one."""
        said = self.told.get((kind, member), [])
        return said[0] if len(said) == 1 else None

    def manifests(self, state: TaskState, seats: Seats) -> dict[int, Manifest]:
        """{proposer: manifest}: it opens a commitment that q seats list, and fits the task and its adapter."""
        lists = {voter: set(read_seen(said)) for voter in set(seats.voters) if (said := self.only(Kind.SEEN, voter))}
        manifests = {}
        for member in sorted(set(seats.proposers)):
            committed, said = self.only(Kind.COMMITMENT, member), self.only(Kind.MANIFEST, member)
            if committed is None or said is None:
                continue
            listing = {voter for voter, listed in lists.items() if committed.digest in listed}
            manifest = read_manifest(said)
            if (
                seats.held_by(listing) >= seats.quorum
                and read_commitment(committed)
                == state.scope.payload_commitment(state.epoch, member, manifest.payload, manifest.salt)
                and manifest.base_model == state.terms.base_model
                and manifest.configuration == state.terms.configuration
                and manifest.global_adapter == state.adapter
            ):
                manifests[member] = manifest
        return manifests

    def ballots_a(self, state: TaskState, seats: Seats) -> dict[int, BallotA]:
        """{voter: ballot A} where it opens its commitment."""
        ballots = {}
        for voter in sorted(set(seats.voters)):
            if said := self.only(Kind.BALLOT_A, voter):
                ballot, salt = read_ballot_a(said)
                if self._committed(state, said, ballot, salt):
                    ballots[voter] = ballot
        return ballots

    def ballots_b(self, state: TaskState, seats: Seats) -> dict[int, BallotB]:
        """{voter: ballot B} where it opens its commitment and reveals the epoch's preimage."""
        ballots = {}
        for voter in sorted(set(seats.voters)):
            if said := self.only(Kind.BALLOT_B, voter):
                ballot, salt = read_ballot_b(said)
                tip = state.members[voter].chain_tip
                if self._committed(state, said, ballot, salt) and leads_to(tip, ballot.reveal, state.epoch):
                    ballots[voter] = ballot
        return ballots

    def _committed(self, state: TaskState, said: Message, ballot: BallotA | BallotB, salt: bytes) -> bool:
        commitment = self.only(_COMMITMENTS[said.kind], said.member)
        opened = ballot_commitment(state.scope.task, state.epoch, said.member, said.kind, ballot, salt)
        return commitment is not None and read_commitment(commitment) == opened
