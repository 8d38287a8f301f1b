"""An alliance in one process without Ray: the real epoch loop over plain workers and a plain coordinator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from flock_ray.alliance import Alliance
from flock_ray.chain.eip712 import message_digest
from flock_ray.chain.keys import Signer, run_signer
from flock_ray.cluster.attestation import Attestation, Bulletin
from flock_ray.cluster.coordinator import Coordinator
from flock_ray.cluster.in_process import InProcessNodes, MemoryJournal
from flock_ray.cluster.launch import chain_terms, group_specs, terms_of
from flock_ray.cluster.ledger import NoLedger
from flock_ray.cluster.member import Member
from flock_ray.cluster.observer import Observer
from flock_ray.cluster.placement import make_plan
from flock_ray.cluster.running_task import RunningTask
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
from flock_ray.in_process import InProcessAlliance
from flock_ray.protocol.message import Kind, Message, SignedMessage
from flock_ray.protocol.record import Record

PHASES = {
    "train": Kind.COMMITMENT,
    "acknowledge": Kind.ACKNOWLEDGEMENT,
    "publish": Kind.MANIFEST,
    "commit_ballots_a": Kind.BALLOT_A_COMMITMENT,
    "reveal_ballots_a": Kind.BALLOT_A,
    "commit_ballots_b": Kind.BALLOT_B_COMMITMENT,
    "reveal_ballots_b": Kind.BALLOT_B,
}

PHASE_OF = {kind: phase for phase, kind in PHASES.items()}

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


class Intercepted(Coordinator):
    """A coordinator that takes the messages of all nodes at once, after `intercept` changed them on their way.

    Attributes:
        dropped: why messages were dropped.
        bulletins: the bulletin after each phase.
    """

    def __init__(self) -> None:
        super().__init__()
        self.intercept: Intercept = lambda phase, messages: messages
        self.dropped: list[str] = []
        self.bulletins: dict[str, Bulletin] = {}
        self._arrived: list[SignedMessage] = []

    def collect(self, messages: Sequence[SignedMessage], kind: Kind) -> list[str]:
        self._arrived += messages
        self._kind = kind
        return []

    def bulletin(self) -> Bulletin:
        phase, arrived = PHASE_OF[self._kind], self._arrived
        self._arrived = []
        self.dropped += super().collect(self.intercept(phase, arrived), self._kind)
        self.bulletins[phase] = super().bulletin()
        return self.bulletins[phase]


class PlainAlliance(InProcessAlliance):
    """The nodes stay loaded; every `found` begins another task with them. Members sign, and all goes to the disk."""

    def __init__(self, folder: Path, config: Config, worker: type[Worker] = Worker) -> None:
        super().__init__(group_specs(config, make_plan(config), folder, str(folder / "store")), worker)
        self.config = config
        self.opened = {facts.silo: facts for report in self.reports for facts in report.opened}
        self.tasks = 0

    def found(self, seed: int = 0, mechanism: str = "marginal1") -> Play:
        """Begin a task of its own: the members and their data stay, roles and task id are those of another seed."""
        self.tasks += 1
        rule = replace(self.config.mechanism, name=mechanism)
        config = replace(self.config, seed=seed or self.tasks, mechanism=rule)
        for node in self.nodes:
            terms = terms_of(config)
            node._spec = replace(node._spec, terms=terms, chain_terms=chain_terms(config, terms))
        return Play(self, *self.create_task(config))

    def node_of(self, member: int) -> int:
        """Number of the node that hosts a member."""
        return next(index for index, spec in enumerate(self.specs) if member in spec.silos)

    def member(self, number: int) -> Member:
        """A member as its node holds it."""
        return self.nodes[self.node_of(number)]._hosting.members[number]

    def signer(self, number: int) -> Signer:
        """A member's key, for messages that its honest process would not sign."""
        return run_signer(self.config.seed, f"member-{number}")


