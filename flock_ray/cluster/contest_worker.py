"""A worker of a contest: hosts validators and training nodes and plays the phases of a day for them.

As in the alliance every phase is a pure function of the day's state and the bulletin, so it may be asked again.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence

from flock_ray.adversary.behaviour import Behaviour
from flock_ray.adversary.contest import ContestBehaviour, ContestContext, get_contest_behaviour
from flock_ray.chain.eip712 import report_hash
from flock_ray.chain.transactions import enter
from flock_ray.chain.values import TaskTerms, TxContext
from flock_ray.cluster.attestation import Attestation, Bulletin, ContestVerifier, report_of
from flock_ray.cluster.contest_bench import ContestBench
from flock_ray.cluster.contest_spec import ContestInfo, ContestSpec, contest_terms
from flock_ray.cluster.hosted_members import ANOTHER_UPDATE, HostedMembers
from flock_ray.cluster.member import Member
from flock_ray.cluster.progress import Progress
from flock_ray.cluster.rules import ContestRules
from flock_ray.cluster.running_task import RunningTask
from flock_ray.cluster.signing_worker import SigningWorker
from flock_ray.cluster.spec import PhaseResult, SiloFacts
from flock_ray.lora.serialization import canonical_bytes
from flock_ray.protocol.contest import rungs_until
from flock_ray.protocol.contest_entries import reveal, shuffled
from flock_ray.protocol.contest_message import ContestKind, ContestMessage
from flock_ray.protocol.contest_race import Column, Rung, contenders_digest, disputed, run_rung, rung_commitment
from flock_ray.protocol.contest_state import ContestState, ContestTerms
from flock_ray.protocol.encoding import to_hex
from flock_ray.protocol.hashing import ZERO
from flock_ray.protocol.state import Terms
from flock_ray.store.batch import Batch
from flock_ray.store.blob_store import BlobStore
from flock_ray.training.model import ModelHashes
from flock_ray.verify.contest_opinion import contest_disagreement


class ContestWorker(SigningWorker):
    """One worker of a node group: the plain class that a Ray actor wraps."""

    _spec: ContestSpec
    _bench: ContestBench

    # -- outside of days -----------------------------------------------------------------------------------------------

    @property
    def _progress(self) -> Progress:
        if not hasattr(self, "_shown"):
            self._shown = Progress("load")
        return self._shown

    @property
    def _hashes(self) -> ModelHashes:
        return self._bench.base.hashes

    def _behaviour(self, silo: int) -> Behaviour:
        """Messages leave as they are: what a contest's members change, they change before."""
        return Behaviour(self._spec.adversary_scale)

    def _acts(self, number: int) -> ContestBehaviour:
        """How a member behaves."""
        spec = self._spec
        return get_contest_behaviour(spec.behaviours.get(number, "none"))(spec.adversary_scale)

    def _opened(self) -> tuple[SiloFacts, ...]:
        return ()

    def _agreed(self, creator: str) -> Terms:
        bench, terms = self._bench, self._spec.terms
        assert isinstance(terms, ContestTerms)
        return contest_terms(terms, creator, bench.base.hashes, self._adapter, bench.data)

    def _joins(
        self, owner: Member, context: TxContext, task: bytes, terms: TaskTerms, agreed: Terms, expected: bytes
    ) -> list[bytes]:
        """Training nodes enter; validators join."""
        if owner.silo < self._spec.num_validators:
            return super()._joins(owner, context, task, terms, agreed, expected)
        return enter(owner.signer, context, task, agreed.node_stake, expected)

    def load(self, host: str, port: int, world: int) -> ContestInfo:
        """Load base model and rows, read adapters on disk, open the members' keys.

        Raises:
            DataError, ModelError, AdapterError, KeyMissingError: what the user can repair.
        """
        spec = self._spec
        self._hosting = HostedMembers(BlobStore(spec.store_url), self._open_owner, ContestMessage)
        self._host_members(spec.hosts)
        self._bench = bench = ContestBench(spec, self._progress)
        self._adapter = bench.nothing()
        gc.freeze()
        base, accounts = bench.base, {one: owner.signer.address for one, owner in self._hosting.owners.items()}
        return ContestInfo(
            accounts, base.name, base.hashes, str(base.dtype).removeprefix("torch."), base.num_parameters,
            self._adapter, str(base.folder.resolve()), bench.targets, bench.data, bench.num_training,
        )  # fmt: skip

    def begin(self, task: RunningTask) -> PhaseResult:
        """Take up a contest at the start of a day."""
        self._take_up(task, ContestVerifier(task.domain))
        return self._result()

    # -- the phases of a day -------------------------------------------------------------------------------------------

    def submit(self) -> PhaseResult:
        """The hosted training nodes commit to their adapters."""
        state = self._day
        payloads = {number: self._payload(number) for number in self._nodes()}
        with self._hosting.signing(state) as signing:
            for number, payload in payloads.items():
                if member := self._hosting.active(number):
                    digest = member.keep(payload, signing.files)
                    signing.add(member, ContestKind.COMMITMENT, self._commitment(member, digest))
        return self._result(self._sign(signing))

    def acknowledge(self, bulletin: Bulletin) -> PhaseResult:
        """The day's committee lists the commitments that it holds."""
        held = sorted(one.digest for one in self._inbox(bulletin).messages if one.kind is ContestKind.COMMITMENT)
        with self._hosting.signing(self._day) as signing:
            for voter in self._voters():
                signing.add(voter, ContestKind.ACKNOWLEDGEMENT, {"commitments": [to_hex(digest) for digest in held]})
        return self._result(self._sign(signing))

    def publish(self) -> PhaseResult:
        """The hosted training nodes put their payloads into the store and open their commitments."""
        state, store = self._day, self._bench.store
        payloads = {number: self._payload(number) for number in self._nodes()}
        kept: dict[int, bytes] = {}
        with Batch() as batch:  # again, where the folder that had them is gone
            for number, payload in payloads.items():
                if member := self._hosting.active(number):
                    kept[number] = member.keep(payload, batch)
        with self._hosting.signing(state) as signing:
            for number, digest in kept.items():
                if not (member := self._hosting.active(number)):
                    continue
                body = self._commitment(member, digest)
                sent = ContestMessage(ContestKind.COMMITMENT, state.scope.task, state.epoch, number, body)
                if member.signed(state).get(ContestKind.COMMITMENT) != sent.digest:
                    self._hosting.sit_out(state, number, ANOTHER_UPDATE)
                    continue
                with self._progress.timed("transfer"):
                    store.put_file(digest, member.kept(digest), signing.files)
                signing.add(
                    member,
                    ContestKind.MANIFEST,
                    {
                        "base_model": to_hex(state.terms.base_model),
                        "payload": to_hex(digest),
                        "salt": to_hex(member.salt(state, "payload")),
                    },
                )
        return self._result(self._sign(signing))

    def gate(self, bulletin: Bulletin) -> PhaseResult:
        """The day's committee checks every payload before anything of it is loaded, and names what it copies."""
        voters = self._voters()
        if not voters:
            return self._result()
        state = self._day
        entries, shuffle = reveal(state, self._inbox(bulletin))
        revealed = {entry.payload for entry in entries if entry.running and entry.payload}
        payloads = sorted(revealed, key=lambda payload: shuffled(shuffle, payload))
        self._progress.begin("gate", len(payloads))
        originals = self._bench.originals(state, shuffle, payloads)
        findings = []
        for payload in sorted(payloads):
            finding, original = self._bench.inspected(payload)[0], originals.get(payload)
            findings.append([to_hex(payload), str(finding), to_hex(original) if original else None])
        with self._hosting.signing(state) as signing:
            for voter in voters:
                signing.add(voter, ContestKind.GATE, {"findings": findings})
        return self._result(self._sign(signing))

    def commit_ballots(self, bulletin: Bulletin, name: str) -> PhaseResult:
        """Measure a rung's contenders; its hosted validators commit to their ballots."""
        state = self._day
        earlier, rung = rungs_until(state, self._inbox(bulletin), name)
        validators = self._hosted(rung.committee(state).voters) if rung else []
        if rung is None or not validators:
            return self._result()
        columns = self._bench.columns(state, earlier, rung)
        with self._hosting.signing(state) as signing:
            for number in validators:
                if member := self._hosting.active(number):
                    said = list(self._acts(number).ballot(self._context(number), rung, columns))
                    commitment, body = self._ballot(member, rung, said)
                    signing.add(member, rung.kind("commitment"), {"commitment": to_hex(commitment)}, body)
        return self._result(self._sign(signing))

    def reveal_ballots(self, bulletin: Bulletin, name: str) -> PhaseResult:
        """The hosted validators of a rung reveal their ballots."""
        state = self._day
        _, rung = rungs_until(state, self._inbox(bulletin), name)
        committed, ballot = ContestKind(f"{name}_commitment"), ContestKind(f"{name}_ballot")
        return self._reveal(committed, ballot, bulletin, rung.committee(state).voters if rung else ())

    def audit(self, bulletin: Bulletin, name: str) -> PhaseResult:
        """The day's committee scores again what is disputed on the rows that the audit opens."""
        state, voters = self._day, self._voters()
        inbox = self._inbox(bulletin)
        earlier, rung = rungs_until(state, inbox, name)
        if rung is None or not voters:
            return self._result()
        shuffle = (earlier[0].rung if earlier else rung).seed
        cells = disputed(state, run_rung(state, inbox, rung, {}))
        again = self._bench.again(state.epoch, shuffle, rung, cells)
        with self._hosting.signing(state) as signing:
            for voter in voters if again else ():
                signing.add(voter, rung.kind("rescore"), {"cells": [list(cell) for cell in again]})
        return self._result(self._sign(signing))

    def sign(self, proposed: bytes, bulletin: Bulletin) -> PhaseResult:
        """The day's committee signs only what it derives itself, twice: here and with the independent `verify`."""
        inbox = self._inbox(bulletin)
        if not self._voters():
            return self._result()
        own = self._rules.derive(self._day, inbox)
        report = report_of(own, self._domain, self._relayer)
        if self._late_commitment(inbox):
            refusal = "a ballot was committed to after others were revealed"
        elif own.data != proposed:
            refusal = "the proposed record is not what the signed messages give"
        else:
            refusal = contest_disagreement(
                self._day, bulletin, self._relayer, self._domain.distributor, own.data, report_hash(report)
            )
        return self._sign_report(own, report, inbox, refusal)

    def advance(self, attestation: Attestation, bulletin: Bulletin) -> PhaseResult:
        """Check the attested record, and move on to the next day.

        Raises:
            ProtocolError: the record is not what the messages give, or lacks a quorum of signatures.
        """
        record = self._rules.derive(self._day, self._inbox(bulletin))
        signed = self._require_attested(record, attestation)
        self._task = self._task.at(self._rules.advance(self._day, record, signed))
        self._verifier.forget()
        self._commitments.clear()
        self._bench.end_day()
        self._hosting.open_epoch(self._state, anew=False)
        return self._result()

    # -- what the phases share -----------------------------------------------------------------------------------------

    @property
    def _rules(self) -> ContestRules:
        data = self._bench.data
        return ContestRules(
            tuple(tuple(one.row for one in chunk) for chunk in data.chunks), tuple(one.row for one in data.final)
        )

    @property
    def _day(self) -> ContestState:
        state = self._state
        assert isinstance(state, ContestState)
        return state

    def _nodes(self) -> list[int]:
        """Training nodes that are hosted here."""
        return self._hosted(number for number, member in enumerate(self._day.members) if not member.slots)

    def _context(self, number: int) -> ContestContext:
        state = self._day
        leader = self._bench.inspected(state.adapter)[1] if state.earlier else None
        return ContestContext(state, number, leader)

    def _payload(self, number: int) -> bytes:
        """The bytes that a training node submits on this day."""
        own = self._bench.own_adapter(number, self._day.epoch)
        return canonical_bytes(self._acts(number).submission(self._context(number), own))

    def _commitment(self, member: Member, payload: bytes) -> dict[str, str]:
        state = self._day
        salt = member.salt(state, "payload")
        return {"commitment": to_hex(state.scope.payload_commitment(state.epoch, member.number, payload, salt))}

    def _ballot(self, member: Member, rung: Rung, columns: Sequence[Column]) -> tuple[bytes, Mapping[str, object]]:
        """What a validator commits to, and what opens it."""
        state, task = self._day, self._day.scope.task
        preimage = member.hash_chain(task).preimage(state.epoch) if rung.reveals else ZERO
        salt = member.salt(state, rung.name)
        body = {
            "contenders": to_hex(contenders_digest(rung.contenders)),
            "columns": [None if column is None else list(column) for column in columns],
            "salt": to_hex(salt),
            "reveal": to_hex(preimage) if rung.reveals else None,
        }
        return rung_commitment(task, state.epoch, member.number, rung, columns, salt, preimage), body
