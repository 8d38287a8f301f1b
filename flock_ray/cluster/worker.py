"""A worker of a node group: hosts members and plays, each epoch, the roles that they drew.

Every phase is a pure function of the task's state and the epoch's bulletin (the signed messages so far), with what
was computed remembered; so a phase may be asked again, of this worker or of one rebuilt after a crash, and answers the
same. With several ranks all run the same phases, since engines may work collectively; only rank 0 holds keys and signs.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from flock_ray.adversary.registry import get_behaviour
from flock_ray.chain.eip712 import Domain, report_hash
from flock_ray.chain.keys import Signer, load_signer, run_signer
from flock_ray.chain.merkle import MerkleTree, reward_leaf
from flock_ray.chain.transactions import claim, join, release
from flock_ray.chain.values import TxContext
from flock_ray.cluster.attestation import Attestation, MessageVerifier, has_quorum, report_of, valid_signatures
from flock_ray.cluster.ballot_builder import BallotBuilder
from flock_ray.cluster.coordinator import Bulletin
from flock_ray.cluster.hosted_members import ANOTHER_UPDATE, HostedMembers
from flock_ray.cluster.member import Member
from flock_ray.cluster.proposal_encoder import ProposalEncoder
from flock_ray.cluster.signing import SigningBatch
from flock_ray.cluster.spec import Enrolment, GroupInfo, GroupSpec, HostedMember, PhaseResult, with_model
from flock_ray.cluster.vitals import Vitals
from flock_ray.cluster.workbench import Workbench
from flock_ray.errors import ChainError, ProtocolError
from flock_ray.lora.algebra import factor_averaging_error, some_of
from flock_ray.protocol.ballot import (
    Ballot,
    ballot_body,
    ballot_commitment,
)
from flock_ray.protocol.encoding import to_hex
from flock_ray.protocol.epoch import advance, derive
from flock_ray.protocol.hashing import sha256, tagged
from flock_ray.protocol.inbox import Inbox
from flock_ray.protocol.mechanism import get_mechanism
from flock_ray.protocol.message import Kind, Manifest, Message, SignedMessage
from flock_ray.protocol.state import TaskState
from flock_ray.store.blob_store import BlobStore
from flock_ray.training.data import num_target_bytes
from flock_ray.training.engine import Rendezvous
from flock_ray.verify.opinion import disagreement


class Worker:
    """One worker of a node group: the plain class that a Ray actor wraps.

    Attributes:
        workbench: what trains and scores; benchmarks put a simulated one here.
    """

    workbench: ClassVar[type[Workbench]] = Workbench

    def __init__(self, spec: GroupSpec, rank: int) -> None:
        """Take the group's description; `load` does the work."""
        self._spec = spec
        self._rank = rank
        self._listener: Any = None
        self._signers: dict[int, Signer] = {}

    def open_rendezvous(self) -> tuple[str, int]:
        """Listen where the ranks of the group meet: host and port, which stay this worker's; none where none meet."""
        if self._spec.engine != "deepspeed":
            return "", 0
        from flock_ray.training.deepspeed_engine import listen

        self._listener = listen()
        return self._listener.host, self._listener.port

    def load(self, host: str, port: int, world: int) -> GroupInfo:
        """Load base model and silos, make the engine, open the members' keys (rank 0).

        Raises:
            DataError, ModelError, KeyMissingError, TrainingError: what the user can repair.
        """
        spec = self._spec
        self._hosting = HostedMembers(BlobStore(spec.store_url), self._open_member)
        self._host_members(spec.hosts)
        self._bench = self.workbench(spec, Rendezvous(host, port, self._rank, world, self._listener))
        base = self._bench.base
        hosted = tuple(
            HostedMember(
                number=number,
                address=member.signer.address,
                silo=silo.name,
                num_train_tokens=silo.num_train_tokens,
                num_train=len(silo.train),
                num_heldout=len(silo.heldout),
                num_heldout_tokens=sum(example.num_labels for example in silo.heldout),
                num_heldout_bytes=num_target_bytes(base.tokenizer, silo.heldout),
            )
            for number, member in self._hosting.members.items()
            for silo in [self._bench.silos[number]]
        )
        self._adapter = self._bench.initial_adapter()
        gc.freeze()  # the modules and the model stay: looking through them for garbage takes a third of a second
        return GroupInfo(
            hosted, base.name, base.hashes, str(base.dtype).removeprefix("torch."), base.num_parameters,
            self._adapter,
        )  # fmt: skip

    def assign(self, hosts: Mapping[int, tuple[int, ...]]) -> None:
        """Carry these logical hosts, {number: members}, from now on; what is not loaded yet is loaded.

        Raises:
            DataError, KeyMissingError: a member's data or key is not to be had here.
        """
        self._spec = replace(self._spec, hosts=dict(hosts))
        self._host_members(hosts)
        self._bench.assign(hosts)

    def _host_members(self, hosts: Mapping[int, tuple[int, ...]]) -> None:
        if self._rank == 0:
            self._hosting.assign(hosts)

    def _open_member(self, number: int) -> Member:
        spec = self._spec
        name = f"member-{number}"
        if number not in self._signers:  # a keystore file takes a second to open
            self._signers[number] = (
                run_signer(spec.run_seed, name) if spec.embedded else load_signer(name, spec.keystore)
            )
        kind = spec.behaviours.get(number, "none")
        accomplices = [member for member, other in spec.behaviours.items() if other == kind]
        secret = tagged("flock_ray/coalition-secret/1", spec.run_seed, sha256(kind.encode()))
        behaviour = get_behaviour(kind)(spec.adversary_scale, accomplices, secret)
        return Member(number, self._signers[number], Path(spec.state_dir) / name, behaviour, spec.reveals)

    def probe(self, token: str) -> None:
        """Read the driver's probe from the store, and write one for the driver to read.

        Raises:
            StoreError: the store is not the same from here.
        """
        if self._rank == 0:
            self._bench.updates.store.probe_read(token)
            self._bench.updates.store.probe_write(f"{token}{self._spec.index:04x}")

    def vitals(self) -> Vitals:
        """What the worker does just now, and what it has used so far; asked while a phase runs."""
        progress = self._bench.progress.now if hasattr(self, "_bench") else ("load", 0, 0)
        return Vitals.of_this_process(progress)

    # -- membership ----------------------------------------------------------------------------------------------

    def enrol(self, task: bytes, creator: str, seed: bytes, contexts: dict[int, TxContext]) -> dict[int, Enrolment]:
        """Hash-chain tips of the hosted members, and their signed transactions that stake.

        Members compute from their own configuration, model and adapter what the contract must hold of the task, and
        join no other.

        Args:
            task: id of the task.
            creator: account that created it.
            seed: that it was created with.
            contexts: {member: what its account must know of the chain}; members without one sign no transaction.

        Raises:
            ChainError: it is another task.
        """
        spec = self._spec
        agreed = with_model(spec.terms, creator, self._bench.base.hashes, self._adapter)
        terms = replace(spec.chain_terms, terms_hash=agreed.digest(), model_hash=self._adapter)
        if task != terms.task_id(creator, seed):
            raise ChainError(f"task 0x{task.hex()} has other terms than the configuration of node group {spec.index}")
        amount, expected = terms.min_stake * terms.max_slots, terms.digest(creator)
        enrolments = {}
        self._hosting.join(task)
        for number, member in self._hosting.members.items():
            tip = member.hash_chain(task).tip
            context = contexts.get(number)
            raw = join(member.signer, context, task, amount, tip, expected, terms.max_slots) if context else []
            enrolments[number] = Enrolment(tip, tuple(raw))
        return enrolments

    def begin(self, state: TaskState, domain: Domain, relayer: str) -> PhaseResult:
        """Take up a task at `state`, and measure the global adapter on every hosted member's held-out part."""
        if getattr(self, "_state", None) != state:
            bench, store, task = self._bench, self._spec.store_url, state.scope.task
            self._encoder = ProposalEncoder(store, task, bench.updates, self._hosting, bench.progress)
            self._commitments: dict[Kind, set[bytes]] = {}
            self._bench.trainer.forget()
        self._state, self._domain, self._relayer = state, domain, relayer
        self._ballots = BallotBuilder(self._bench, self._hosting.members, get_mechanism(state.terms.mechanism))
        self._verifier = MessageVerifier(domain)
        self._hosting.open_epoch(state, anew=True)
        return self._result(losses=self._bench.scorer.evaluate(state.adapter))

    def collect_earnings(
        self,
        contexts: dict[int, TxContext],
        leaves: tuple[tuple[str, int], ...],
        claimed: dict[int, int],
        pooled: frozenset[int],
        locked: frozenset[int],
    ) -> dict[int, tuple[bytes, ...]]:
        """{member: raw transactions} by which hosted members claim what they earned and have their stake released.

        Args:
            contexts: {member: what its account must know of the chain} of the members with something to collect.
            leaves: the cumulative reward table; empty while it does not pay.
            claimed: {member: wei that it claimed before}.
            pooled: members whose rewards go to their pools in the vault.
            locked: members whose stake can be released.
        """
        task = self._state.scope.task
        tree = MerkleTree(reward_leaf(self._domain, task, account, wei) for account, wei in leaves)
        earned = dict(leaves)
        transactions = {}
        members = self._hosting.members
        for number in sorted(set(contexts) & set(members)):
            signer, context = members[number].signer, contexts[number]
            raw: list[bytes] = []
            cumulative = earned.get(signer.address, 0)
            if cumulative > claimed[number]:
                proof = tree.proof(reward_leaf(self._domain, task, signer.address, cumulative))
                raw += claim(signer, context, task, signer.address, cumulative, proof, number in pooled)
            if number in locked:
                raw += release(signer, replace(context, nonce=context.nonce + len(raw)), task, signer.address)
            transactions[number] = tuple(raw)
        return transactions

    # -- the phases of an epoch ------------------------------------------------------------------------------------

    def train(self) -> PhaseResult:
        """Train the hosted proposers and commit to their payloads."""
        state = self._state
        proposers = self._hosted(state.roles.proposers)
        self._bench.progress.begin("train", len(proposers) * self._spec.settings.steps)
        began = time.perf_counter()
        updates = self._bench.trainer.train(proposers, state.epoch, state.adapter)
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
                            "last_loss": update.losses[-1], "payload_bytes": kept.size}  # fmt: skip
                    events.append(("trained", fact))
        return self._result(self._sign(signing), events)

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
        updates = self._bench.trainer.train(proposers, state.epoch, state.adapter)
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
                        samples=self._bench.silos[number].sample_digest(salt, update.samples),
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
        """Combine the accepted updates, score the candidate; the hosted voters commit to their ballots B."""
        inbox = self._inbox(bulletin)
        ballots = self._ballots.ballots_b(self._state, inbox, self._hosted(self._state.roles.voters))
        messages = self._commit(Kind.BALLOT_B_COMMITMENT, Kind.BALLOT_B, ballots)
        for candidate in {ballot.candidate for _, ballot in ballots if ballot.candidate}:
            self._bench.updates.publish(candidate)
        deltas = self._ballots.kept_updates(self._state, inbox) if ballots else []
        events = []
        if deltas:
            events.append(
                (
                    "factor_averaging_error",
                    {"epoch": self._state.epoch, "value": factor_averaging_error(some_of(deltas))},
                )
            )
        return self._result(messages, events)

    def reveal_ballots_b(self, bulletin: Bulletin) -> PhaseResult:
        """The hosted voters reveal their ballots B, and with them their parts of the next seed."""
        return self._reveal(Kind.BALLOT_B_COMMITMENT, Kind.BALLOT_B, bulletin)

    def sign(self, proposed: bytes, bulletin: Bulletin) -> PhaseResult:
        """The hosted voters sign only what they derive themselves, twice: here and with the independent `verify`.

        Args:
            proposed: canonical bytes of the record that the committee derived.
            bulletin: the messages that it is made from.
        """
        inbox, voters = self._inbox(bulletin), self._voters()
        own = derive(self._state, inbox)  # `advance` will find it done, also where nobody signs
        if not voters:
            return self._result()
        events = []
        agreed = own.candidate.candidate, own.candidate.weights
        computed = self._ballots.candidate(self._state, inbox) if own.candidate.candidate else agreed
        if agreed != computed and (own.accepted or computed[0]):  # who lacks an update may still sign a rejection
            refusal = "the candidate or its weights are not those computed here"
        elif self._late_commitment(inbox):
            refusal = "a ballot was committed to after others were revealed"
        elif own.data != proposed:
            refusal = "the proposed record is not what the signed messages give"
        else:
            refusal = ""
        self._encoder.keep_record(own.data)
        report = report_of(own, self._domain, self._relayer)
        refusal = refusal or disagreement(
            self._state,
            bulletin,
            self._relayer,
            self._domain.distributor,
            own.data,
            report_hash(report),
            self._verifier.parsed,
        )
        present = {(message.kind, message.member): message.digest for message in inbox.messages}
        signers = []
        with self._hosting.signing(self._state) as signing:
            for voter in voters:
                lacking = [
                    kind
                    for kind, digest in voter.signed(self._state).items()
                    if kind != "report" and present.get((Kind(kind), voter.number)) != digest
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

    def advance(self, attestation: Attestation, bulletin: Bulletin) -> PhaseResult:
        """Check the attested record, move on to the next epoch, and evaluate its global adapter.

        Raises:
            ProtocolError: the record is not what the messages give, or lacks a quorum of signatures.
        """
        record = derive(self._state, self._inbox(bulletin))
        report = report_of(record, self._domain, self._relayer)
        valid = valid_signatures(report, attestation.signatures, self._state, self._domain)
        if record.data != attestation.record or report != attestation.report or not has_quorum(valid, self._state):
            raise ProtocolError(f"epoch {record.epoch}: the attested record is not what the signed messages give")
        self._state = advance(self._state, record, report_hash(report))
        self._verifier.forget()
        self._commitments.clear()
        self._encoder.end_epoch()
        self._hosting.open_epoch(self._state, anew=False)
        losses = self._bench.scorer.evaluate(record.adapter)
        self._bench.end_epoch(record.adapter)
        return self._result(losses=losses)

    # -- what the phases share -------------------------------------------------------------------------------------

    def _hosted(self, seats: tuple[int, ...]) -> list[int]:
        return sorted(set(seats) & set(self._spec.members))

    def _voters(self) -> list[Member]:
        voters = map(self._hosting.active, self._hosted(self._state.roles.voters))
        return [voter for voter in voters if voter]

    def _inbox(self, bulletin: Bulletin) -> Inbox:
        inbox = self._verifier.inbox(bulletin, self._state)
        self._hosting.look_for_own(self._state, inbox)
        return inbox

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

    def _sign(self, signing: SigningBatch) -> list[SignedMessage]:
        sent = signing.sign(self._domain)
        for signed in sent:
            self._verifier.remember(signed)
        return sent

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

    def _reveal(self, committed: Kind, kind: Kind, bulletin: Bulletin) -> PhaseResult:
        """Reveal what was committed to, and note which commitments were there: no other is signed for later."""
        self._commitments[committed] = {message.digest for message in self._inbox(bulletin).all(committed)}
        with self._hosting.signing(self._state) as signing:
            for voter in self._voters():
                if body := voter.private(self._state, committed):
                    signing.add(voter, kind, body)
        return self._result(self._sign(signing))

    def _late_commitment(self, inbox: Inbox) -> bool:
        """Whether a ballot's commitment is counted that was not there when the ballots were revealed."""
        return any(
            message.kind in self._commitments and message.digest not in self._commitments[message.kind]
            for message in inbox.messages
        )

    def _result(
        self,
        messages: list[SignedMessage] | None = None,
        events: Sequence[tuple[str, Mapping[str, object]]] = (),
        losses: dict[int, float] | None = None,
        signatures: dict[int, bytes] | None = None,
    ) -> PhaseResult:
        seconds, (_, _, units) = self._bench.progress.take_seconds(), self._bench.progress.now
        self._bench.progress.begin("", 0)
        happened = (*events, *self._hosting.take_events())
        return PhaseResult(tuple(messages or ()), seconds, happened, losses or {}, signatures or {}, units)