class Play:
    """One task on the real epoch loop, in this process and step by step; members have the numbers of their silos."""

    def __init__(self, alliance: PlainAlliance, ledger: NoLedger, task: RunningTask) -> None:
        self.alliance, self.ledger, self.state = alliance, ledger, task.state
        state = task.state
        self.first_roles, self.first_members, self.first_adapter = state.roles, state.members, state.adapter
        self.domain, self.relayer = ledger.domain, ledger.relayer
        self.nodes, self.coordinator, self.journal = InProcessNodes(alliance.nodes), Intercepted(), MemoryJournal()
        self.loop = Alliance(
            self.nodes, lambda: self.coordinator, ledger, self.journal, Observer(), alliance.config.alliance,
            alliance.owners,
        )  # fmt: skip
        self.loop.begin(self.task)
        self.first_losses = {member: loss for result in self.results["begin"] for member, loss in result.losses.items()}

    @property
    def task(self) -> RunningTask:
        """The task at the running epoch."""
        return RunningTask(self.state, self.domain, self.relayer, {number: number for number in self.alliance.accounts})

    @property
    def results(self) -> dict[str, list[PhaseResult]]:
        """Every node's answer to each phase, the last time."""
        return self.nodes.results

    @property
    def bulletins(self) -> dict[str, Bulletin]:
        """The bulletin after each phase."""
        return self.coordinator.bulletins

    @property
    def dropped(self) -> list[str]:
        """Why the coordinator dropped messages."""
        return self.coordinator.dropped

    def arguments(self, phase: str) -> tuple[Bulletin, ...]:
        """What a phase is asked with: those that react to others get the bulletin before them."""
        if phase in ("train", "publish"):
            return ()
        return (self.bulletins[list(PHASES)[list(PHASES).index(phase) - 1]],)

    def exchange(self, phase: str, intercept: Intercept = lambda phase, messages: messages) -> Bulletin:
        """One phase on all nodes; `intercept` may change the messages on their way to the coordinator."""
        self.coordinator.intercept, self.loop._seconds = intercept, {}
        return self.loop.exchange(phase, PHASES[phase], getattr(self.nodes, phase)(*self.arguments(phase)))

    def until_signing(self, intercept: Intercept = lambda phase, messages: messages) -> tuple[Record, Bulletin]:
        """All messages of an epoch: the record that the coordinator proposes, and its bulletin."""
        self.coordinator.intercept = intercept
        return self.loop.propose(self.task)

    def signatures(self, record: Record, bulletin: Bulletin) -> dict[int, bytes]:
        """Who signs a proposed record; why the others refuse is in `results`."""
        answers = [result for _, result in self.nodes.sign(record.data, bulletin)]
        return {voter: one for result in answers for voter, one in result.signatures.items()}

    def refusals(self) -> dict[int, str]:
        """{voter: why it did not sign} of the last signing."""
        events = [event for result in self.results["sign"] for event in result.events]
        return {int(str(fields["member"])): str(fields["why"]) for kind, fields in events if kind == "refused_to_sign"}

    def attest(self, record: Record, bulletin: Bulletin) -> Attestation:
        """Sign, and move coordinator and nodes on to the next epoch."""
        attestation, following = self.coordinator.attest(record, self.signatures(record, bulletin))
        for _ in self.nodes.advance(attestation, bulletin):
            pass
        self.state = following
        return attestation

    def epoch(self, intercept: Intercept = lambda phase, messages: messages) -> Record:
        """One whole epoch of the loop."""
        self.coordinator.intercept = intercept
        self.state = self.loop.epoch(self.task).state
        return self.journal.records[-1]

    def losses(self) -> dict[int, float]:
        """Held-out losses under the adapter that the last epoch ended with."""
        return {member: loss for result in self.results["advance"] for member, loss in result.losses.items()}

    def sign(self, message: Message, signer: Signer) -> SignedMessage:
        """A message signed by any key, past the slashing protection."""
        digest = message_digest(self.domain, message.task, message.epoch, self.state.seed, message.kind, message.digest)
        return SignedMessage(message.data, signer.sign_digest(digest))
