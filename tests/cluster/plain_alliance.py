"""An alliance in one process without Ray: plain nodes and a plain committee, driven as `Alliance` drives its actors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from flock_ray.chain.eip712 import message_digest
from flock_ray.chain.keys import Signer, run_signer
from flock_ray.cluster.attestation import Attestation
from flock_ray.cluster.coordinator import Bulletin, Coordinator
from flock_ray.cluster.launch import chain_terms, group_specs, task_terms, terms_of
from flock_ray.cluster.ledger import NoLedger
from flock_ray.cluster.member import Member
from flock_ray.cluster.placement import make_plan
from flock_ray.cluster.spec import GroupInfo, GroupSpec, PhaseResult
from flock_ray.cluster.worker import Worker
from flock_ray.config import (
    AllianceConfig,
    ChainBackend,
    ChainConfig,
    ClusterConfig,
    Config,
    DataConfig,
    LoraConfig,
    ModelConfig,
    TrainingConfig,
)
from flock_ray.protocol.message import Kind, Message, SignedMessage
from flock_ray.protocol.record import Record
from flock_ray.protocol.state import TaskState

PHASES = {
    "train": Kind.COMMITMENT,
    "acknowledge": Kind.ACKNOWLEDGEMENT,
    "publish": Kind.MANIFEST,
    "commit_ballots_a": Kind.BALLOT_A_COMMITMENT,
    "reveal_ballots_a": Kind.BALLOT_A,
    "commit_ballots_b": Kind.BALLOT_B_COMMITMENT,
    "reveal_ballots_b": Kind.BALLOT_B,
}

Intercept = Callable[[str, list[SignedMessage]], list[SignedMessage]]


def tiny_config(model: Path) -> Config:
    """Seven members on two nodes, four of them voters, and an update that is plainly better than none."""
    return Config(
        seed=7,
        model=ModelConfig(source="folder", path=str(model), dtype="float32"),
        data=DataConfig(
            packages=["json", "html", "wsgiref", "dbm", "urllib", "logging", "concurrent"],
            sequence_length=32,
            heldout_tokens=256,
        ),
        lora=LoraConfig(rank=4, alpha=32),
        training=TrainingConfig(steps=5, batch_size=2, learning_rate=1e-2),
        alliance=AllianceConfig(
            num_members=7,
            num_voters=4,
            num_proposers=3,
            num_epochs=2,
            band_floor=10,
            band_z=0.1,
        ),
        chain=ChainConfig(backend=ChainBackend.none),
        cluster=ClusterConfig(nodes=2),
    )


def load_node(spec: GroupSpec, worker: type[Worker] = Worker) -> tuple[Worker, GroupInfo]:
    """A node as a fresh process has it."""
    node = worker(spec, 0)
    return node, node.load("localhost", 0, 1)


class PlainAlliance:
    """The nodes stay loaded; every `found` begins another task with them."""

    def __init__(self, folder: Path, config: Config, worker: type[Worker] = Worker) -> None:
        self.config = config
        self.specs = group_specs(config, make_plan(config), folder, str(folder / "store"))
        loaded = [load_node(spec, worker) for spec in self.specs]
        self.nodes = [node for node, _ in loaded]
        self.reports = [report for _, report in loaded]
        self.hosted = {member.number: member for report in self.reports for member in report.members}
        self.tasks = 0

    def run(self, method: str, *args: Any) -> Iterator[tuple[int, Any]]:
        """Every node's answer, as `NodeGroups.run` gives it."""
        for index, node in enumerate(self.nodes):
            yield index, getattr(node, method)(*args)

    def found(self, seed: int = 0, mechanism: str = "marginal") -> Play:
        """Begin a task of its own: the members and their data stay, roles and task id are those of another seed."""
        self.tasks += 1
        rule = replace(self.config.mechanism, name=mechanism)
        config = replace(self.config, seed=seed or self.tasks, mechanism=rule)
        for node in self.nodes:
            terms = terms_of(config)
            node._spec = replace(node._spec, terms=terms, chain_terms=chain_terms(config, terms))
        ledger = NoLedger(config, {number: one.address for number, one in sorted(self.hosted.items())})
        state = ledger.create_task(task_terms(config, ledger.creator, self.reports), self)  # type: ignore[arg-type]
        return Play(self, ledger, state)

    def node_of(self, member: int) -> int:
        """Number of the node that hosts a member."""
        return next(index for index, spec in enumerate(self.specs) if member in spec.members)

    def member(self, number: int) -> Member:
        """A member as its node holds it."""
        return self.nodes[self.node_of(number)]._hosting.members[number]

    def signer(self, number: int) -> Signer:
        """A member's key, for messages that its honest process would not sign."""
        return run_signer(self.config.seed, f"member-{number}")


