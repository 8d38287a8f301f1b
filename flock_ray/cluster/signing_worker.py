"""What workers of an alliance and of a contest share: taking up a task, reading messages, signing what they hold."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any

from flock_ray.chain.eip712 import report_hash
from flock_ray.chain.epoch_report import Report
from flock_ray.cluster.attestation import (
    AnyRecord,
    Attestation,
    Bulletin,
    Verifier,
    has_quorum,
    report_of,
)
from flock_ray.cluster.member import Member
from flock_ray.cluster.member_host import MemberHost
from flock_ray.cluster.running_task import RunningTask
from flock_ray.cluster.signing import SigningBatch
from flock_ray.cluster.spec import PhaseResult, SiloFacts
from flock_ray.errors import ProtocolError
from flock_ray.protocol.message import SignedMessage

Events = Sequence[tuple[str, Mapping[str, object]]]


class SigningWorker(MemberHost):
    """Plays phases for the members that it hosts: each is a pure function of state and bulletin."""

    _verifier: Verifier[Any, Any]
    _commitments: dict[StrEnum, set[bytes]]

    @abstractmethod
    def _opened(self) -> tuple[SiloFacts, ...]:
        """Facts of the silos that were opened since the last call."""

    def _take_up(self, task: RunningTask, verifier: Verifier[Any, Any]) -> None:
        """Take up a task at the start of an epoch."""
        before: RunningTask | None = getattr(self, "_task", None)
        if before != task:
            self._commitments = {}
        if self._rank == 0:
            self._hosting.join(task.state.scope.task, newcomers(before, task))
            self._hosting.take_up(task)
        self._task, self._verifier = task, verifier
        self._hosting.open_epoch(task.state, anew=True)

    def _hosted(self, members: Iterable[int]) -> list[int]:
        """Those of the members whose silos are here, ascending."""
        here = set(self._spec.silos)
        return [member for member in sorted(set(members)) if self._task.silos.get(member) in here]

    def _voters(self, committee: Iterable[int] | None = None) -> list[Member]:
        """Hosted members of a committee, the epoch's own if none is given, who may sign."""
        drawn = self._state.roles.voters if committee is None else committee
        voters = map(self._hosting.active, self._hosted(drawn))
        return [voter for voter in voters if voter]

    def _inbox(self, bulletin: Bulletin) -> Any:
        inbox = self._verifier.inbox(bulletin, self._state)
        self._hosting.look_for_own(self._state, inbox)
        return inbox

    def _sign(self, signing: SigningBatch) -> list[SignedMessage]:
        sent = signing.sign(self._domain)
        for signed in sent:
            self._verifier.remember(signed)
        return sent

    def _reveal(
        self, committed: StrEnum, kind: StrEnum, bulletin: Bulletin, committee: Iterable[int] | None = None
    ) -> PhaseResult:
        """Reveal what was committed to, and note which commitments were there: no other is signed for later.

        `committee` are those who may have; None for the epoch's voters.
        """
        inbox = self._inbox(bulletin)
        self._commitments[committed] = {message.digest for message in inbox.messages if message.kind is committed}
        with self._hosting.signing(self._state) as signing:
            for voter in self._voters(committee):
                if body := voter.private(self._state, committed):
                    signing.add(voter, kind, body)
        return self._result(self._sign(signing))

    def _late_commitment(self, inbox: Any) -> bool:
        """Whether a ballot's commitment is counted that was not there when the ballots were revealed."""
        return any(
            message.kind in self._commitments and message.digest not in self._commitments[message.kind]
            for message in inbox.messages
        )

    def _sign_report(self, own: AnyRecord, report: Report, inbox: Any, refusal: str) -> PhaseResult:
        """The hosted voters' signatures of a report, of those that find all their own messages among those counted.

        Args:
            own: the record as it was derived here.
            report: that carries it.
            inbox: its messages.
            refusal: why nobody signs; empty if all is well.
        """
        events: list[tuple[str, Mapping[str, object]]] = []
        present = {(str(message.kind), message.member): message.digest for message in inbox.messages}
        signers = []
        with self._hosting.signing(self._state) as signing:
            for voter in self._voters():
                lacking = [
                    kind
                    for kind, digest in voter.sent(self._state).items()
                    if present.get((str(kind), voter.number)) != digest
                ]
                why = f"the messages lack this voter's own {lacking[0]}" if lacking else refusal
                if not why:
                    try:
                        signing.record(voter, "report", report_hash(report))
                        signers.append(voter)
                    except ProtocolError as refused:  # it signed another report of this epoch
                        why = str(refused)
                if why:
                    events.append(("refused_to_sign", {"epoch": own.epoch, "member": voter.number, "why": why}))
        signatures = {voter.number: voter.sign_report(report, self._state, self._domain) for voter in signers}
        return self._result(events=events, signatures=signatures)

    def _require_attested(self, record: AnyRecord, attestation: Attestation) -> bytes:
        """Check an attested record against the one derived here; returns the report's hash.

        Raises:
            ProtocolError: the record is not what the messages give, or lacks a quorum of signatures.
        """
        report = report_of(record, self._domain, self._relayer)
        valid = self._verifier.valid_signatures(report, attestation.signatures, self._state)
        if record.data != attestation.record or report != attestation.report or not has_quorum(valid, self._state):
            raise ProtocolError(f"epoch {record.epoch}: the attested record is not what the signed messages give")
        return report_hash(report)

    def _result(
        self,
        messages: list[SignedMessage] | None = None,
        events: Events = (),
        losses: dict[int, float] | None = None,
        signatures: dict[int, bytes] | None = None,
    ) -> PhaseResult:
        seconds, (_, _, units) = self._progress.take_seconds(), self._progress.now
        self._progress.begin("", 0)
        happened = (*events, *self._hosting.take_events())
        opened = self._opened() if self._rank == 0 else ()
        return PhaseResult(tuple(messages or ()), seconds, happened, losses or {}, signatures or {}, units, opened)


def newcomers(before: RunningTask | None, task: RunningTask) -> set[int]:
    """Silos of the members that joined a task since this process saw it at the start of the same epoch.

    They have signed nothing yet. In a process that just began nobody can say that of them.
    """
    if before is None or (before.state.scope, before.state.epoch) != (task.state.scope, task.state.epoch):
        return set()
    return {silo for number, silo in task.silos.items() if number >= len(before.state.members)}
