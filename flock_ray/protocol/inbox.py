"""The messages of one epoch as a set: the verdict is a function of it and does not depend on arrival order."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from itertools import chain
from typing import Any, TypeVar

from flock_ray.protocol.ballot import read_ballot_a, read_ballot_b
from flock_ray.protocol.message import Kind, Message, read_acknowledgement, read_commitment, read_manifest
from flock_ray.protocol.state import TaskState

T = TypeVar("T")

_READERS: dict[Kind, Callable[[Message], Any]] = {
    Kind.COMMITMENT: read_commitment,
    Kind.ACKNOWLEDGEMENT: read_acknowledgement,
    Kind.MANIFEST: read_manifest,
    Kind.BALLOT_A_COMMITMENT: read_commitment,
    Kind.BALLOT_A: read_ballot_a,
    Kind.BALLOT_B_COMMITMENT: read_commitment,
    Kind.BALLOT_B: read_ballot_b,
}


def parse_message(data: bytes) -> Message:
    """The message in a peer's bytes, its body checked against its kind.

    Raises:
        ValueError: the bytes are no such message.
    """
    message = Message.parse(data)
    _READERS[message.kind](message)
    return message


class Inbox:
    """Well-formed, correctly signed messages of one epoch; at most one per member and kind counts.

    Attributes:
        messages: all of them in canonical order. Of an equivocator's messages of one kind only the first two are kept:
            they prove the equivocation, and nobody can swell the record with more.
        equivocators: members that signed two different messages of one kind; none of that kind counts.
        cache: results of the functions decorated with `computed_once`, by name, each with the state it belongs to.
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
        self.cache: dict[str, tuple[TaskState, Any]] = {}
        self.equivocators = tuple(sorted({member for (_, member), sent in self._by_sender.items() if len(sent) > 1}))

    def single(self, kind: Kind, member: int) -> Message | None:
        """The member's message of this kind, None when it sent none or equivocated."""
        sent = self._by_sender.get((kind, member), [])
        return sent[0] if len(sent) == 1 else None

    def all(self, kind: Kind) -> list[Message]:
        """Every message of a kind, an equivocator's included, by ascending sender."""
        return self._by_kind.get(kind, [])


def computed_once(compute: Callable[[TaskState, Inbox], T]) -> Callable[[TaskState, Inbox], T]:
    """Cache the result of a function in its inbox, for as long as it is called with the same state object."""
    name = compute.__name__

    @wraps(compute)
    def cached(state: TaskState, inbox: Inbox) -> T:
        entry = inbox.cache.get(name)
        if entry is None or entry[0] is not state:
            entry = inbox.cache[name] = state, compute(state, inbox)
        result: T = entry[1]
        return result

    return cached
