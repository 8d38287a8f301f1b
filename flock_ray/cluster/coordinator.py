"""The coordinator: collects signed messages, hands them out, tallies them. It can leave out, but alter nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from typing import Any, TypeVar

from flock_ray.chain.eip712 import Domain, report_hash
from flock_ray.cluster.attestation import (
    AnyRecord,
    Attestation,
    Bulletin,
    MessageVerifier,
    Verifier,
    has_quorum,
    report_of,
)
from flock_ray.cluster.running_task import RunningTask
from flock_ray.cluster.vitals import Vitals
from flock_ray.errors import FlockRayError, ProtocolError
from flock_ray.protocol.epoch import advance, derive
from flock_ray.protocol.message import SignedMessage
from flock_ray.protocol.state import TaskState

T = TypeVar("T")
Derive = Callable[[TaskState, Any], Any]
Advance = Callable[[TaskState, Any, bytes], TaskState]


class CoordinatorLostError(Exception):
    """The coordinator died or hangs.

    Attributes:
        error: what a run ends with that loses one after the other.
    """

    def __init__(self, error: FlockRayError) -> None:
        super().__init__(str(error))
        self.error = error


class Coordinator:
    """Plain class behind the coordinator actor; its clients check everything that it says."""

    def __init__(
        self,
        derive: Derive = derive,
        advance: Advance = advance,
        verifier: Callable[[Domain], Verifier[Any, Any]] = MessageVerifier,
    ) -> None:
        """No messages yet; `begin` gives it a task.

        Args:
            derive: (state, messages of the epoch) -> record.
            advance: (state, record, report hash) -> state of the next epoch.
            verifier: opens the messages of a domain.
        """
        self._derive, self._advance, self._new_verifier = derive, advance, verifier
        self._messages: dict[tuple[int, int, bytes], SignedMessage] = {}

    def vitals(self) -> Vitals:
        """What its process has used so far; asked while something else is computed."""
        return Vitals.of_this_process(("coordinate", len(self._messages), 0))

    def begin(self, task: RunningTask) -> None:
        """Take up a task at the start of an epoch."""
        self._task = task
        self._verifier = self._new_verifier(task.domain)
        self._messages.clear()

    @property
    def _state(self) -> TaskState:
        return self._task.state

    def collect(self, messages: Sequence[SignedMessage], kind: StrEnum) -> list[str]:
        """Take messages of the running phase; late and early ones and those without a valid signature are dropped.

        A late message must not count: it would change what others committed to already.

        Args:
            messages: of any sender.
            kind: that the phase collects.

        Returns:
            One line for each dropped message, saying why.
        """
        dropped = []
        for signed in messages:
            try:
                message = self._verifier.open(signed, self._state)
                if message.kind is not kind:
                    raise ValueError(f"member {message.member} sent {message.kind} when {kind} was due")
                self._messages.setdefault(message.sort_key, signed)
            except ValueError as error:
                dropped.append(str(error))
        return dropped

    def bulletin(self) -> Bulletin:
        """All messages of the epoch so far, in canonical order."""
        return self._bulletin()

    def _bulletin(self) -> Bulletin:
        return tuple(signed for _, signed in sorted(self._messages.items(), key=lambda entry: entry[0]))

    def size(self) -> int:
        """How many messages of the epoch there are so far."""
        return len(self._messages)

    def look(self, read: Callable[..., T], *args: Any) -> T:
        """`read(state, messages so far, *args)`: what somebody wants to know who must not have all messages sent."""
        return read(self._state, self._bulletin(), *args)

    def tally(self) -> tuple[Any, Bulletin]:
        """The record that the messages give, proposed for signing, and the messages that it is made from."""
        bulletin = self._bulletin()
        return self._derive(self._state, self._inbox(bulletin)), bulletin

    def _inbox(self, bulletin: Iterable[SignedMessage]) -> Any:
        return self._verifier.inbox(bulletin, self._state)

    def attest(self, record: AnyRecord, signatures: dict[int, bytes]) -> tuple[Attestation, TaskState]:
        """Join the voters' signatures to an attestation and move on to the next epoch.

        Returns:
            The attestation, and the state that the next epoch starts from.

        Raises:
            ProtocolError: the valid signatures do not reach the quorum.
        """
        report = report_of(record, self._task.domain, self._task.relayer)
        valid = self._verifier.valid_signatures(report, signatures, self._state)
        if not has_quorum(valid, self._state):
            raise ProtocolError(
                f"epoch {record.epoch}: {len(valid)} of {len(self._state.roles.voters)} voters signed the report,"
                f" {self._state.roles.quorum} seats are needed"
            )
        self._task = self._task.at(self._advance(self._state, record, report_hash(report)))
        self._messages.clear()
        self._verifier.forget()
        return Attestation(record.data, report, valid), self._state
