"""The set of messages of one epoch: what the verdict is a function of, whatever order they came in."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from itertools import chain
from typing import Any, TypeVar

from flock_ray.protocol.ballot import read_ballot_a, read_ballot_b
from flock_ray.protocol.message import Kind, Message, read_commitment, read_manifest, read_seen
from flock_ray.protocol.state import TaskState

T = TypeVar("T")

_READERS: dict[Kind, Callable[[Message], Any]] = {
    Kind.COMMITMENT: read_commitment,
    Kind.SEEN: read_seen,
    Kind.MANIFEST: read_manifest,
    Kind.BALLOT_A_COMMITMENT: read_commitment,
    Kind.BALLOT_A: read_ballot_a,
    Kind.BALLOT_B_COMMITMENT: read_commitment,
    Kind.BALLOT_B: read_ballot_b,
}


def parse_message(data: bytes) -> Message:
    """A peer's bytes as a message whose body reads as its kind demands.

    Raises:
        ValueError: anything else.
    """
    message = Message.parse(data)
    _READERS[message.kind](message)
    return message


class Inbox:
    """Well-formed, correctly signed messages of one epoch, at most one a member and kind.

    Attributes:
        messages: all of them in canonical order; of an equivocator's messages of one kind the first two, which prove
            it, so that nobody can swell the record.
        equivocators: members that signed two different messages of one kind; none of that kind counts.
        findings: what functions of a state and this inbox found, by name, so that each is computed once.
    """

    def __init__(self, messages: Iterable[Message]) -> None:
        """Sort and index `messages`; duplicates of the same bytes are one message."""
        distinct = {message.digest: message for message in messages}
        self._by_sender: dict[tuple[Kind, int], list[Message]] = {}
        for message in sorted(distinct.values(), key=lambda message: message.sort_key):
            sent = self._by_sender.setdefault((message.kind, message.member), [])
            if len(sent) < 2:
                sent.append(message)
        self.messages = tuple(chain.from_iterable(self._by_sender.values()))
        self._by_kind: dict[Kind, list[Message]] = {}
        for message in self.messages:
            self._by_kind.setdefault(message.kind, []).append(message)
        self.findings: dict[str, tuple[TaskState, Any]] = {}
        self.equivocators = tuple(sorted({member for (_, member), sent in self._by_sender.items() if len(sent) > 1}))

    def one(self, kind: Kind, member: int) -> Message | None:
        """The member's message of this kind, None when it sent none or equivocated."""
        sent = self._by_sender.get((kind, member), [])
        return sent[0] if len(sent) == 1 else None

    def all(self, kind: Kind) -> list[Message]:
        """Every counted or equivocal message of a kind, by ascending sender."""
        return self._by_kind.get(kind, [])


def once(compute: Callable[[TaskState, Inbox], T]) -> Callable[[TaskState, Inbox], T]:
    """Have a function of a state and an inbox computed once while they stay the same objects."""
    name = compute.__name__

    @wraps(compute)
    def remembered(state: TaskState, inbox: Inbox) -> T:
        known = inbox.findings.get(name)
        if known is None or known[0] is not state:
            known = inbox.findings[name] = state, compute(state, inbox)
        found: T = known[1]
        return found

    return remembered