class Play:
    """One task with its committee, epoch by epoch."""

    def __init__(self, alliance: PlainAlliance, ledger: NoLedger, state: TaskState) -> None:
        self.alliance, self.ledger, self.state = alliance, ledger, state
        self.first_roles, self.first_members, self.first_adapter = state.roles, state.members, state.adapter
        self.domain, self.relayer = ledger.domain, ledger.relayer
        self.coordinator = Coordinator()
        self.coordinator.begin(state, self.domain, self.relayer)
        self.first_losses: dict[int, float] = {}
        for _, result in alliance.run("begin", state, self.domain, self.relayer):
            self.first_losses |= result.losses
        self.dropped: list[str] = []
        self.bulletins: dict[str, Bulletin] = {}
        self.results: dict[str, list[PhaseResult]] = {}

    def arguments(self, phase: str) -> tuple[Bulletin, ...]:
        """What a phase is asked with: those that react to others get the bulletin before them."""
        if phase in ("train", "publish"):
            return ()
        before = list(PHASES)[list(PHASES).index(phase) - 1]
        return (self.bulletins[before],)

    def exchange(self, phase: str, intercept: Intercept = lambda phase, messages: messages) -> Bulletin:
        """One phase on all nodes; `intercept` may change the messages on their way to the committee."""
        self.results[phase] = [result for _, result in self.alliance.run(phase, *self.arguments(phase))]
        sent = [message for result in self.results[phase] for message in result.messages]
        self.dropped += self.coordinator.collect(intercept(phase, sent), PHASES[phase])
        self.bulletins[phase] = self.coordinator.bulletin()
        return self.bulletins[phase]

    def until_signing(self, intercept: Intercept = lambda phase, messages: messages) -> tuple[Record, Bulletin]:
        """All messages of an epoch: the record that the committee proposes, and its bulletin."""
        for phase in PHASES:
            self.exchange(phase, intercept)
        return self.coordinator.tally()

    def signatures(self, record: Record, bulletin: Bulletin) -> dict[int, bytes]:
        """Who signs a proposed record; why the others refuse is in `results`."""
        self.results["sign"] = [result for _, result in self.alliance.run("sign", record.data, bulletin)]
        return {voter: one for result in self.results["sign"] for voter, one in result.signatures.items()}

    def refusals(self) -> dict[int, str]:
        """{voter: why it did not sign} of the last signing."""
        events = [event for result in self.results["sign"] for event in result.events]
        return {int(str(fields["member"])): str(fields["why"]) for kind, fields in events if kind == "refused_to_sign"}

    def attest(self, record: Record, bulletin: Bulletin) -> Attestation:
        """Sign, and move committee and nodes on to the next epoch."""
        attestation, following = self.coordinator.attest(record, self.signatures(record, bulletin))
        self.results["advance"] = [result for _, result in self.alliance.run("advance", attestation, bulletin)]
        self.state = following
        return attestation

    def epoch(self, intercept: Intercept = lambda phase, messages: messages) -> Record:
        """One whole epoch."""
        record, bulletin = self.until_signing(intercept)
        self.attest(record, bulletin)
        return record

    def losses(self) -> dict[int, float]:
        """Held-out losses under the adapter that the last epoch ended with."""
        return {member: loss for result in self.results["advance"] for member, loss in result.losses.items()}

    def sign(self, message: Message, signer: Signer) -> SignedMessage:
        """A message signed by any key, past the journal."""
        digest = message_digest(self.domain, message.task, message.epoch, self.state.seed, message.kind, message.digest)
        return SignedMessage(message.data, signer.sign_digest(digest))
