"""A worker of a node group: hosts members and plays, each epoch, the roles that they drew.

Every phase is a pure function of the task's state and the epoch's bulletin (the signed messages so far), with what
was computed remembered; so a phase may be asked again, of this worker or of one rebuilt after a crash, and answers the
same. With several ranks all run the same phases, since engines may work collectively; only rank 0 holds keys and signs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import ClassVar

from flock_ray.chain.eip712 import Domain, report_hash
from flock_ray.chain.epoch_report import Report
from flock_ray.cluster.attestation import (
    Attestation,
    Bulletin,
    MessageVerifier,
    report_of,
)
from flock_ray.cluster.ballot_builder import BallotBuilder
from flock_ray.cluster.evaluation import evaluating
from flock_ray.cluster.hosted_members import ANOTHER_UPDATE
from flock_ray.cluster.member import Member
from flock_ray.cluster.proposal_encoder import ProposalEncoder
from flock_ray.cluster.running_task import RunningTask
from flock_ray.cluster.spec import PhaseResult
from flock_ray.cluster.trainer import LocalUpdate
from flock_ray.cluster.worker_host import WorkerHost
from flock_ray.lora.algebra import factor_averaging_error, some_of
from flock_ray.protocol.ballot import (
    Ballot,
    ballot_body,
    ballot_commitment,
)
from flock_ray.protocol.encoding import to_hex
from flock_ray.protocol.epoch import advance, derive
from flock_ray.protocol.mechanisms import get_mechanism
from flock_ray.protocol.message import Kind, Manifest, Message, SignedMessage
from flock_ray.protocol.record import Record
from flock_ray.verify.opinion import disagreement


class Worker(WorkerHost):
    """One worker of a node group: the plain class that a Ray actor wraps.

    Attributes:
        verifier: opens the messages of a domain.
    """

    verifier: ClassVar[Callable[[Domain], MessageVerifier]] = MessageVerifier

    def begin(self, task: RunningTask) -> PhaseResult:
        """Take up a task at the start of an epoch, and measure the global adapter on the members' held-out parts."""
        before: RunningTask | None = getattr(self, "_task", None)
        bench, state = self._bench, task.state
        if before != task:
            self._encoder = ProposalEncoder(
                self._spec.store_url, state.scope.task, bench.updates, self._hosting, bench.progress
            )
            bench.trainer.forget()
            bench.scorer.forget()
        self._take_up(task, type(self).verifier(task.domain))
        mechanism = get_mechanism(state.terms.mechanism)
        self._ballots = BallotBuilder(bench, self._hosting.members, task.silos, mechanism)
        return self._evaluated()

    def _evaluated(self) -> PhaseResult:
        """The global adapter's held-out losses, of the members that are to measure it."""
        members = self._hosted(evaluating(self._state, self._spec.evaluate))
        silos = {self._task.silos[member]: member for member in members}
        losses = self._bench.scorer.evaluate(sorted(silos), self._state.adapter)
        return self._result(losses={silos[silo]: loss for silo, loss in losses.items()})

    # -- the phases of an epoch ------------------------------------------------------------------------------------

    def train(self) -> PhaseResult:
        """Train the hosted proposers and commit to their payloads."""
        state = self._state
        proposers = self._hosted(state.roles.proposers)
        self._bench.progress.begin("train", len(proposers) * self._spec.settings.steps)
        began = time.perf_counter()
        updates = self._trained(proposers)
        events: list[tuple[str, Mapping[str, object]]] = []
        if updates:
            facts = self._bench.trainer.facts(updates.values(), time.perf_counter() - began)
            events.append(("local_training", {"epoch": state.epoch, "group": self._spec.index, **facts}))
        events += self._encoder.keep(state, updates)
        self._bench.trainer.drop_deltas()
        with self._hosting.signing(state) as signing:
            for number, update in updates.items():
                if member := self._hosting.active(number):
                    kept = self._encoder.kept[number]
                    signing.add(member, Kind.COMMITMENT, self._commitment(member), kept.private)
                    fact = {"epoch": state.epoch, "member": number, "first_loss": update.losses[0],
                            "last_loss": update.losses[-1], "losses": update.losses,
                            "payload_bytes": kept.size}  # fmt: skip
                    events.append(("trained", fact))
        return self._result(self._sign(signing), events)

    def _trained(self, proposers: Sequence[int]) -> dict[int, LocalUpdate]:
        """{proposer: its update}; always of all hosted proposers."""
        members = {self._task.silos[member]: member for member in proposers}
        numbers = {silo: member for member, silo in self._task.silos.items()}
        dishonest = {silo: self._behaviour(silo) for silo in members if silo in self._spec.behaviours}
        rows_of = {
            silo: partial(one.data, one.context(self._state, members[silo], numbers)) for silo, one in dishonest.items()
        }
        updates = self._bench.trainer.train(sorted(members), self._state.epoch, self._state.adapter, rows_of)
        return {members[silo]: update for silo, update in updates.items()}

    def acknowledge(self, bulletin: Bulletin) -> PhaseResult:
        """The hosted voters sign the list of commitments that they hold."""
        held = sorted(message.digest for message in self._inbox(bulletin).all(Kind.COMMITMENT))
        body = {"commitments": [to_hex(digest) for digest in held]}
        with self._hosting.signing(self._state) as signing:
            for voter in self._voters():
                signing.add(voter, Kind.ACKNOWLEDGEMENT, body)
        return self._result(self._sign(signing))

    def publish(self) -> PhaseResult:
        """Put the hosted proposers' payloads into the store and sign their manifests."""
        state = self._state
        proposers = self._hosted(state.roles.proposers)
        updates = self._trained(proposers)
        events = self._encoder.keep(state, updates)
        self._bench.trainer.drop_deltas()
        self._bench.progress.begin("publish", len(updates))
        with self._hosting.signing(state) as signing:
            for number, update in updates.items():
                self._bench.progress.step()
                if member := self._committed_proposer(number):
                    salt = member.salt(state, "payload")
                    payload = self._encoder.kept[number].digest
                    with self._bench.progress.timed("transfer"):
                        self._bench.updates.store.put_file(payload, member.kept(payload), signing.files)
                    manifest = Manifest(
                        base_model=state.terms.base_model,
                        global_adapter=state.adapter,
                        configuration=state.terms.configuration,
                        samples=self._bench.silos[self._task.silos[number]].sample_digest(salt, update.samples),
                        steps=len(update.losses),
                        payload=payload,
                        salt=salt,
                    )
                    signing.add(member, Kind.MANIFEST, manifest.body())
        return self._result(self._sign(signing), events)

    def commit_ballots_a(self, bulletin: Bulletin) -> PhaseResult:
        """Fetch, check and score all proposals; the hosted voters commit to their ballots A."""
        voters = self._hosted(self._state.roles.voters)
        ballots = self._ballots.ballots_a(self._state, self._inbox(bulletin), voters)
        return self._result(self._commit(Kind.BALLOT_A_COMMITMENT, Kind.BALLOT_A, ballots))

    def reveal_ballots_a(self, bulletin: Bulletin) -> PhaseResult:
        """The hosted voters reveal their ballots A."""
        return self._reveal(Kind.BALLOT_A_COMMITMENT, Kind.BALLOT_A, bulletin)

    def commit_ballots_b(self, bulletin: Bulletin) -> PhaseResult:
        """Combine the accepted updates, score the candidates; the hosted voters commit to their ballots B."""
        inbox = self._inbox(bulletin)
        ballots = self._ballots.ballots_b(self._state, inbox, self._hosted(self._state.roles.voters))
        messages = self._commit(Kind.BALLOT_B_COMMITMENT, Kind.BALLOT_B, ballots)
        deltas = self._ballots.entering_updates(self._state, inbox) if ballots else []
        events = []
        if deltas:
            start = self._bench.updates.adapter(self._state.adapter)
            error = factor_averaging_error(start, some_of(deltas))
            events.append(("factor_averaging_error", {"epoch": self._state.epoch, "value": error}))
        return self._result(messages, events)

    def reveal_ballots_b(self, bulletin: Bulletin) -> PhaseResult:
        """The hosted voters reveal their ballots B, and with them their parts of the next seed."""
        return self._reveal(Kind.BALLOT_B_COMMITMENT, Kind.BALLOT_B, bulletin)

    def sign(self, proposed: bytes, bulletin: Bulletin) -> PhaseResult:
        """The hosted voters sign only what they derive themselves, twice: here and with the independent `verify`.

        The candidate that was taken is in the store before they sign.

        Args:
            proposed: canonical bytes of the record that the coordinator derived.
            bulletin: the messages that it is made from.
        """
        inbox, voters = self._inbox(bulletin), self._voters()
        own = derive(self._state, inbox)  # `advance` will find it done, also where nobody signs
        if not voters:
            return self._result()
        taken, agreed = own.candidate.candidate, (own.candidate.hashes, own.candidate.weights)
        computed = self._ballots.candidates(self._state, inbox) if taken else agreed
        if agreed != computed and (own.accepted or computed[0]):  # who lacks an update may still sign a rejection
            refusal = "the candidate or its weights are not those computed here"
        elif self._late_commitment(inbox):
            refusal = "a ballot was committed to after others were revealed"
        elif own.data != proposed:
            refusal = "the proposed record is not what the signed messages give"
        else:
            refusal = ""
        if taken and agreed == computed:
            self._bench.updates.publish(taken)
        self._encoder.keep_record(own.data)
        if self._spec.behaviours:  # dishonest members look at what was before
            self._insight.records.keep(own.data)
        report = report_of(own, self._domain, self._relayer)
        return self._sign_report(own, report, inbox, refusal or self._second_opinion(bulletin, own, report))

    def _second_opinion(self, bulletin: Bulletin, own: Record, report: Report) -> str:
        """Why the independent `verify` would not sign a record; empty if it agrees."""
        distributor, hashed = self._domain.distributor, report_hash(report)
        return disagreement(self._state, bulletin, self._relayer, distributor, own.data, hashed, self._verifier.parsed)

    def advance(self, attestation: Attestation, bulletin: Bulletin) -> PhaseResult:
        """Check the attested record, move on to the next epoch, and evaluate its global adapter.

        Raises:
            ProtocolError: the record is not what the messages give, or lacks a quorum of signatures.
        """
        record = derive(self._state, self._inbox(bulletin))
        report_hash = self._require_attested(record, attestation)
        self._task = self._task.at(advance(self._state, record, report_hash))
        self._verifier.forget()
        self._commitments.clear()
        self._encoder.end_epoch()
        self._hosting.open_epoch(self._state, anew=False)
        evaluated = self._evaluated()
        self._bench.end_epoch(self._state.adapters)
        self._insight.end_epoch()
        return evaluated

    # -- what the phases share -------------------------------------------------------------------------------------

    def _commitment(self, member: Member) -> dict[str, str]:
        """Body of the message by which a proposer commits to its payload."""
        state, payload = self._state, self._encoder.kept[member.number].digest
        salt = member.salt(state, "payload")
        return {"commitment": to_hex(state.scope.payload_commitment(state.epoch, member.number, payload, salt))}

    def _committed_proposer(self, number: int) -> Member | None:
        """A hosted proposer, unless its update is not the one that it committed to before its worker was rebuilt."""
        state, member = self._state, self._hosting.active(number)
        if member is None:
            return None
        message = Message(Kind.COMMITMENT, state.scope.task, state.epoch, number, self._commitment(member))
        if member.signed(state).get(Kind.COMMITMENT) != message.digest:
            self._hosting.sit_out(state, number, ANOTHER_UPDATE)
            return None
        return member

    def _commit(self, kind: Kind, reveal: Kind, ballots: Sequence[tuple[Member, Ballot]]) -> list[SignedMessage]:
        """Commit to ballots, and keep them for the reveal."""
        task, epoch = self._state.scope.task, self._state.epoch
        with self._hosting.signing(self._state) as signing:
            for member, ballot in ballots:
                if self._hosting.active(member.number):
                    salt = member.salt(self._state, reveal)
                    commitment = ballot_commitment(task, epoch, member.number, reveal, ballot, salt)
                    signing.add(member, kind, {"commitment": to_hex(commitment)}, ballot_body(ballot, salt))
        return self._sign(signing)
