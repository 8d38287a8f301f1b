"""How the messages of an epoch become its record and the next epoch's state: of an alliance, and of a contest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from flock_ray.chain.eip712 import Domain
from flock_ray.cluster.attestation import AnyRecord, ContestVerifier, MessageVerifier, Verifier
from flock_ray.protocol.contest import advance_day, derive_day, skip_day
from flock_ray.protocol.contest_message import ContestInbox
from flock_ray.protocol.contest_record import ContestRecord
from flock_ray.protocol.contest_scores import Row
from flock_ray.protocol.contest_state import ContestState
from flock_ray.protocol.epoch import advance, derive, skip
from flock_ray.protocol.roster import Change
from flock_ray.protocol.state import MemberState, Scope, TaskState, Terms


class Rules(Protocol):
    """What a coordinator, and whoever replays a run, must know of the kind of task."""

    def verifier(self, domain: Domain) -> Verifier[Any, Any]:
        """Opens the messages of a domain."""

    def first(
        self, terms: Any, scope: Scope, members: tuple[MemberState, ...], seed: bytes, before_start: Sequence[Change]
    ) -> TaskState:
        """The state of epoch 1."""

    def derive(self, state: Any, inbox: Any) -> AnyRecord:
        """The record that messages give."""

    def advance(self, state: Any, record: Any, report_hash: bytes) -> TaskState:
        """The state after a signed record."""

    def skip(self, state: Any) -> TaskState:
        """The state after an abandoned epoch."""


class AllianceRules:
    """Of an alliance."""

    def verifier(self, domain: Domain) -> MessageVerifier:
        """See `Rules`."""
        return MessageVerifier(domain)

    def first(
        self, terms: Terms, scope: Scope, members: tuple[MemberState, ...], seed: bytes, before_start: Sequence[Change]
    ) -> TaskState:
        """See `Rules`."""
        return TaskState.first(terms, scope, members, seed, before_start)

    def derive(self, state: TaskState, inbox: Any) -> AnyRecord:
        """See `Rules`."""
        return derive(state, inbox)

    def advance(self, state: TaskState, record: Any, report_hash: bytes) -> TaskState:
        """See `Rules`."""
        return advance(state, record, report_hash)

    def skip(self, state: TaskState) -> TaskState:
        """See `Rules`."""
        return skip(state)


@dataclass(frozen=True)
class ContestRules:
    """Of a contest.

    Attributes:
        chunks: rows of each day, set A.
        final: rows of set B.
    """

    chunks: tuple[tuple[Row, ...], ...]
    final: tuple[Row, ...]

    def opened(self, state: ContestState) -> ContestState:
        """The state with its day's rows.

        Raises:
            ValueError: they are not those of the terms.
        """
        if state.finished:
            return state
        return state.opened(self.chunks[state.epoch - 1], self.final if state.last_day else ())

    def verifier(self, domain: Domain) -> ContestVerifier:
        """See `Rules`."""
        return ContestVerifier(domain)

    def first(
        self, terms: Any, scope: Scope, members: tuple[MemberState, ...], seed: bytes, before_start: Sequence[Change]
    ) -> ContestState:
        """See `Rules`."""
        return self.opened(ContestState.first(terms, scope, members, seed, before_start))

    def derive(self, state: ContestState, inbox: ContestInbox) -> ContestRecord:
        """See `Rules`."""
        return derive_day(state, inbox.messages)

    def advance(self, state: ContestState, record: ContestRecord, report_hash: bytes) -> ContestState:
        """See `Rules`."""
        return self.opened(advance_day(state, record, report_hash))

    def skip(self, state: ContestState) -> ContestState:
        """See `Rules`."""
        return self.opened(skip_day(state))
